"""The rows as a table for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

from tests.bench.measure import Row, Spread

_HEAD = ("what", "against", "unit", "Linkwire", "reference", "ratio", "better", "aim", "")


def as_json(row: Row) -> dict[str, object]:
    """A row with its measurements."""
    return {
        "key": row.key,
        "what": row.what,
        "against": row.reference,
        "unit": row.unit,
        "better": row.better,
        "linkwire": {**asdict(Spread.of(row.ours)), "all": row.ours},
        "reference": {**asdict(Spread.of(row.theirs)), "all": row.theirs},
        "ratio": asdict(Spread.of(row.ratios)),
        "aim": row.aim,
        "met": row.met,
        "note": row.note,
        "size": row.size,
        "base": row.base,
    }


def table(rows: Iterable[Row]) -> str:
    """One line a row: medians, and in brackets the least and the most."""
    cells = [_HEAD, *map(_cells, rows)]
    widths = [max(len(line[n]) for line in cells) for n in range(len(_HEAD))]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)


def _cells(row: Row) -> tuple[str, ...]:
    spreads = (Spread.of(values) for values in (row.ours, row.theirs, row.ratios))
    return (row.what, row.reference, row.unit, *map(_spread, spreads), row.better, row.aim, verdict(row))


def verdict(row: Row) -> str:
    """Whether a row's aim is met, in words."""
    return {True: "met", False: "not met", None: ""}[row.met]


def _spread(spread: Spread) -> str:
    return f"{_figure(spread.median)} ({_figure(spread.least)}..{_figure(spread.most)})"


def _figure(value: float) -> str:
    """Three digits that count, and never an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
