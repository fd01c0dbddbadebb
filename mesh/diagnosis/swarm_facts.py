"""Facts of one link as Swarm has them: services by their labels, tasks, nodes, and the agents' own tasks. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

RUNNING = "running"
STARTING = "starting"
"""With the start gate a task waits in this state until it is wired."""


@dataclass(frozen=True, slots=True)
class SwarmService:
    """A service of the Swarm.

    Attributes:
        name: its full name.
        links: the providers that its links name, those that it does not reach too.
        label_errors: labels that cannot be read, in words.
        replicas: tasks that it should have; None for a global service.
        strict: whether it is kept apart from other linked services outside the mesh.
        needs_gate: whether it is placed on nodes with the start gate alone.
    """

    name: str
    links: tuple[str, ...] = ()
    label_errors: tuple[str, ...] = ()
    replicas: int | None = None
    strict: bool = True
    needs_gate: bool = False


@dataclass(frozen=True, slots=True)
class SwarmTask:
    """A task, as Swarm has it.

    Attributes:
        id: Swarm's.
        name: such as `shop_web.1`.
        node: id of its node; empty as long as it has none.
        state: Swarm's word.
        wanted: the state that Swarm wants it in.
        error: why it does not run, in Swarm's words; empty for none.
        age: seconds since it came into this state, by its node's clock; None where that is not known.
        made: seconds since Swarm made it; None likewise.
    """

    id: str
    name: str
    node: str
    state: str
    wanted: str
    error: str = ""
    age: float | None = None
    made: float | None = None

    @property
    def is_running(self) -> bool:
        """Whether it runs and is to."""
        return self.state == RUNNING == self.wanted


@dataclass(frozen=True, slots=True)
class Change:
    """The last change of a service.

    Attributes:
        ago: seconds since its specification changed; None where that is not known.
        updating: seconds since Swarm began to update its tasks, or to roll them back; None where it does neither.
    """

    ago: float | None = None
    updating: float | None = None


@dataclass(frozen=True, slots=True)
class SwarmNode:
    """A node of the Swarm.

    Attributes:
        id: Swarm's.
        name: its host name.
        state: `ready` or `down`.
        availability: `active`, `pause` or `drain`.
        has_gate: whether it has the label of the start gate.
    """

    id: str
    name: str
    state: str
    availability: str
    has_gate: bool = False


@dataclass(frozen=True, slots=True)
class SwarmFacts:
    """All that Swarm knows of one link.

    Attributes:
        consumer: the name of the consumer's service, as asked for.
        provider: that of the provider's.
        services: every service of the Swarm, by name.
        refusal: why the two sides do not agree on the link, in words; empty where they do.
        tasks: service's name -> its tasks, the newest first.
        nodes: by id.
        agents: node's id -> its agent's newest task.
        consumer_task: id of the task that was asked for; empty for any.
        provider_task: the same at the provider.
    """

    consumer: str
    provider: str
    services: Mapping[str, SwarmService]
    refusal: str
    tasks: Mapping[str, tuple[SwarmTask, ...]]
    nodes: Mapping[str, SwarmNode]
    agents: Mapping[str, SwarmTask]
    consumer_task: str = ""
    provider_task: str = ""

    def running(self, service: str) -> tuple[SwarmTask, ...]:
        """Return a service's running tasks; where there are none, those that start and may wait for their links."""
        wanted = [task for task in self.tasks.get(service, ()) if task.wanted == RUNNING]
        started = [task for task in wanted if task.state == RUNNING]
        return tuple(started or [task for task in wanted if task.state == STARTING])

    def node_name(self, node: str) -> str:
        """Return a node's name, its id where Swarm has none."""
        return self.nodes[node].name if node in self.nodes else node
