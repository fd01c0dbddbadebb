"""Atomic and durable file writes: after a power cut a file has its new or its old content, whole.

Writing a file anew waits for the file system's journal, and so for what every other process of the node writes: an
image that is pulled holds that up for seconds. A value that is written often has a file of two slots instead, that
are overwritten in turns: only these blocks are waited for, and the other slot is whole whatever happens.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

SLOT = 4096
"""Bytes, of which no disk that is known changes fewer than these when it changes others."""
LEFT_S = 3600.0
"""Seconds; nobody writes one file for so long."""
_RANDOM = 8
"""Letters that tempfile.mkstemp adds."""
_HEAD = struct.Struct(">I32s")  # length and SHA-256 of the value

Number = Callable[[bytes], int]
"""Of a value; not negative, and the higher the newer."""


def write(path: Path, value: bytes, *, mode: int = 0o600, replace: bool = True) -> None:
    """Write a file, whole or not at all.

    Args:
        path: in a folder that is there.
        value: its content.
        mode: its permissions, whatever the umask.
        replace: whether a file that is there gives way; else that one stays, whoever made it meanwhile.

    Raises:
        OSError: nothing was written, or it is not known whether it outlives a power cut.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(value)
            file.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        if replace:
            Path(name).replace(path)
        else:
            with suppress(FileExistsError):
                path.hardlink_to(name)
    finally:
        Path(name).unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    except OSError as error:
        # Some file systems (9p, older CIFS) have no such call for a folder, fsync(2); the file is there all the same.
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(folder)


def drop_leftovers(folder: Path) -> None:
    """Remove, as far as that goes, what processes have left of files that they were killed over.

    Only what is so old that nobody can be at it still: of an agent's start-first update two run at once.
    """
    with suppress(OSError):
        for path in folder.glob(f".*.{'?' * _RANDOM}"):
            if time.time() - path.stat().st_mtime > LEFT_S:
                path.unlink(missing_ok=True)


def append(path: Path, size: int, value: bytes) -> bool:
    """Append to a file; False where it is not of that size. Raises OSError."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    with os.fdopen(descriptor, "wb") as file:
        if os.fstat(descriptor).st_size != size:
            return False
        file.write(value)
        file.flush()
        os.fsync(descriptor)
    return True


def write_newest(path: Path, value: bytes, number: Number) -> None:
    """Write the newest of some values, whole or not at all: until it is there, the one before it stays.

    Raises:
        OSError: it is not known whether it is there.
        ValueError: it is too long.
    """
    if len(value) > SLOT - _HEAD.size:
        raise ValueError(f"{len(value)} bytes do not fit into a slot")
    slot = (_HEAD.pack(len(value), hashlib.sha256(value).digest()) + value).ljust(SLOT, b"\0")
    with suppress(OSError):  # whatever it is, a new file may do
        if _overwritten(path, slot, number):
            return
    write(path, slot + bytes(SLOT))


def read_newest(path: Path, number: Number) -> bytes:
    """Read the newest of the values that were written; or all of a file that was not written so.

    Raises:
        OSError: it cannot be read.
        ValueError: both slots are damaged.
    """
    content = path.read_bytes()
    if len(content) != 2 * SLOT:
        return content
    values = [value for value in _values(content) if value is not None]
    if not values:
        raise ValueError("neither of its values is whole")
    return max(values, key=number)


def _overwritten(path: Path, slot: bytes, number: Number) -> bool:
    """Overwrite the older one; False where the file is none of ours."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        content = os.pread(descriptor, 2 * SLOT + 1, 0)
        numbers = [-1 if value is None else number(value) for value in _values(content)]
        if len(content) != 2 * SLOT:
            return False
        written = os.pwrite(descriptor, slot, SLOT * numbers.index(min(numbers)))
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
    return written == SLOT


def _values(content: bytes) -> Sequence[bytes | None]:
    """Return the value of either slot, None where that is not whole."""
    return [_value(content[:SLOT]), _value(content[SLOT : 2 * SLOT])]


def _value(slot: bytes) -> bytes | None:
    if len(slot) < SLOT:
        return None
    length, digest = _HEAD.unpack_from(slot)
    value = slot[_HEAD.size : _HEAD.size + length]
    return value if len(value) == length and hashlib.sha256(value).digest() == digest else None
