"""A file with a key of this node's: made once, whole or not at all, for root alone."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from mesh.errors import Terminal

_OTHERS = 0o077


def load_or_make(path: Path, make: Callable[[], bytes], what: str) -> bytes:
    """Read a key's file; on the first run make it.

    The file appears whole or not at all, so a crash between any two lines leaves either no key or a good one; and of
    two agents that start at once (start-first) both get the key of the first.

    Args:
        path: of the file; its folder is made where it is missing.
        make: what a new file holds.
        what: it is called in errors.

    Raises:
        Terminal: the folder cannot be written, the file cannot be read, or others than its owner may read it.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            write(path, make(), replace=False)
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            raw = file.read()
    except OSError as error:
        raise Terminal(f"{what} {path}: {error.strerror}") from error
    if mode & _OTHERS:
        raise Terminal(
            f"{what} {path} may be read by others (mode {mode:04o}): remove it, and the node gets a new one; "
            "or, if nobody has read it, `chmod 600`"
        )
    return raw


def write(path: Path, content: bytes, *, replace: bool) -> None:
    """Put a file of mode 0600 in its place, whole or not at all; without `replace` one that is there stays.

    Raises:
        OSError: it could not be written.
    """
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f"{path.name}.", delete=False) as file:  # mode 0600
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if replace:
                os.replace(file.name, path)  # noqa: PTH105 - beside os.link, which Path does not have this way round
            else:
                with contextlib.suppress(FileExistsError):
                    os.link(file.name, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(file.name)  # noqa: PTH108 - as above
