"""The rows as a table for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from tests.bench.measure import Row, Spread

_HEAD = ("what", "against", "unit", "Linkwire", "reference", "ratio", "95 %", "better", "aim", "")


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


def from_json(row: Mapping[str, Any]) -> Row:
    """The row that `as_json` has written. Raises KeyError or ValueError where it has not."""
    return Row(
        key=row["key"],
        what=row["what"],
        reference=row["against"],
        unit=row["unit"],
        better=row["better"],
        ours=row["linkwire"]["all"],
        theirs=row["reference"]["all"],
        aim=row["aim"],
        note=row["note"],
        size=row["size"],
        base=row["base"],
    )


def table(rows: Iterable[Row]) -> str:
    """One line a row: medians, in brackets the least and the most, and the interval of the ratio's median."""
    cells = [_HEAD, *map(_cells, rows)]
    widths = [max(len(line[n]) for line in cells) for n in range(len(_HEAD))]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)


def _cells(row: Row) -> tuple[str, ...]:
    return (row.what, row.reference, row.unit, *spreads(row), _interval(row), row.better, row.aim, verdict(row))


def spreads(row: Row) -> Iterable[str]:
    """Ours, theirs and the ratio, each as median (least..most)."""
    return (_spread(Spread.of(values)) for values in (row.ours, row.theirs, row.ratios))


def _interval(row: Row) -> str:
    """Where the ratio's median surely lies; empty where too few turns tell."""
    ends = row.interval
    return f"{figure(ends[0])}..{figure(ends[1])}" if ends is not None else ""


def verdict(row: Row) -> str:
    """Whether a row's aim is met, in words."""
    return {True: "met", False: "not met", None: ""}[row.met]


def _spread(spread: Spread) -> str:
    return f"{figure(spread.median)} ({figure(spread.least)}..{figure(spread.most)})"


def figure(value: float) -> str:
    """Three digits that count, and never an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
