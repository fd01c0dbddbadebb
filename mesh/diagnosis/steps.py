"""Steps of a walk, along a link or between nodes; how it ends, and when a thing is wrong only once it lasts. Pure.

A stack is deployed service by service, and a task starts step by step: what is still to come may be missing for a
moment. Status, checks, the controller's log and what it records and counts all wait equally long.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["ok", "warning", "wrong", "skipped"]
"""`warning`: something is wrong that this link may do without; `skipped`: nobody could look."""

STAGES = (
    "label",
    "consent",
    "placement",
    "agent",
    "record",
    "key",
    "device",
    "peer",
    "handshake",
    "underlay",
    "mtu",
    "rule",
    "vip",
    "backends",
    "listens",
    "name",
)
"""Of a walk along a link, in its order: each rests on those before it."""

NODE_STAGES = (
    "node",
    "agent",
    "member",
    "key",
    "place",
    "step",
    "device",
    "peer",
    "handshake",
    "underlay",
    "route",
    "firewall",
    "plain",
    "mtu",
)
"""The same of a walk between two nodes, along node encryption."""

STARTING_S = 10.0
"""Seconds for which a service may link to one that is still to be deployed, or wait for one to accept its link; for
which it may lack a running task after a change; and for which an error of a task that starts may pass: its namespace
is not there yet, or its address."""


@dataclass(frozen=True, slots=True)
class Step:
    """Finding of one stage.

    Attributes:
        stage: one of STAGES, or of NODE_STAGES.
        outcome: `wrong` ends the walk.
        text: what was found, in the user's words.
        place: the node, task or service that it was found at; empty where the text says it all.
        since: how long it has been so, in words; empty where nobody knows.
        command: mends it, or shows more of it; empty for none.
        node: id of the node whose agent is meant, for who can find out more about it; empty for none.
        cause: what is the same for all links of this cause, where the text is of one link; empty where the text is.
        ways: names of nodes between which packets are lost, the sender's first; for a cause that a node may have in
            common with others.
    """

    stage: str
    outcome: Outcome
    text: str
    place: str = ""
    since: str = ""
    command: str = ""
    node: str = ""
    cause: str = ""
    ways: tuple[tuple[str, str], ...] = ()

    def told(self) -> dict[str, str]:
        """Return the step as one link's walk tells it: without that by which links are brought together."""
        return {
            "stage": self.stage,
            "outcome": self.outcome,
            "text": self.text,
            "place": self.place,
            "since": self.since,
            "command": self.command,
            "node": self.node,
        }


def ok(stage: str, text: str) -> Step:
    """Make a step at which all is well."""
    return Step(stage, "ok", text)


def until_wrong(steps: Iterable[Step]) -> Iterator[Step]:
    """Yield steps up to the first that is wrong."""
    for step in steps:
        yield step
        if step.outcome == "wrong":
            return


def worst(steps: Iterable[Step]) -> Step | None:
    """Return the step that names the cause: the one that is wrong, else the first warning; None where all is well."""
    every = tuple(steps)
    wrong = [step for step in every if step.outcome == "wrong"]
    return next(iter(wrong or [step for step in every if step.outcome == "warning"]), None)


def is_lasting(age: float | None) -> bool:
    """Tell whether something lasts, by its age in seconds; an unknown age is a long one."""
    return age is None or age >= STARTING_S


def lasts_in(age: float) -> float:
    """Return the seconds until something of an age lasts; 0 where it does."""
    return max(0.0, STARTING_S - age)


def ago(seconds: float | None) -> str:
    """Write a length of time as people say it; empty for None."""
    if seconds is None:
        return ""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, round(seconds))} s"
