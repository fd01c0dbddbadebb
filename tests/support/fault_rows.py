"""The table of `make chaos`: a row a fault, printed at the end of a run and written to build/chaos.md."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "build" / "chaos.md"
_HEADER = ("fault", "requests", "lost", "longest gap, s", "new tasks wired after, s", "false words of `status`")


@dataclass(frozen=True, slots=True)
class FaultRow:
    """One fault, and what came of it on links whose two tasks it did not hit.

    Attributes:
        fault: in words.
        requests: that were made over existing links meanwhile.
        lost: of those.
        longest: seconds between two answers, the longest.
        wired: seconds until a task that was new meanwhile was wired; None where none was.
        false: words of `status` that called a link of those broken; None where it was not asked.
    """

    fault: str
    requests: int
    lost: int
    longest: float
    wired: float | None = None
    false: int | None = None

    def __str__(self) -> str:
        wired = "-" if self.wired is None else f"{self.wired:.1f}"
        false = "-" if self.false is None else str(self.false)
        return _line((self.fault, str(self.requests), str(self.lost), f"{self.longest:.2f}", wired, false))


def table(rows: Iterable[str]) -> list[str]:
    """Return the lines of the table, of rows as text."""
    return [_line(_HEADER), _line(["---"] * len(_HEADER)), *rows]


def write(rows: Iterable[str], page: Path = PAGE) -> None:
    """Write the table, of this run alone."""
    page.parent.mkdir(exist_ok=True)
    page.write_text("\n".join(["# Faults", "", *table(rows), ""]))


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
