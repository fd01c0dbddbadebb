"""The block of names in a container's hosts file.

The file is a bind mount in the container, and Docker rewrites it too: it is written in place, never renamed over, and
nothing in it but our own lines is touched. Every line of ours says that it is, so a block that somebody cut in half
is still found whole. The block comes first, because a file's last line may lack its newline and because the first
match of a name wins. Names are parted by spaces: when Docker drops a name of its own it deletes every line that ends
in a tab and that name (libnetwork, etchosts.Delete).
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import contextmanager
from ipaddress import ip_address
from typing import TYPE_CHECKING

from agent.errors import HostsFileMissing
from mesh.errors import Retryable, Terminal
from mesh.wgtypes import HostEntry

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

BEGIN = "# linkwire begin"
END = "# linkwire end"
_MARK = " # linkwire"
_NAME = re.compile(r"[^\s#\x00-\x1f\x7f]+", re.ASCII)
_MAX_BYTES = 1 << 20
"""The file belongs to the container, which may have put anything into it."""


def render(entries: Iterable[HostEntry]) -> str:
    """The block as text; empty when there is nothing to say. Raises Terminal for a name that no line can hold."""
    lines = []
    for entry in entries:
        for name in entry.names:
            if not _NAME.fullmatch(name):
                raise Terminal(f"{name!r} cannot be a name in a hosts file")
        if entry.names:
            lines.append(" ".join((str(entry.address), *entry.names)) + _MARK)
    return "\n".join((BEGIN, *lines, END, "")) if lines else ""


def merge(content: bytes, entries: Iterable[HostEntry]) -> bytes:
    """A hosts file's content with our block made to hold the entries; all other lines byte for byte as they were."""
    return render(entries).encode() + b"".join(line for line in _lines(content) if not _is_ours(line))


def parse(content: bytes) -> tuple[HostEntry, ...] | None:
    """The entries of our block, None when there is none; nothing at all when it is not as `render` makes it."""
    ours = [line for line in _lines(content) if _is_ours(line)]
    if not ours:
        return None
    try:
        entries = tuple(_entry(line) for line in ours[1:-1])
        return entries if render(entries).encode() == b"".join(ours) else ()
    except (ValueError, Terminal):
        return ()


def read(path: str) -> tuple[HostEntry, ...] | None:
    """The entries of our block in a hosts file: see `parse`.

    Raises:
        HostsFileMissing: there is no such file.
        Retryable, Terminal: it cannot be read.
    """
    with _opened(path, os.O_RDONLY) as descriptor:
        return parse(_load(descriptor, path))


def write(path: str, entries: Iterable[HostEntry]) -> bool:
    """Make our block in a hosts file hold the entries; with none, there is no block. Written only when it differs.

    Returns:
        Whether it was written.

    Raises:
        HostsFileMissing: there is no such file.
        Retryable, Terminal: it cannot be read or written.
    """
    with _opened(path, os.O_RDWR) as descriptor:
        old = _load(descriptor, path)
        new = merge(old, entries)
        if new == old:
            return False
        # At every moment a reader, or whoever finds the file after a crash, sees whole lines: the old ones, or the
        # new ones and then blank lines up to the old length.
        padded = new.ljust(len(old), b"\n")
        if os.pwrite(descriptor, padded, 0) != len(padded):
            raise Retryable(f"{path} could be written in part only")
        os.ftruncate(descriptor, len(new))
        return True


def _lines(content: bytes) -> list[bytes]:
    """With their newlines. splitlines() would also split at bytes that are no line end in this file."""
    return re.findall(rb"[^\n]*\n|[^\n]+", content)


def _is_ours(line: bytes) -> bool:
    text = line.removesuffix(b"\n")
    return text in (BEGIN.encode(), END.encode()) or text.endswith(_MARK.encode())


def _entry(line: bytes) -> HostEntry:
    address, *names = line.decode().rstrip("\n").removesuffix(_MARK).split(" ")
    return HostEntry(ip_address(address), tuple(names))


@contextmanager
def _opened(path: str, mode: int) -> Iterator[int]:
    try:
        # A container may have put something else in its place: follow no link, wait for no pipe.
        descriptor = os.open(path, mode | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise HostsFileMissing(f"there is no hosts file {path}") from error
    except OSError as error:
        raise Terminal(f"cannot open the hosts file {path}: {error.strerror}") from error
    try:
        yield descriptor
    except OSError as error:
        raise Retryable(f"cannot read or write the hosts file {path}: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _load(descriptor: int, path: str) -> bytes:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise Terminal(f"the hosts file {path} is not a regular file")
    content = os.pread(descriptor, _MAX_BYTES + 1, 0)
    if len(content) > _MAX_BYTES:
        raise Terminal(f"the hosts file {path} is larger than {_MAX_BYTES} bytes")
    return content
