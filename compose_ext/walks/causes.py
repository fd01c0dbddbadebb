"""Causes of links that do not work: each once, with all links that it concerns, the worst first. Pure."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mesh.diagnosis.steps import STAGES, Step
from mesh.diagnosis.tunnel_stages import DROPPED, opening

_SHOWN = 3
"""Links, and nodes, of one cause that are named."""
_WAYS = ("underlay", "mtu")
"""Stages whose fault may be one node's, however many others it loses packets to or from."""

Concerned = tuple[str, Step]
"""A link, in words, and the step that names its cause."""


@dataclass(frozen=True, slots=True)
class Cause:
    """A cause, and the links that it concerns.

    Attributes:
        text: what is wrong, in the user's words.
        links: in words, in their order.
        is_wrong: whether they do not work; else they do, and something is wrong all the same.
        since: how long it has been so; empty where nobody knows.
        command: mends it, or shows more of it.
        node: id of the node whose agent is meant; empty for none.
    """

    text: str
    links: tuple[str, ...]
    is_wrong: bool
    since: str = ""
    command: str = ""
    node: str = ""

    def __str__(self) -> str:
        since = f" (for {self.since})" if self.since else ""
        mend = f"; {self.command}" if self.command else ""
        return f"{_some(self.links, ' links')}: {self.text}{since}{mend}"


def causes(concerned: Sequence[Concerned]) -> tuple[Cause, ...]:
    """Bring links together whose cause is the same."""
    groups: dict[tuple[str, str, str], list[Concerned]] = {}
    at_fault = {stage: _at_fault(step for _, step in concerned if step.stage == stage) for stage in _WAYS}
    for link, step in concerned:
        groups.setdefault(_same(step, at_fault), []).append((link, step))
    made = [(_cause(node if kind == "node" else "", group), group) for (kind, _, node), group in groups.items()]
    made.sort(key=lambda one: (not one[0].is_wrong, -len(one[0].links), STAGES.index(one[1][0][1].stage)))
    return tuple(cause for cause, _ in made)


def _same(step: Step, at_fault: Mapping[str, Mapping[tuple[str, str], str]]) -> tuple[str, str, str]:
    """Return what two steps of one cause have in common."""
    if step.node:  # links that end with its agent, and links that do without
        return "agent", "", step.node
    if not step.ways:
        return "text", "", step.cause or step.text
    node = at_fault[step.stage].get(step.ways[0], "")
    if node:
        return "node", step.stage, node
    return "ways", step.stage, " ".join(sorted(step.ways[0]))


def _at_fault(steps: Iterable[Step]) -> dict[tuple[str, str], str]:
    """Return for ways that lose packets the node that they have in common: the one with most others, at least two."""
    left = {way for step in steps for way in step.ways if way[0] != way[1]}
    found: dict[tuple[str, str], str] = {}
    while left:
        others: dict[str, set[str]] = {}
        for one, other in left:
            others.setdefault(one, set()).add(other)
            others.setdefault(other, set()).add(one)
        node = min(others, key=lambda name: (-len(others[name]), name))
        if len(others[node]) == 1:
            break
        taken = {way for way in left if node in way}
        found |= dict.fromkeys(taken, node)
        left -= taken
    return found


def _cause(node: str, group: Sequence[Concerned]) -> Cause:
    links = tuple(dict.fromkeys(link for link, _ in group))
    steps = [step for _, step in group]
    # Of the worst, since that names its links' cause.
    first = next((step for step in steps if step.outcome == "wrong"), steps[0])
    is_wrong = first.outcome == "wrong"
    ways = tuple(sorted({way for step in steps for way in step.ways}))
    if first.stage == "underlay" and ways and len({step.text for step in steps}) > 1:
        text, command = _lost(node, ways), opening(sorted({target for _, target in ways}))
        return Cause(f"{text}: {DROPPED}", links, is_wrong, first.since, command)
    if node and first.stage == "mtu":
        others = sorted({name for way in ways for name in way} - {node})
        text = f"large packets between {node} and {_some(others)} are lost, and the network does not say so"
        return Cause(f"{text}; such as: {first.text}", links, is_wrong, first.since, first.command)
    text = first.text if len({step.text for step in steps}) == 1 else first.cause or first.text
    return Cause(text, links, is_wrong, first.since, first.command, first.node)


def _lost(node: str, ways: Collection[tuple[str, str]]) -> str:
    """Say between which nodes UDP is lost: at one node that all ways have in common, or between two."""
    if not node:
        return " and ".join(f"UDP from {source} does not reach {target}" for source, target in sorted(ways))
    sources = [source for source, target in sorted(ways) if target == node]
    targets = [target for source, target in sorted(ways) if source == node]
    into = f"UDP from {_some(sources)} does not reach {node}" if sources else ""
    out = f"UDP from {node} does not reach {_some(targets)}" if targets else ""
    return " and ".join(part for part in (into, out) if part)


def _some(names: Sequence[str], kind: str = "") -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more{kind}" if more > 0 else "")
