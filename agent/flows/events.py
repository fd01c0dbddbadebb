"""Events of a watch of flows: what a node sees of its own tasks, by addresses. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from agent.flows.conntrack_events import Connection

MOST_EVENTS = 400
"""Events that one watch reads in a second, those included that go over no link."""


@dataclass(frozen=True, slots=True)
class Begun:
    """Beginning of a watch.

    Attributes:
        tasks: how many are listened to.
        tasks_here: how many there are on the node.
        problems: why others are not, in words.
    """

    tasks: int
    tasks_here: int
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """A new connection, seen in a task's namespace.

    Attributes:
        task: id of the task.
        at: seconds of the monotonic clock of the node that saw it.
        connection: as the kernel told of it.
    """

    task: str
    at: float
    connection: Connection


@dataclass(frozen=True, slots=True)
class Refusal:
    """Packets that a task's rules have refused since the last look.

    Attributes:
        task: id of the task.
        at: as in Seen.
        direction: `in`, `out` or `apart`.
        other: id of the service at the other end; empty where nobody knows it.
        packets: how many.
    """

    task: str
    at: float
    direction: str
    other: str
    packets: int


@dataclass(frozen=True, slots=True)
class Counts:
    """How much a watch has seen so far.

    Attributes:
        events: that were read, those included that go over no link.
        full_seconds: in which there were more.
        overflowed_tasks: of which the kernel told not all.
        tasks: that are still listened to.
    """

    events: int = 0
    full_seconds: int = 0
    overflowed_tasks: int = 0
    tasks: int = 0


Event = Begun | Seen | Refusal | Counts
