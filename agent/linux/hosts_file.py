"""Hosts file of a task's container: links' names, changed so that no reader misses one.

The file is a bind mount in the container, and Docker rewrites it too: it is written in place, never renamed over, and
nothing in it but our own lines is touched. Every line of ours ends in a mark. Our lines come first in the file,
because a resolver may take the first match of a name.

A resolver reads the file in pieces, musl's of 1 KiB and glibc's of 4 KiB, and the file may change between two of
them. So what is in the file never moves (`changes`):

- a line of ours lies within one piece of 1 KiB, and is changed in place by one write;
- a line that is not needed becomes a comment of the same length, by one byte; a comment becomes a line by one byte;
- a name that cannot be changed in place is written further down before it is taken away where it was;
- what does not fit into the comments that there are is appended;
- the block is first put in front of the other lines by copying these behind where it will end. Its first words say
  to people what it is.

Names are parted by spaces: when Docker drops a name of its own it deletes every line that ends in a tab and that name
(libnetwork, etchosts.Delete). It keeps comments and drops blank lines, so there are none of these.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from agent.errors import HostsFileMissingError
from mesh.errors import Retryable, Terminal
from mesh.topology.wgtypes import HostEntry

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mesh.model.net import IPAddress

PIECE = 1024
"""Bytes that the smallest reader takes at once (musl, name_from_hosts in src/network/lookup_name.c)."""
_MARK = b" # linkwire"
_NOTE = b"# linkwire: names of links, and empty lines as room for more, since none may move"
"""For people, once in a file: a comment that never becomes a line."""
_OLD_ENDS = (b"# linkwire begin", b"# linkwire end")
"""Around the block as earlier versions wrote it."""
_NAME = re.compile(r"[^\s#\x00-\x1f\x7f]+", re.ASCII)
_ADDRESS_BYTES = {4: len("255.255.255.255"), 6: len("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")}
_MAX_LINE = 480
"""musl's resolver takes lines of up to 511 bytes."""
_SPARE_BYTES = 96
"""Of a comment that can become a line: an IPv6 address, and a name of 44 letters."""
_LEAST_COMMENT = len(b"#" + _MARK + b"\n")
_MAX_BYTES = 1 << 20
"""The file belongs to the container, which may have put anything into it."""
_MAX_GATHERED = 1 << 16
"""Bytes of comments, roughly, with which the file is rewritten as a whole: a reader may then see it torn, once."""
_ATTEMPTS = 5

Change = tuple[int, bytes]
"""Where in the file, and what is written there."""


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of the file that is ours."""

    start: int
    text: bytes
    """With its newline, if it has one."""
    entry: HostEntry | None
    """None of a comment, and of what is no line as we write it."""

    @property
    def is_comment(self) -> bool:
        return self.text.startswith(b"#")

    @property
    def is_spare(self) -> bool:
        return self.is_comment and not self.text.startswith(_NOTE)

    def holds(self, text: bytes) -> bool:
        """Tell whether it can become this line, which ends in no mark yet, without a reader seeing a part of it."""
        whole = self.start // PIECE == (self.start + len(self.text) - 1) // PIECE and self.text.endswith(b"\n")
        return whole and len(text) + len(_MARK) < len(self.text)

    def with_text(self, text: bytes) -> bytes:
        """Return the line of the same length that says `text`."""
        return text.ljust(len(self.text) - len(_MARK) - 1) + _MARK + b"\n"


def parse(content: bytes) -> tuple[HostEntry, ...] | None:
    """Parse our lines, in their order; None when there are none, and nothing when one is not as we write it."""
    ours = _ours(content)
    if not ours:
        return None
    entries = tuple(line.entry for line in ours if not line.is_comment)
    return () if None in entries else tuple(entry for entry in entries if entry is not None)


def changes(content: bytes, entries: Iterable[HostEntry]) -> tuple[Change, ...]:
    """Compute writes, in this order, after which our lines say the entries; all other lines stay byte for byte.

    Each alone is seen by a reader as not done or as done, and after each the file is sound: it lacks no name that it
    had before and is to have afterwards.

    Raises:
        Terminal: a name cannot stand in a hosts file.
    """
    wanted = _wanted(entries)
    ours = _ours(content)
    if not ours:
        return _in_front(content, [text for texts in wanted.values() for text in texts.values()]) if wanted else ()
    in_place, missing, stale = _compared(ours, wanted)
    spare = [line for line in ours if line.is_spare]
    ends = _ends(ours, stale)
    placed: list[Change] = []
    unplaced: list[bytes] = []
    for text in missing:
        last = max((ends.get(name, -1) for name in text.decode().split()[1:]), default=-1)
        line = next((line for line in spare if line.start > last and line.holds(text)), None)
        if line is None:
            unplaced.append(text)
        else:
            spare.remove(line)
            placed += _filled(line, text)
    appended: list[Change] = []
    if unplaced:
        gap = b"" if not content or content.endswith(b"\n") else b"\n"
        lines = _comments(len(content) + len(gap), map(_length, unplaced))
        appended = [(len(content), gap + b"".join(line.text for line in lines))]
        placed += [change for line, text in _matched(lines, unplaced) for change in _filled(line, text)]
    return (*in_place, *appended, *placed, *((line.start, b"#") for line in stale))


def applied(content: bytes, made: Iterable[Change]) -> bytes:
    """Return the content after changes."""
    whole = bytearray(content)
    for start, data in made:
        whole.extend(b"\n" * (start - len(whole)))  # a negative number is none
        whole[start : start + len(data)] = data
    return bytes(whole)


def read(path: str) -> tuple[HostEntry, ...] | None:
    """Read our lines in a hosts file: see `parse`.

    Raises:
        HostsFileMissingError: there is no such file.
        Retryable, Terminal: it cannot be read.
    """
    with _opened(path, os.O_RDONLY) as descriptor:
        return parse(_load(descriptor, path))


def content(path: str) -> bytes:
    """Return all of a hosts file, as a program in the container reads it. Raises as `read`."""
    with _opened(path, os.O_RDONLY) as descriptor:
        return _load(descriptor, path)


def write(path: str, entries: Iterable[HostEntry]) -> bool:
    """Make our lines in a hosts file say the entries, and nothing else. Written only where they differ.

    Returns:
        Whether anything was written.

    Raises:
        HostsFileMissingError: there is no such file.
        Retryable, Terminal: it cannot be read or written.
    """
    desired = tuple(entries)
    with _opened(path, os.O_RDWR) as descriptor:
        old = _load(descriptor, path)
        for _ in range(_ATTEMPTS):
            made = changes(old, desired)
            if not made:
                return False
            # Docker may be at it too, and then our offsets are no longer right.
            now = _load(descriptor, path)
            if now == old:
                break
            old = now
        gathered = sum(len(line.text) for line in _ours(applied(old, made)) if line.is_comment)
        if gathered > _MAX_GATHERED:
            _rewrite(descriptor, old, applied(b"", changes(b"", desired)))
            return True
        for start, data in made:
            if os.pwrite(descriptor, data, start) != len(data):
                raise Retryable(f"{path} was written in part only")
        return True


def _rewrite(descriptor: int, old: bytes, block: bytes) -> None:
    """Clear away the comments that have gathered. A reader sees whole lines, but may miss some."""
    new = block + b"".join(line for line in _split(old) if not _is_ours(line))
    os.pwrite(descriptor, new.ljust(len(old), b"\n"), 0)
    os.ftruncate(descriptor, len(new))


Wanted = dict[tuple[tuple[str, ...], int], dict[bytes, bytes]]
"""By names and IP version: the lines that they need, each as its own key."""


def _wanted(entries: Iterable[HostEntry]) -> Wanted:
    wanted: Wanted = {}
    for entry in entries:
        for names in _in_lines(entry):
            text = _line_text(entry.address, names)
            wanted.setdefault((names, entry.address.version), {})[text] = text
    return wanted


def _in_lines(entry: HostEntry) -> Iterator[tuple[str, ...]]:
    """Return the names of an entry, as many to a line as musl can read. Raises Terminal."""
    line: tuple[str, ...] = ()
    for name in entry.names:
        if not _NAME.fullmatch(name):
            raise Terminal(f"{name!r} cannot be a name in a hosts file")
        if line and _length(_line_text(entry.address, (*line, name))) > _MAX_LINE:
            yield line
            line = ()
        line = (*line, name)
    if line:
        yield line


def _line_text(address: IPAddress, names: tuple[str, ...]) -> bytes:
    """Return a line without its mark, as long for every address of the family."""
    return " ".join((str(address).ljust(_ADDRESS_BYTES[address.version]), *names)).encode()


def _length(text: bytes) -> int:
    return len(text) + len(_MARK) + 1


def _compared(ours: list[_Line], wanted: Wanted) -> tuple[list[Change], list[bytes], list[_Line]]:
    """Return changes in place, the lines that then are missing, and those that are to be comments."""
    present: dict[tuple[tuple[str, ...], int], list[tuple[_Line, bytes]]] = {}
    stale: list[_Line] = []
    for line in ours:
        if line.entry is not None:
            address, names = line.entry.address, line.entry.names
            present.setdefault((names, address.version), []).append((line, _line_text(address, names)))
        elif not line.is_comment:
            stale.append(line)
    in_place: list[Change] = []
    missing: list[bytes] = []
    for key in [*wanted, *(key for key in present if key not in wanted)]:
        texts = dict(wanted.get(key, {}))
        others = [line for line, text in present.get(key, ()) if texts.pop(text, None) is None]
        for text in texts:
            holder = next((line for line in others if line.holds(text)), None)
            if holder is None:
                missing.append(text)
            else:
                others.remove(holder)
                in_place.append((holder.start, holder.with_text(text)))
        stale += others
    return in_place, missing, stale


def _ends(ours: list[_Line], stale: list[_Line]) -> dict[str, int]:
    """Return by name the offset that another line of it must follow, so that its first address stays the first."""
    going = {line.start for line in stale}  # a container may have written tens of thousands of lines like ours
    staying = [line for line in ours if line.entry and line.start not in going]
    return {
        name: line.start
        for lines in (reversed(staying), sorted(stale, key=lambda line: line.start))
        for line in lines
        if line.entry
        for name in line.entry.names
    }


def _filled(line: _Line, text: bytes) -> tuple[Change, Change]:
    """Turn a comment into a line: its text while it is a comment, then one byte."""
    whole = line.with_text(text)
    return (line.start, b"#" + whole[1:]), (line.start, whole[:1])


def _in_front(content: bytes, texts: list[bytes]) -> tuple[Change, ...]:
    """Write the first block: the other lines are copied to where it ends, then it takes their place in one write."""
    texts = [_NOTE, *texts]
    lines = _comments(0, map(_length, texts), cut=len(content))
    end = lines[-1].start + len(lines[-1].text)
    lines += _comments(end, [], cut=len(content), until=-(-max(end, len(content)) // PIECE) * PIECE)
    named = {line.start: line.with_text(text) for line, text in _matched(lines, texts)}
    whole = b"".join(named.get(line.start, line.text) for line in lines)
    if not content:
        return ((0, whole),)
    return (len(content), b"\n" * (len(whole) - len(content)) + content), (0, whole)


def _matched(lines: Iterable[_Line], texts: Iterable[bytes]) -> Iterator[tuple[_Line, bytes]]:
    """Return a comment for each text, where they were made for these in this order."""
    left = iter(lines)
    return ((next(line for line in left if line.holds(text)), text) for text in texts)


def _comments(start: int, lengths: Iterable[int], *, cut: int = 0, until: int = 0) -> list[_Line]:
    """Lay out comments from an offset on, among them one of at least each length that lies within one piece.

    Args:
        start: bytes.
        lengths: with the newline.
        cut: no line but a comment lies across this offset, where a reader may go on that has seen another file.
        until: go on to this offset, the end of a piece; or the next one's end, where it is too near.
    """
    lines: list[_Line] = []
    at = start

    def room() -> int:
        return min(end for end in (cut, at - at % PIECE + PIECE) if end > at) - at

    def add(length: int) -> int:
        lines.append(_Line(at, b"#".ljust(length - len(_MARK) - 1) + _MARK + b"\n", None))
        return at + length

    for length in lengths:
        while room() < length + _LEAST_COMMENT:
            at = add(room() if room() >= _LEAST_COMMENT else room() + _LEAST_COMMENT)
        if at % PIECE == 0 or at == cut:
            # Whose last piece ended within a line that was there before takes this for the rest of it.
            at = add(_LEAST_COMMENT)
        at = add(max(length, min(_SPARE_BYTES, room() - _LEAST_COMMENT)))
    while at < until:
        left = room()
        if left < _LEAST_COMMENT:
            until += PIECE if at + left == until else 0
            at = add(left + _LEAST_COMMENT)
        elif at % PIECE == 0 or at == cut:
            at = add(_LEAST_COMMENT)
        else:
            at = add(left if left < 2 * _SPARE_BYTES else _SPARE_BYTES)
    return lines


def _ours(content: bytes) -> list[_Line]:
    lines: list[_Line] = []
    start = 0
    for text in _split(content):
        if _is_ours(text):
            lines.append(_Line(start, text, _entry(text)))
        start += len(text)
    return lines


def _split(content: bytes) -> list[bytes]:
    """Split into lines with their newlines. splitlines() would also split at bytes that are no line end here."""
    return re.findall(rb"[^\n]*\n|[^\n]+", content)


def _is_ours(line: bytes) -> bool:
    text = line.removesuffix(b"\n")
    return text.endswith(_MARK) or text in _OLD_ENDS


def _entry(line: bytes) -> HostEntry | None:
    if line.startswith(b"#"):
        return None
    try:
        text = line.removesuffix(b"\n").removesuffix(_MARK).decode()
        address, *names = re.split(" +", text.rstrip(" "))
        entry = HostEntry(ip_address(address), tuple(names))
    except ValueError:
        return None
    return entry if names and all(_NAME.fullmatch(name) for name in names) else None


@contextmanager
def _opened(path: str, mode: int) -> Iterator[int]:
    try:
        # A container may have put something else in its place: follow no link, wait for no pipe.
        descriptor = os.open(path, mode | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise HostsFileMissingError(f"there is no hosts file {path}") from error
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
