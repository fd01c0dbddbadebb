"""Graph of services and links with their measured state, and its texts for Mermaid and Graphviz. Pure."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from compose_ext.swarm.link_states import Link
from compose_ext.terminal import line

NOT_ALLOWED, NO_TASKS = "not allowed", "no tasks"
"""States of links that have no pair of tasks: the provider does not allow it; one end runs no task."""
WORST_FIRST = (
    *("broken", "unwired", NOT_ALLOWED, "stale", "no-handshake", "unknown", NO_TASKS, "idle", "connected"),
)
GREEN, BLUE, AMBER, RED, GREY = "#1a7f37", "#0969da", "#9a6700", "#cf222e", "#6e7781"
COLOURS: Mapping[str, str] = {
    "broken": RED,
    "unwired": RED,
    NOT_ALLOWED: RED,
    "stale": AMBER,
    "no-handshake": AMBER,
    "unknown": AMBER,
    NO_TASKS: GREY,
    "idle": BLUE,
    "connected": GREEN,
}
"""Of a link's line, by state. The state is always written beside it as well."""
DASHED = frozenset({"broken", "unwired", NOT_ALLOWED, NO_TASKS})
_PLAIN = re.compile(r"[^A-Za-z0-9 ._,:/()+-]")


@dataclass(frozen=True, slots=True)
class Edge:
    """One link."""

    consumer: str
    provider: str
    aliases: tuple[str, ...]
    """Without the provider's own name."""
    ports: str
    state: str
    """The worst of its pairs'."""
    pairs: Mapping[str, int]
    """How many pairs of tasks are in each state."""
    refused: int
    """Packets."""

    @property
    def label(self) -> str:
        """Return its aliases, ports and state as one line."""
        what = " ".join(part for part in (", ".join(self.aliases), self.ports) if part)
        return f"{what}: {self.said}" if what else self.said

    @property
    def said(self) -> str:
        """Return its state, and how many of its pairs are in it."""
        total = sum(self.pairs.values())
        return f"{self.state} {self.pairs.get(self.state, 0)}/{total}" if total else self.state


@dataclass(frozen=True, slots=True)
class Graph:
    """All links, and the services at their ends."""

    services: tuple[str, ...]
    edges: tuple[Edge, ...]


def graph_of(links: Iterable[Link]) -> Graph:
    """Return the graph of some links."""
    edges = tuple(sorted(map(_edge, links), key=lambda edge: (edge.consumer, edge.provider, edge.aliases)))
    return Graph(tuple(sorted({end for edge in edges for end in (edge.consumer, edge.provider)})), edges)


def _edge(link: Link) -> Edge:
    state = min(link.states, key=badness, default=NO_TASKS)
    return Edge(
        link.consumer,
        link.provider,
        tuple(alias for alias in link.aliases if alias != link.provider),
        "" if link.ports in ("", "all") else link.ports,
        state if link.allowed else NOT_ALLOWED,
        dict(sorted(link.states.items())),
        link.refused or 0,
    )


def badness(state: str) -> int:
    """Return a state's place, the worst first; one that is not known here counts as `unknown`."""
    return WORST_FIRST.index(state if state in WORST_FIRST else "unknown")


def colour(state: str) -> str:
    """Return a state's colour."""
    return COLOURS.get(state, COLOURS["unknown"])


def mermaid(graph: Graph) -> str:
    """Write it as a flowchart of Mermaid."""
    number = {service: index for index, service in enumerate(graph.services)}
    lines = ["flowchart LR", *(f'  s{number[name]}["{_escaped(name)}"]' for name in graph.services)]
    for edge in graph.edges:
        arrow = "-.->" if edge.state in DASHED else "-->"
        lines.append(f'  s{number[edge.consumer]} {arrow}|"{_escaped(edge.label)}"| s{number[edge.provider]}')
    for index, edge in enumerate(graph.edges):
        lines.append(f"  linkStyle {index} stroke:{colour(edge.state)},stroke-width:2px")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    """Write a text between Mermaid's quotes: what is no plain character by its number."""
    return _PLAIN.sub(lambda found: f"#{ord(found[0])};", line(text))


def dot(graph: Graph) -> str:
    """Write it in Graphviz's language."""
    lines = ["digraph linkwire {", "  rankdir=LR;", '  node [shape=box, style=rounded, fontname="sans-serif"];']
    lines += ['  edge [fontname="sans-serif", fontsize=10];', *(f"  {_quoted(name)};" for name in graph.services)]
    for edge in graph.edges:
        looks = {"label": edge.label, "color": colour(edge.state), "fontcolor": colour(edge.state)}
        looks |= {"style": "dashed"} if edge.state in DASHED else {}
        written = ", ".join(f"{name}={_quoted(text)}" for name, text in looks.items())
        lines.append(f"  {_quoted(edge.consumer)} -> {_quoted(edge.provider)} [{written}];")
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(text: str) -> str:
    escaped = line(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def document(graph: Graph) -> str:
    """Write it as JSON."""
    links = [{**asdict(edge), "aliases": list(edge.aliases), "pairs": dict(edge.pairs)} for edge in graph.edges]
    return json.dumps({"services": list(graph.services), "links": links}, indent=2) + "\n"
