"""Tables, progress, errors and questions: by rich on a terminal, plain text anywhere else.

rich is imported for a terminal alone: it costs more than most commands. It obeys NO_COLOR.

Names, labels and errors come from tenants, nodes and containers. Nothing that could control a terminal passes here.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from compose_ext.diagnostics import INCOMPLETE
from compose_ext.docker_cli import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

_GAP = "   "
_PROBLEMS = "PROBLEMS"
_COLOURS = {
    **dict.fromkeys(("connected", "idle", "proven", "approved"), "green"),
    **dict.fromkeys(("stale", "no-handshake", "unknown"), "yellow"),
    **dict.fromkeys(("broken", "unwired", "error", "unproven", "no ready task", "not allowed"), "red"),
}
"""Of a state's name in a table: the whole of its cell, or its first word."""
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_THOUSAND = 1000.0
_WAITING = "waiting"
"""With which progress begins that ends by itself."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a header, and everything that is wrong under them."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    problems: tuple[str, ...] = ()
    gap: str = _GAP
    """Between two columns."""

    def __str__(self) -> str:
        """Return the plain form: each column as wide as its widest cell."""
        rows, widths = self._cells()
        form = self.gap.join(f"%-{width}s" for width in widths)
        lines = [(form % tuple(row)).rstrip() for row in rows]
        if self.problems:
            lines += ["", _PROBLEMS, *(f"  {printable(problem)}" for problem in self.problems)]
        return "\n".join(lines) + "\n"

    def padded(self) -> list[list[str]]:
        """Return the header and the rows, with spaces behind each cell up to its column's width."""
        rows, widths = self._cells()
        return [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]

    def _cells(self) -> tuple[list[Sequence[str]], list[int]]:
        """Return the header and the rows, and each column's width."""
        rows = [self.header, *([cell if cell.isprintable() else line(cell) for cell in row] for row in self.rows)]
        return rows, [max(map(len, column)) for column in zip(*rows, strict=True)]


def show(table: Table) -> None:
    """Print a table; on a terminal the same lines, with colour."""
    say.end()
    if not sys.stdout.isatty():
        sys.stdout.write(str(table))
        return
    from rich.text import Text  # noqa: PLC0415 - see the module's docstring

    header, *rows = table.padded()
    lines = [Text(table.gap.join(header), style="bold")]
    lines += [Text(table.gap).join(Text(cell, style=_colour(cell)) for cell in row) for row in rows]
    if table.problems:
        lines += [
            Text(),
            Text(_PROBLEMS, style="bold red"),
            *(Text(f"  {printable(problem)}") for problem in table.problems),
        ]
    for line in lines:
        line.rstrip()
    # The terminal breaks what is too long for it: rich would break or cut cells.
    _console(sys.stdout).print(*lines, sep="\n", soft_wrap=True)


def _colour(cell: str) -> str:
    return _COLOURS.get(cell.rstrip()) or _COLOURS.get(cell.partition(" ")[0], "")


def show_json(document: Mapping[str, Any]) -> None:
    """Print a document for programs."""
    say.end()
    print(indented(document))


def indented(document: Mapping[str, Any]) -> str:
    """Write a document as JSON in ASCII, indented. A large one takes msgspec a tenth of the time."""
    try:
        import msgspec  # noqa: PLC0415 - most commands print no document
    except ImportError:  # the plugin as one file has nothing compiled in it
        return json.dumps(document, indent=2)

    with suppress(TypeError, UnicodeEncodeError, msgspec.MsgspecError):
        plain = msgspec.json.format(msgspec.json.encode(document), indent=2)
        if plain.isascii() and b"\x7f" not in plain:  # a control character, which it would write as it is
            return plain.decode()
    return json.dumps(document, indent=2)


def show_finding(text: str, style: str = "red") -> None:
    """Print a finding that was asked for, on standard output: it goes through a pipe with all else."""
    say.end()
    _print(text, style, sys.stdout)


def complain(text: str, style: str = "red") -> None:
    """Print an error of the command itself, or with another style a warning, on standard error."""
    say.end()  # rich has standard error as well while the line moves
    _print(text, style, sys.stderr)


def _print(text: str, style: str, stream: IO[str]) -> None:
    # The streams themselves write what they cannot encode, as of a file's name, in letters that they can.
    text = "".join(char if "\ud800" <= char <= "\udfff" else printable(char) for char in text)
    if not stream.isatty():
        print(text, file=stream, flush=True)
        return
    from rich.text import Text  # noqa: PLC0415 - see the module's docstring

    _console(stream).print(Text(text, style=style), soft_wrap=True)


def ask(question: str) -> str:
    """Ask the user; returns the answer in small letters, "" where there is none."""
    say.end()
    try:
        return input(question).strip().lower()
    except EOFError:
        print()
        return ""


class _Progress:
    """Lines of progress, one a step; on a terminal, a moving line while something is waited for."""

    def __init__(self) -> None:
        self._status: Status | None = None

    def __call__(self, text: str) -> None:
        """Print a line."""
        text = printable(text)
        if not text.startswith(_WAITING) or not self._move(text):
            self.end()
            print(f"linkwire: {text}", flush=True)

    def _move(self, text: str) -> bool:
        """Show a text in the moving line; returns whether the terminal can have one."""
        if not sys.stdout.isatty():
            return False
        if self._status:
            self._status.update(_escaped(text))
            return True
        console = _console(sys.stdout)
        able = console.is_terminal and not console.is_dumb_terminal and console.is_interactive
        if not able or not console.encoding.startswith("utf"):
            return False
        self._status = console.status(_escaped(text))
        self._status.start()
        return True

    def end(self) -> None:
        """Take the moving line away."""
        if self._status:
            self._status.stop()
            self._status = None


say = _Progress()
"""Print a line of progress."""


def leave(steps: Sequence[str]) -> int:
    """Print all that is left for the user to do, in its order, as the last lines; returns the exit code."""
    if not steps:
        return 0
    say("left to do:")
    for step in steps:
        say(f"  {step}")
    return INCOMPLETE


def line(text: str) -> str:
    """Return a text that may come from anybody as one line that controls no terminal."""
    if text.isprintable():
        return text
    return printable(text).replace("\n", " ")


def words(fields: Mapping[str, Any]) -> str:
    """Write names and values as `name=value` in one line, a value with spaces in quotes."""
    return " ".join(f"{line(name)}={line(_quoted(value))}" for name, value in fields.items())


def _quoted(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    if '"' in text and "'" not in text and "\\" not in text and text.isprintable():
        return f"'{text}'"  # as a document, which is hard to read with a backslash before each quote
    return json.dumps(text) if not text or " " in text or '"' in text or "\n" in text else text


def age(seconds: float | None) -> str:
    """Write how long ago something was."""
    return "never" if seconds is None else f"{lasting(seconds)} ago"


def lasting(seconds: float) -> str:
    """Write a time in the largest unit that gives a whole number."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(max(seconds, 0))}s"


def amount(count: float) -> str:
    """Write a number of bytes with a decimal unit, as Docker does: 1234567 is `1.23MB`."""
    value = float(count)
    for unit in _UNITS:
        if value < _THOUSAND or unit == _UNITS[-1]:
            break
        value /= _THOUSAND
    return f"{int(count)}B" if unit == "B" else f"{value:.3g}{unit}"


def _escaped(text: str) -> str:
    from rich.markup import escape  # noqa: PLC0415 - see the module's docstring

    return escape(text)


def _console(file: IO[str]) -> "Console":
    from rich.console import Console  # noqa: PLC0415 - see the module's docstring

    return Console(file=file, highlight=False)
