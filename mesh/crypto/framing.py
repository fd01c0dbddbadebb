"""Unambiguous encoding of several byte strings as one, for signing and hashing. No I/O here.

Without lengths ("ab", "c") and ("a", "bc") would be the same bytes, and one signature would hold for both.
"""

from __future__ import annotations

_LENGTH_BYTES = 8


def framed(*parts: bytes | str | int) -> bytes:
    """Join parts, each after its length in bytes; texts are UTF-8, numbers 8 bytes, big-endian.

    Types are not encoded: a part that is a text for one caller must not be a number for another. So every caller puts
    a text of its own first.

    Raises:
        OverflowError: a number is negative or has more than 64 bits.
    """
    raws = [_raw(part) for part in parts]
    return b"".join(len(raw).to_bytes(_LENGTH_BYTES, "big") + raw for raw in raws)


def _raw(part: bytes | str | int) -> bytes:
    if isinstance(part, str):
        # A key may hold a lone surrogate; the caller refuses it as a bad key, so it must not raise here.
        return part.encode("utf-8", "surrogatepass")
    return part.to_bytes(8, "big") if isinstance(part, int) else part
