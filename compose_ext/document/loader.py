"""The loader: compose files, read into trees.

Any bytes give a tree or a problem with its place: never a traceback, and never more time or memory than the size
of the file explains.
"""

import os
import re
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import yaml

from compose_ext.diagnostics import Place, Problem, Report
from compose_ext.document.composer import Composer, DocumentError, TooDeepError
from compose_ext.document.tree import Mapping, Tree, kind

STDIN = "-"
STDIN_NAME = "<stdin>"
MAX_BYTES = 64 * 1024 * 1024

_SYSTEM_REASONS = {
    FileNotFoundError: "there is no such file",
    IsADirectoryError: "this is a directory, not a file",
    PermissionError: "it must not be read (permission denied)",
}
# YAML 1.1 section 5.1 (c-printable), as go-yaml and libyaml apply it.
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_FOREIGN_MARKS = {
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
# libyaml's parser is 30 times faster than the one in Python; both give the same events.
_MISPLACED = re.compile("parsing a block|mapping values are not allowed")
_PARSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Source:
    """One `-c` argument with what was read from it."""

    path: str
    """As given; `-` is standard input."""
    data: bytes
    rereadable: bool
    """Whether opening the path again gives the same bytes: not so for standard input and pipes."""

    @property
    def is_pipe(self) -> bool:
        """Whether the path names a pipe, empty by now: not so for `-`, which is handed on as what it is."""
        return not self.rereadable and self.path != STDIN

    @property
    def name(self) -> str:
        """The file's name in messages."""
        return STDIN_NAME if self.path == STDIN else self.path


@dataclass(frozen=True, slots=True)
class Document:
    """One compose file, read."""

    file: str
    root: Mapping


def read(path: str, report: Report) -> Source | None:
    """Read the bytes behind one `-c` argument; None if they cannot be had, which is then in the report."""
    name = STDIN_NAME if path == STDIN else path
    report.files.append(name)
    try:
        if path == STDIN:
            data, regular = _read(sys.stdin.buffer), False
        else:
            with open(path, "rb") as file:  # noqa: PTH123 - Path would turn ./a into a, and users know what they typed
                regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
                data = _read(file)
    except OSError as error:
        reason = _SYSTEM_REASONS.get(type(error)) or f"it cannot be read ({error.strerror})"
        report.add(Problem(reason, file=name))
        return None
    if len(data) > MAX_BYTES:
        report.add(Problem(f"larger than {MAX_BYTES // 1024 // 1024} MiB", file=name))
        return None
    return Source(path, data, regular)


def load(source: Source, report: Report) -> Document | None:
    """Parse one file; None if it cannot be used, which is then in the report."""
    text = _decode(source, report)
    if text is None:
        return None
    root = _compose(text, source.name, report)
    if root is None:
        return None
    if not isinstance(root, Mapping):
        place = Place(source.name, root.line, root.column)
        report.add(Problem(f"a compose file is a mapping with `services`, this one is {kind(root)}", place=place))
        return None
    return Document(source.name, root)


def _read(file: BinaryIO) -> bytes:
    return file.read(MAX_BYTES + 1)


def _decode(source: Source, report: Report) -> str | None:
    encoding = _FOREIGN_MARKS.get(source.data[:2])
    if encoding:
        report.add(Problem(f"this is {encoding}: save the file as UTF-8", place=Place(source.name, 1, 1)))
        return None
    try:
        text = source.data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = source.data[: error.start].decode("utf-8")
        message = f"this is not UTF-8 (byte 0x{source.data[error.start]:02x}): save the file as UTF-8"
        report.add(Problem(message, place=_end(source.name, before)))
        return None
    text = text.removeprefix("\ufeff")
    found = _UNPRINTABLE.search(text)
    if found:
        message = f"a control character (U+{ord(found.group()):04X}) cannot stand in a YAML file"
        report.add(Problem(message, place=_end(source.name, text[: found.start()])))
        return None
    return text


def _compose(text: str, file: str, report: Report) -> Tree | None:
    composer = Composer()
    try:
        root = composer.compose(_events(text))
    except DocumentError as error:
        report.add(Problem(error.message, place=Place(file, error.line, error.column)))
        root = None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        deep = _too_deep(text, line, column)
        if deep is not None:
            report.add(Problem(deep.message, place=Place(file, deep.line, deep.column)))
        else:
            report.add(Problem(_syntax(error, text, line, column), place=Place(file, line, column)))
        root = None
    except yaml.YAMLError as error:
        report.add(Problem(f"this is not YAML: {error}", file=file))
        root = None
    for message, line, column in composer.problems:
        report.add(Problem(message, place=Place(file, line, column)))
    for message, line, column in composer.warnings:
        report.add(Problem(message, place=Place(file, line, column), warning=True))
    return root if not composer.problems else None


def _too_deep(text: str, line: int, column: int) -> TooDeepError | None:
    """Compose what stands before a parser's error: our own limit of depth if that breaks it, else None.

    A parser looks ahead, and may have a limit of its own (PyYAML 6.0.4: 1,000 levels) that it reaches before it gives
    the event at which ours is broken.
    """
    lines = text.splitlines(keepends=True)[:line]
    lines[line - 1 :] = [last[: column - 1] for last in lines[line - 1 :]]
    try:
        Composer().compose(_events("".join(lines)))
    except TooDeepError as error:
        return error
    except (DocumentError, yaml.YAMLError):
        pass
    return None


def _events(text: str) -> Iterator[yaml.Event]:
    return yaml.parse(text, Loader=_PARSER)


def _syntax(error: yaml.MarkedYAMLError, text: str, line: int, column: int) -> str:
    lines = text.splitlines()
    if line <= len(lines) and lines[line - 1][column - 1 : column] == "\t":
        return "a tab stands where YAML wants spaces"
    reason = ", ".join(part for part in (error.context, error.problem) if part)
    hint = "; look at indentation and quotes here and in the line before" if _MISPLACED.search(reason) else ""
    return f"this is not YAML: {reason}{hint}"


def _end(file: str, before: str) -> Place:
    """Return the place right after a text that begins the file."""
    line = before.count("\n") + 1
    return Place(file, line, len(before) - (before.rfind("\n") + 1) + 1)
