"""Observations of a stack, frozen: its services as Swarm has them, and as Linkwire has them. No I/O here."""

from collections.abc import Mapping
from dataclasses import dataclass, field

RUNNING = "running"
COMPLETE = "complete"


@dataclass(frozen=True, slots=True)
class Task:
    """A task that Swarm wants to run, or that ran to its end in a service of one-time tasks.

    Attributes:
        id: Swarm's.
        name: as `docker service ps` shows it, `shop_web.1`.
        node: name of its node; empty while it has none.
        state: Swarm's word.
        error: Swarm's, or the container's; empty for none.
        current: whether it is of the service's newest specification.
    """

    id: str
    name: str
    node: str
    state: str
    error: str = ""
    current: bool = True


@dataclass(frozen=True, slots=True)
class Service:
    """A service as Swarm has it.

    Attributes:
        name: full name.
        wanted: number of tasks; None for a global service, which has one a node.
        tasks: those that Swarm wants now.
        updating: whether Swarm is replacing tasks, or watches new ones.
        given_up: Swarm's words, where it stopped the update or rolled it back; else empty.
        failures: errors of its newest tasks that have ended, newest last.
        linked: whether it has a link at either end, by the files.
        providers: of the links that its labels ask for, each with the names that it gets.
    """

    name: str
    wanted: int | None
    tasks: tuple[Task, ...]
    updating: bool = False
    given_up: str = ""
    failures: tuple[str, ...] = ()
    linked: bool = False
    providers: Mapping[str, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WiredTask:
    """A task as Linkwire has it.

    Attributes:
        id: Swarm's.
        node: name of its node.
        wired: whether its node's agent has read back all of its interface.
        ready: whether it takes connections.
        silent: whether its node's agent says nothing.
        held: the agent's reason for not acting on the newest records; empty for none.
        error: the agent's, empty for none.
    """

    id: str
    node: str
    wired: bool
    ready: bool
    silent: bool = False
    held: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Link:
    """A link as Linkwire has it: the provider's name, the names that the consumer gets, and whether it is made."""

    provider: str
    aliases: frozenset[str]
    allowed: bool
    exists: bool


@dataclass(frozen=True, slots=True)
class Recorded:
    """A linked service as Linkwire has it."""

    links: tuple[Link, ...]
    tasks: tuple[WiredTask, ...]


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a stack.

    Attributes:
        services: its services, by name.
        recorded: those of them, and of other stacks at the other end of a link, that Linkwire has records of.
        unanswered: why Linkwire could not be asked; empty where it answered.
        never: whether no later look can be expected to be answered.
    """

    services: tuple[Service, ...]
    recorded: Mapping[str, Recorded]
    unanswered: str = ""
    never: bool = False
