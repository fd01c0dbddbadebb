"""The values of a verified state as one file's content, and back: each after its lengths, as it was signed. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

_HEAD = b"linkwire state 1\n"


def pack(values: Iterable[tuple[str, bytes]]) -> bytes:
    """What to write."""
    parts = [_HEAD]
    for key, value in values:
        name = key.encode()
        parts += (f"{len(name)} {len(value)}\n".encode(), name, value)
    return b"".join(parts)


def unpack(content: bytes) -> Iterator[tuple[str, bytes]]:
    """What was written. What it says proves itself, so what is damaged is only left out.

    Raises:
        ValueError: the file was damaged, or is of another version.
    """
    if not content.startswith(_HEAD):
        raise ValueError("of another version, or damaged")
    at = len(_HEAD)
    while at < len(content):
        end = content.index(b"\n", at)
        name, value = map(int, content[at:end].split())
        start = end + 1 + name
        if min(name, value) < 0 or start + value > len(content):
            raise ValueError("cut short")
        yield content[end + 1 : start].decode(), content[start : start + value]
        at = start + value
