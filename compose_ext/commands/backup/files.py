"""Files of the user: keys that are read, and new files that are whole or not there."""

import os
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from compose_ext.diagnostics import DockerError, UsageError
from mesh.errors import Terminal

_MAX_KEY_FILE = 65_536
T = TypeVar("T")


def read_key(path: str, flag: str, read: Callable[[str], T]) -> T:
    """Read a key file. Raises UsageError, which quotes nothing of it."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MAX_KEY_FILE)
        return read(content.decode("ascii", "replace"))
    except OSError as error:
        raise UsageError(f"{flag} {path}: {error.strerror}") from None
    except Terminal as error:
        raise UsageError(f"{flag} {path}: {error}") from None


def taken(path: str, flag: str, *, replace: bool = False) -> str:
    """Explain why a new file cannot have this path, or with `replace` an old one; empty where it can."""
    place = Path(path)
    if place.is_dir():
        return f"{flag} {path}: it is a folder: name a file"
    if os.path.lexists(place) and not replace:
        return f"{flag} {path}: it is there already"
    return "" if place.parent.is_dir() else f"{flag} {path}: there is no folder {place.parent}"


def write_whole(path: str, flag: str, parts: Iterable[bytes], *, mode: int = 0o600, replace: bool = False) -> int:
    """Write a file under another name first, and give it its name when it is whole and on the disk.

    Args:
        path: of the file.
        flag: that names it, for errors.
        parts: its content; an error in it leaves nothing behind.
        mode: its permissions.
        replace: whether a file that is there gives way; else it is an error.

    Returns:
        Its bytes.

    Raises:
        UsageError: a file is there.
        DockerError: it cannot be written.
    """
    place, written = Path(path), 0
    try:
        descriptor, name = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                for part in parts:
                    written += file.write(part)
                file.flush()
                os.fchmod(descriptor, mode)
                os.fsync(descriptor)
            if replace:
                Path(name).replace(place)
            else:
                os.link(name, place)  # unlike a rename it fails where somebody made the file meanwhile
        finally:
            with suppress(FileNotFoundError):
                Path(name).unlink()
    except FileExistsError:
        raise UsageError(f"{flag} {path}: it is there already") from None
    except OSError as error:
        raise DockerError(f"cannot write {path}: {error.strerror}") from None
    return written
