"""The few shapes that our plots are of, as one SVG document.

It is legible on a light and on a dark page: it has a ground of its own, and takes its colours by what the reader
prefers. The same shapes give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal
from xml.sax.saxutils import escape, quoteattr

Ink = Literal["text", "quiet", "grid", "good", "bad", "line"]
_INKS = ("text", "quiet", "grid", "good", "bad", "line")
_LIGHT = ("#1f2328", "#59636e", "#d1d9e0", "#1a7f37", "#bc4c00", "#0969da")
_DARK = ("#f0f6fc", "#9198a1", "#3d444d", "#3fb950", "#f0883e", "#4493f8")
_FONT = "ui-sans-serif, system-ui, 'DejaVu Sans', Helvetica, Arial, sans-serif"


def _colours(ground: str, colours: tuple[str, ...]) -> str:
    rules = [f".ground{{fill:{ground}}}"]
    for ink, colour in zip(_INKS, colours, strict=True):
        rules += [f"line.{ink},polyline.{ink},circle.{ink}{{stroke:{colour}}}"]
        rules += [f"text.{ink},circle.{ink}.full{{fill:{colour}}}"]
    return "".join(rules)


_STYLE = (
    f"text{{font:12px {_FONT}}}text.small{{font-size:10px}}text.head{{font-size:14px;font-weight:600}}"
    "polyline,.open{fill:none}"
    f"{_colours('#ffffff', _LIGHT)}@media (prefers-color-scheme:dark){{{_colours('#0d1117', _DARK)}}}"
)


class Drawing:
    """Shapes in the order in which they were drawn; y grows downwards, in pixels."""

    def __init__(self, width: float, height: float, title: str) -> None:
        """An empty one; `title` says what it shows to who cannot see it."""
        self._head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_n(width)}" height="{_n(height)}" '
            f'viewBox="0 0 {_n(width)} {_n(height)}" role="img"><title>{escape(title)}</title><style>{_STYLE}</style>'
            f'<rect class="ground" width="{_n(width)}" height="{_n(height)}"/>'
        )
        self._shapes: list[str] = []

    def line(
        self, x1: float, y1: float, x2: float, y2: float, ink: Ink, *, width: float = 1, dashed: bool = False
    ) -> None:
        """One straight line."""
        dashes = ' stroke-dasharray="4 3"' if dashed else ""
        ends = f'x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}"'
        self._shapes.append(f'<line class="{ink}" {ends} stroke-width="{_n(width)}"{dashes}/>')

    def path(self, points: Iterable[tuple[float, float]], ink: Ink) -> None:
        """A line through points."""
        listed = " ".join(f"{_n(x)},{_n(y)}" for x, y in points)
        self._shapes.append(f'<polyline class="{ink}" points="{listed}" stroke-width="2"/>')

    def dot(self, x: float, y: float, ink: Ink, *, full: bool = True) -> None:
        """A small disc, or a ring."""
        inside = "full" if full else "open"
        self._shapes.append(f'<circle class="{ink} {inside}" cx="{_n(x)}" cy="{_n(y)}" r="4" stroke-width="2"/>')

    def text(  # noqa: PLR0917 - where, what and how
        self,
        x: float,
        y: float,
        text: str,
        ink: Ink = "text",
        anchor: Literal["start", "middle", "end"] = "start",
        size: Literal["", "small", "head"] = "",
    ) -> None:
        """One line of text on its base line."""
        names = quoteattr(f"{ink} {size}".strip())
        self._shapes.append(
            f'<text class={names} x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}">{escape(text)}</text>'
        )

    def document(self) -> str:
        """The whole of it."""
        return "\n".join([self._head, *self._shapes, "</svg>", ""])


def _n(value: float) -> str:
    """A tenth of a pixel is enough."""
    return f"{value:.1f}".removesuffix(".0")
