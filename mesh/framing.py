"""Several byte strings as one that can be read in one way only. No I/O here.

What is signed or hashed together must not be able to mean two things: without lengths, ("ab", "c") and ("a", "bc")
are the same bytes.
"""

from __future__ import annotations

_LENGTH_BYTES = 8


def framed(*parts: bytes | str | int) -> bytes:
    """Join parts, each after its length in bytes; texts are UTF-8, numbers 8 bytes, the highest first.

    The kinds are not told apart: a place that is a text for one caller must not be a number for another. Whoever
    signs or hashes puts a text first that says which caller it is.

    Raises:
        OverflowError: a number is negative or has more than 64 bits.
    """
    raws = [_raw(part) for part in parts]
    return b"".join(len(raw).to_bytes(_LENGTH_BYTES, "big") + raw for raw in raws)


def _raw(part: bytes | str | int) -> bytes:
    if isinstance(part, str):
        # Half a character can come in as a key; it must be refused for what it is not, and not crash here.
        return part.encode("utf-8", "surrogatepass")
    return part.to_bytes(8, "big") if isinstance(part, int) else part
