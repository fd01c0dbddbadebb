"""What of a run is drawn: every ratio beside its aim, and how what has sizes grows with them."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable

from tests.bench.measure import Row, Spread
from tests.bench.report import figure
from tests.bench.svg import Drawing, Ink

_SIZE_OF_KEY = re.compile(r"\.(\d+|ten|hundred|thousand)$")
_LINE, _LEFT, _PLOT, _RIGHT = 22, 250, 430, 110
_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_PANEL_W, _PANEL_H, _ACROSS = 300, 210, 3


def ratios(rows: Iterable[Row]) -> str | None:
    """Each row whose aim is about its ratio: the median, from the least to the most, and a bar where the aim is."""
    drawn = [(row, row.limit) for row in rows if row.limit is not None]
    if not drawn:
        return None
    spreads = [Spread.of(row.ratios) for row, _ in drawn]
    values = [value for spread in spreads for value in (spread.least, spread.most)] + [limit for _, limit in drawn]
    scale = _Log(min(values), max(values), _LEFT, _LEFT + _PLOT)
    bottom = 62 + _LINE * len(drawn)
    drawing = Drawing(_LEFT + _PLOT + _RIGHT, bottom + 34, "Ratios of Linkwire to its references, and their aims")
    drawing.text(12, 24, "Linkwire's figure to its reference's, and the aim", size="head")
    drawing.text(
        12, 42, "disc: aim met; ring: not met; thin: least to most; bar: aim; log scale", "quiet", size="small"
    )
    for tick in scale.ticks():
        at = scale.at(tick)
        drawing.line(at, 54, at, bottom, "grid", width=2 if tick == 1 else 1)
        drawing.text(at, bottom + 16, f"{tick:g}", "quiet", "middle", "small")
    for number, ((row, limit), spread) in enumerate(zip(drawn, spreads, strict=True)):
        y = 70 + _LINE * number
        ink: Ink = "good" if row.met else "bad"
        drawing.text(_LEFT - 12, y + 4, row.key, anchor="end")
        drawing.line(scale.at(spread.least), y, scale.at(spread.most), y, ink)
        drawing.line(scale.at(limit), y - 7, scale.at(limit), y + 7, "text", width=3)
        drawing.dot(scale.at(spread.median), y, ink, full=bool(row.met))
        drawing.text(_LEFT + _PLOT + 12, y + 4, f"{figure(spread.median)} ({row.aim})", ink)
    return drawing.document()


def growth(rows: Iterable[Row]) -> dict[str, str]:
    """By group, a panel for each of its rows' curves; a curve needs two sizes."""
    curves: dict[str, dict[str, tuple[Row, dict[int, float]]]] = {}
    for row in rows:
        if row.size is None:
            continue
        series = _SIZE_OF_KEY.sub("", row.key)
        _, points = curves.setdefault(row.key.partition(".")[0], {}).setdefault(series, (row, {}))
        points[row.size] = statistics.median(row.ours)
        if row.base is not None:
            points.setdefault(row.base, statistics.median(row.theirs))
    whole = {
        group: {series: curve for series, curve in found.items() if len(curve[1]) > 1 and min(curve[1].values()) > 0}
        for group, found in curves.items()
    }
    return {group: _panels(group, found) for group, found in sorted(whole.items()) if found}


def _panels(group: str, curves: dict[str, tuple[Row, dict[int, float]]]) -> str:
    across = min(_ACROSS, len(curves))
    down = math.ceil(len(curves) / across)
    # Wide enough for what stands above the panels, also where there is one.
    drawing = Drawing(max(across * _PANEL_W, 460), 52 + down * _PANEL_H, f"How the figures of {group} grow")
    drawing.text(12, 24, f"{group}: how figures grow with size", size="head")
    drawing.text(
        12, 42, "line: measured; dashed: what proportion to the size would give; log scales", "quiet", size="small"
    )
    for number, (series, (row, points)) in enumerate(curves.items()):
        left, top = number % across * _PANEL_W, 52 + number // across * _PANEL_H
        _panel(drawing, left, top, f"{series.partition('.')[2] or series}, {row.unit}", sorted(points.items()))
    return drawing.document()


def _panel(drawing: Drawing, left: float, top: float, title: str, points: list[tuple[int, float]]) -> None:
    (first, least), (last, _) = points[0], points[-1]
    linear = least * last / first
    drawing.text(left + 16, top + 20, title)
    sideways = _Log(first, last, left + 34, left + _PANEL_W - 44)
    values = [value for _, value in points]
    upwards = _Log(min(values), max(*values, linear), top + _PANEL_H - 36, top + 44)
    base = top + _PANEL_H - 26
    drawing.line(left + 20, base, left + _PANEL_W - 20, base, "grid")
    drawing.line(sideways.at(first), upwards.at(least), sideways.at(last), upwards.at(linear), "quiet", dashed=True)
    placed = [(sideways.at(size), upwards.at(value)) for size, value in points]
    drawing.path(placed, "line")
    for (size, value), (x, y) in zip(points, placed, strict=True):
        drawing.dot(x, y, "line")
        drawing.text(x, y - 9, figure(value), "text", "middle", "small")
        drawing.text(x, base + 16, f"{size:,}", "quiet", "middle", "small")


class _Log:
    """A logarithmic scale: from the least value to the most is from one pixel to another."""

    def __init__(self, least: float, most: float, start: float, end: float) -> None:
        self._least = math.log(least)
        self._span = math.log(most) - self._least
        self._start, self._end = start, end
        self._limits = (least, most)

    def at(self, value: float) -> float:
        """Where a value is, in pixels. All is at the start where there is one value only."""
        share = (math.log(value) - self._least) / self._span if self._span else 0.0
        return self._start + share * (self._end - self._start)

    def ticks(self) -> list[float]:
        """Round values on it, six or so; 1 where it is among them."""
        found = [tick for tick in _TICKS if self._limits[0] <= tick <= self._limits[1]]
        return [tick for tick in found if f"{tick:e}".startswith("1.")] if len(found) > 7 else found
