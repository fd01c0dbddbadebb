"""Tables, progress and errors: by rich on a terminal, plain text anywhere else.

rich is imported for a terminal alone: it costs more than most commands. It obeys NO_COLOR.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

_GAP = "   "
_COLOURS = {
    **dict.fromkeys(("connected", "proven", "approved"), "green"),
    **dict.fromkeys(("stale", "no-handshake", "unknown"), "yellow"),
    **dict.fromkeys(("unwired", "error", "unproven"), "red"),
}
"""Of a state's name in a table."""
_WAITING = "waiting"
"""With which progress begins that ends by itself."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a header, and everything that is wrong under them."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    problems: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the plain form, for a pipe: each column as wide as its widest cell."""
        rows = [self.header, *self.rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            _GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        if self.problems:
            lines += ["", "PROBLEMS", *(f"  {problem}" for problem in self.problems)]
        return "\n".join(lines) + "\n"


def show(table: Table) -> None:
    """Print a table."""
    if not sys.stdout.isatty():
        sys.stdout.write(str(table))
        return
    from rich.table import Table as RichTable  # noqa: PLC0415 - see the module's docstring
    from rich.text import Text  # noqa: PLC0415

    shown = RichTable(box=None, pad_edge=False, padding=(0, len(_GAP), 0, 0), header_style="bold")
    for title in table.header:
        shown.add_column(title, overflow="fold")
    for row in table.rows:
        shown.add_row(*(Text(cell, style=_COLOURS.get(cell, "")) for cell in row))
    console = _console(sys.stdout)
    console.print(shown)
    if table.problems:
        console.print()
        console.print(Text("PROBLEMS", style="bold red"))
        for problem in table.problems:
            console.print(Text(f"  {problem}"))


def show_json(document: Mapping[str, Any]) -> None:
    """Print a document for programs."""
    print(json.dumps(document, indent=2))


def complain(text: str, style: str = "red") -> None:
    """Print an error, or with another style a warning, on standard error."""
    if not sys.stderr.isatty():
        print(text, file=sys.stderr)
        return
    from rich.text import Text  # noqa: PLC0415 - see the module's docstring

    _console(sys.stderr).print(Text(text, style=style), soft_wrap=True)


class _Progress:
    """Lines of progress, one a step; on a terminal, a moving line while something is waited for."""

    def __init__(self) -> None:
        self._status: Status | None = None

    def __call__(self, text: str) -> None:
        """Print a line."""
        if not sys.stdout.isatty():
            print(f"linkwire: {text}", flush=True)
        elif not text.startswith(_WAITING):
            self.end()
            print(f"linkwire: {text}", flush=True)
        elif self._status:
            self._status.update(_escaped(text))
        else:
            self._status = _console(sys.stdout).status(_escaped(text))
            self._status.start()

    def end(self) -> None:
        """Take the moving line away."""
        if self._status:
            self._status.stop()
            self._status = None


say = _Progress()
"""Print a line of progress."""


def _escaped(text: str) -> str:
    from rich.markup import escape  # noqa: PLC0415 - see the module's docstring

    return escape(text)


def _console(file: IO[str]) -> "Console":
    from rich.console import Console  # noqa: PLC0415 - see the module's docstring

    return Console(file=file, highlight=False)
