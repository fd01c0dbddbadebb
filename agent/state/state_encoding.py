"""State file format: the signed values of a verified state, each after its lengths. Pure.

The file is parts, one after the other: all of a state, and then what changed since, as often as that is written. A
part counts whole or not at all, so what a power cut leaves of the last one changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b

_HEAD = b"linkwire state 2\n"
_MAX_DIGITS = 12  # of a part's length; Python itself refuses to read 4,301
_DIGEST_BYTES = 16
"""Of a digest that shows damage by the disk. Changes by somebody are shown by the signatures in a part."""


def pack(values: Iterable[tuple[str, bytes]]) -> bytes:
    """Encode all of a state; no value is empty."""
    return _HEAD + addition(values)


def addition(values: Iterable[tuple[str, bytes]]) -> bytes:
    """Encode an addition for the keys that changed; an empty value removes its key."""
    parts: list[bytes] = []
    for key, value in values:
        name = key.encode()
        parts += (f"{len(name)} {len(value)}\n".encode(), name, value)
    body = b"".join(parts)
    return f"{len(body)} {_digest(body)}\n".encode() + body


def unpack(content: bytes) -> Iterable[tuple[str, bytes]]:
    """Decode the values that were written last. They prove themselves.

    Raises:
        ValueError: the file was damaged, or is of another version.
    """
    if not content.startswith(_HEAD):
        raise ValueError("of another version, or damaged")
    bodies = list(_bodies(content))
    if not bodies:
        raise ValueError("cut short, or damaged")
    values = {key: value for body in bodies for key, value in _values(body)}
    return [(key, value) for key, value in values.items() if value]


def _bodies(content: bytes) -> Iterator[bytes]:
    """Return the parts up to the first that is not whole."""
    at = len(_HEAD)
    while (start := content.find(b"\n", at) + 1) > 0:
        length, _, digest = content[at : start - 1].partition(b" ")
        if not length.isdigit() or len(length) > _MAX_DIGITS:
            return
        body = content[start : start + int(length)]
        if len(body) != int(length) or digest != _digest(body).encode():
            return
        yield body
        at = start + len(body)


def _values(body: bytes) -> Iterator[tuple[str, bytes]]:
    at = 0
    while at < len(body):
        end = body.index(b"\n", at)
        name, value = map(int, body[at:end].split())
        start = end + 1 + name
        if min(name, value) < 0 or start + value > len(body):
            raise ValueError("cut short")
        yield body[end + 1 : start].decode(), body[start : start + value]
        at = start + value


def _digest(body: bytes) -> str:
    return blake2b(body, digest_size=_DIGEST_BYTES).hexdigest()
