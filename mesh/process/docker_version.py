"""Version of Docker's API to use with a daemon. No I/O here.

docker-py uses the daemon's newest version, which may be one that this program was never tried with. The docker
program uses the newest that both support; so does this. With a daemon that no longer supports the tried version
(Docker 29 supports none below 1.44) it uses that daemon's oldest.
"""

from __future__ import annotations

TRIED = "1.45"
"""The newest version that this program was tried with; the oldest is 1.41."""


def choose(newest: str, oldest: str = "") -> str:
    """Choose a version from a daemon's answer to `GET /version`.

    Args:
        newest: its `ApiVersion`.
        oldest: its `MinAPIVersion`; empty where it has none.

    Returns:
        TRIED, or the daemon's nearest version.
    """
    return min(newest, max(TRIED, oldest or TRIED, key=_numbers), key=_numbers)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())
