"""Decompression of what others have written: a few bytes may stand for gigabytes (zlib, RFC 1950). Pure."""

from __future__ import annotations

import zlib


def decompressed(packed: bytes, most: int) -> bytes:
    """Return what was compressed, which may have so many bytes.

    Raises:
        ValueError: it is damaged, cut off or followed by something, or it has more.
    """
    opened = zlib.decompressobj()
    try:
        plain = opened.decompress(packed, most)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not opened.eof or opened.unused_data:
        raise ValueError(f"it is not whole, or has more than {most} bytes")
    return plain
