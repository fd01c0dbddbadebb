"""The graph as an SVG picture, which needs no other file and no program to draw it. Pure."""

from collections.abc import Mapping
from itertools import pairwise
from xml.sax.saxutils import escape, quoteattr

from compose_ext.observe.traffic.graph_text import DASHED, Edge, Graph, badness, colour
from compose_ext.observe.traffic.layout import Layout, Slot, layout
from compose_ext.terminal import line

_LETTER = 7.3
"""Width of a character of 12 pixels, the widest of usual fonts' averages."""
_PADDING, _HEIGHT = 12.0, 30.0
_ROW, _MARGIN, _LEGEND = 64.0, 24.0, 34.0
_LEAST_GAP = 80.0
_LOOP = 26.0
_STYLE = """\
text { font: 12px ui-sans-serif, system-ui, sans-serif; fill: #1f2328 }
.service rect { fill: #f6f8fa; stroke: #8c959f }
.label { font-size: 11px; paint-order: stroke; stroke: #ffffff; stroke-width: 4px }
.back { fill: #ffffff }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .back { fill: #0d1117 } .label { stroke: #0d1117 }
  .service rect { fill: #161b22; stroke: #6e7681 }
}
"""

Point = tuple[float, float]


def svg(graph: Graph) -> str:
    """Draw it."""
    placed = layout(graph.services, [(edge.consumer, edge.provider) for edge in graph.edges])
    width, height, at = _places(placed, graph)
    states = sorted({edge.state for edge in graph.edges}, key=badness)
    text = f"{len(graph.services)} services, {len(graph.edges)} links"
    width = max(width, 2 * _MARGIN + sum(map(_legend_width, states)), 2 * _MARGIN + _LETTER * len(text))
    height += _LEGEND
    size, spoken = f'width="{width:.0f}" height="{height:.0f}"', f'role="img" aria-label={quoteattr(text)}'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {width:.0f} {height:.0f}" {spoken}>',
        f"<title>{escape(text)}</title>",
        f"<style>{_STYLE}</style>",
        "<defs>",
        *(_arrow(state) for state in states),
        "</defs>",
        f'<rect class="back" {size}/>',
    ]
    both = {(edge.provider, edge.consumer) for edge in graph.edges}
    for edge, way in zip(graph.edges, placed.ways, strict=True):
        parts.append(_edge(edge, way, at, is_mutual=(edge.consumer, edge.provider) in both))
    parts += [_service(name, at[name]) for name in graph.services]
    left = _MARGIN
    for state in states:
        parts.append(_legend(state, left, height - _LEGEND / 2))
        left += _legend_width(state)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _width(name: str) -> float:
    return _LETTER * len(name) + 2 * _PADDING


def _places(placed: Layout, graph: Graph) -> tuple[float, float, Mapping[Slot, Point]]:
    """Return the picture's size, and the middle of each place."""
    longest = max((len(edge.label) for edge in graph.edges), default=0)
    gap = max(_LEAST_GAP, 6.6 * longest + 24)
    tallest = max(map(len, placed.columns), default=1)
    at: dict[Slot, Point] = {}
    left = _MARGIN
    for column in placed.columns:
        widest = max((_width(slot) for slot in column if isinstance(slot, str)), default=0.0)
        top = _MARGIN + _LOOP + (tallest - len(column)) * _ROW / 2
        for row, slot in enumerate(column):
            at[slot] = (left + widest / 2, top + row * _ROW + _HEIGHT / 2)
        left += widest + gap
    return max(left - gap, 0.0) + _MARGIN, 2 * _MARGIN + _LOOP + (tallest - 1) * _ROW + _HEIGHT, at


def _edge(edge: Edge, way: tuple[Slot, ...], at: Mapping[Slot, Point], *, is_mutual: bool) -> str:
    path, middle = _way(edge, [at[slot] for slot in way], is_mutual=is_mutual)
    dashes = ' stroke-dasharray="5 4"' if edge.state in DASHED else ""
    text = escape(line(edge.label))
    return (
        f'<g class="link" data-state={quoteattr(line(edge.state))}>'
        f"<title>{escape(line(f'{edge.consumer} to {edge.provider}: {edge.label}'))}</title>"
        f'<path d="{path}" fill="none" stroke="{colour(edge.state)}" stroke-width="2"{dashes} '
        f'marker-end="url(#{_marker(edge.state)})"/>'
        f'<text class="label" x="{middle[0]:.1f}" y="{middle[1]:.1f}" text-anchor="middle">{text}</text></g>'
    )


def _way(edge: Edge, points: list[Point], *, is_mutual: bool) -> tuple[str, Point]:
    """Return a link's path, and where its label stands."""
    if edge.consumer == edge.provider:
        (x, y), half = points[0], _width(edge.consumer) / 4
        top = y - _HEIGHT / 2
        path = f"M {x - half:.1f} {top:.1f} C {x - half:.1f} {top - _LOOP:.1f}, {x + half:.1f} {top - _LOOP:.1f}, "
        return path + f"{x + half:.1f} {top:.1f}", (x, top - _LOOP * 0.6)
    way_right = points[-1][0] >= points[0][0]
    side = 1 if way_right else -1
    points[0] = (points[0][0] + side * _width(edge.consumer) / 2, points[0][1])
    points[-1] = (points[-1][0] - side * _width(edge.provider) / 2, points[-1][1])
    first, second = points[len(points) // 2 - 1], points[len(points) // 2]
    x, y = (first[0] + second[0]) / 2, (first[1] + second[1]) / 2 - 3
    if is_mutual:  # their lines lie on each other, their labels must not
        y += -5 if way_right else 13
    return _curve(points), (x, y)


def _curve(points: list[Point]) -> str:
    path = [f"M {points[0][0]:.1f} {points[0][1]:.1f}"]
    for (x, y), (to_x, to_y) in pairwise(points):
        bend = (to_x - x) / 2
        path.append(f"C {x + bend:.1f} {y:.1f}, {to_x - bend:.1f} {to_y:.1f}, {to_x:.1f} {to_y:.1f}")
    return " ".join(path)


def _service(name: str, at: Point) -> str:
    width, text = _width(name), escape(line(name))
    return (
        f'<g class="service"><rect x="{at[0] - width / 2:.1f}" y="{at[1] - _HEIGHT / 2:.1f}" width="{width:.1f}" '
        f'height="{_HEIGHT:.1f}" rx="6"/>'
        f'<text x="{at[0]:.1f}" y="{at[1] + 4:.1f}" text-anchor="middle">{text}</text></g>'
    )


def _marker(state: str) -> str:
    return "arrow-" + "".join(letter if letter.isalnum() else "-" for letter in state)


def _arrow(state: str) -> str:
    return (
        f'<marker id="{_marker(state)}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
        f'markerUnits="userSpaceOnUse" orient="auto"><path d="M 0 0 L 8 4 L 0 8 z" fill="{colour(state)}"/></marker>'
    )


def _legend(state: str, left: float, y: float) -> str:
    dashes = ' stroke-dasharray="5 4"' if state in DASHED else ""
    return (
        f'<line x1="{left:.1f}" y1="{y:.1f}" x2="{left + 24:.1f}" y2="{y:.1f}" stroke="{colour(state)}" '
        f'stroke-width="2"{dashes}/><text x="{left + 30:.1f}" y="{y + 4:.1f}">{escape(line(state))}</text>'
    )


def _legend_width(state: str) -> float:
    return 30 + _LETTER * len(state) + 20
