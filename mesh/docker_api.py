"""The version of Docker's API to speak to a daemon. No I/O here.

docker-py speaks the newest version that the daemon has, which may be one that nobody has tried this program with. The
docker program speaks the newest that both know; so does this, and what a daemon of later years no longer takes
(Docker 29 takes none below 1.44) is left for its oldest.
"""

from __future__ import annotations

TRIED = "1.45"
"""The newest version that this program was tried with; the oldest is 1.41."""


def choose(newest: str, oldest: str = "") -> str:
    """Choose from what a daemon says of itself at `GET /version`.

    Args:
        newest: its `ApiVersion`.
        oldest: its `MinAPIVersion`; empty where it does not say.

    Returns:
        TRIED, or the daemon's version that is nearest to it.
    """
    return min(newest, max(TRIED, oldest or TRIED, key=_numbers), key=_numbers)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())
