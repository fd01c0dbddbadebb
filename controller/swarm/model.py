"""Model of a Swarm: its services, tasks and nodes as frozen data. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from mesh.model.changelog import Cursor
from mesh.model.encryption.status import DATA_PATH_PORT
from mesh.model.labels.link_labels import LabelError, ServiceLabels
from mesh.model.labels.ports import PortRange
from mesh.model.net import IPAddress, IPNetwork
from mesh.model.records import Attachment

# swarmkit api/types.proto, enum TaskState; a task's state only ever grows.
STATES = (
    "new",
    "pending",
    "assigned",
    "accepted",
    "preparing",
    "ready",
    "starting",
    "running",
    "complete",
    "shutdown",
    "failed",
    "rejected",
    "remove",
    "orphaned",
)
_ORDER = MappingProxyType({name: n for n, name in enumerate(STATES)})
_RUNNING = _ORDER["running"]
_COMPLETE = _ORDER["complete"]


@dataclass(frozen=True, slots=True)
class Deploy:
    """Origin of a service's present form, for the audit log. Swarm keeps no name of the one who deployed."""

    version: int = 0
    """Swarm's version index of the service."""
    updated: str = ""
    """Time of its last change, as Swarm writes it."""
    mark: str = ""
    """The label `linkwire.deploy`: the deployer's own words."""


@dataclass(frozen=True, slots=True)
class SwarmService:
    """A service of the Swarm, with decoded labels."""

    id: str
    name: str
    labels: ServiceLabels
    label_errors: tuple[LabelError, ...]
    dnsrr: bool
    replicas: int | None
    """None for a global service or a job."""
    attachments: tuple[Attachment, ...] = ()
    """Its virtual IPs on Swarm's own networks."""
    published: tuple[PortRange, ...] = ()
    """Its tasks' own ports that are published, in either mode."""
    stack: str | None = None
    """The stack that it is of, by its name and Docker's label; None for none."""
    hosts: frozenset[str] = frozenset()
    """Names that its containers know without any network, in lower case."""
    aliases: tuple[tuple[str, str], ...] = ()
    """Networks that it is on, each with a name that it has there, in lower case, or an empty one."""
    deploy: Deploy = field(default=Deploy(), compare=False)
    """Of the change that was noticed last: a service that differs in nothing else is the same."""

    @property
    def is_plain(self) -> bool:
        """Whether it has no label of ours, or none that says more than its absence would."""
        return self.labels == ServiceLabels() and not self.label_errors


@dataclass(frozen=True, slots=True)
class SwarmNetwork:
    """A network of Swarm scope, as far as a task's addresses on it are concerned."""

    id: str
    one_per_node: bool
    """True if each node has its own of that id: a bridge. Addresses of other nodes cannot be reached by it."""
    subnets: tuple[IPNetwork, ...] = ()
    """Empty where Swarm does not say: each node has its own configuration (`--config-from`)."""
    gateways: frozenset[IPAddress] = frozenset()


@dataclass(frozen=True, slots=True)
class SwarmTask:
    """A task of the Swarm."""

    id: str
    service: str
    slot: int
    node: str
    """Empty until it is assigned."""
    desired: str
    state: str
    attachments: tuple[Attachment, ...] = ()
    """Its addresses on Swarm's own networks, from its assignment on; its node reports those on node-local ones."""
    networks: tuple[SwarmNetwork, ...] = ()
    """The networks of Swarm scope that Swarm has put it on, from its assignment on."""

    @property
    def wanted(self) -> bool:
        """True if Swarm wants it to run (or, for a job, to run to its end)."""
        return _ORDER.get(self.desired, 0) <= _COMPLETE

    @property
    def ended(self) -> bool:
        """True if its process will never run again."""
        return _ORDER.get(self.state, 0) >= _COMPLETE

    @property
    def running(self) -> bool:
        """True if its process runs (and is healthy where it has a check)."""
        return self.state == "running"

    @property
    def settled(self) -> bool:
        """True if its state is the one that Swarm wants."""
        return self.ended or (self.wanted and _ORDER.get(self.state, 0) == _RUNNING)


@dataclass(frozen=True, slots=True)
class SwarmNode:
    """A node of the Swarm."""

    id: str
    hostname: str
    down: bool
    address: IPAddress | None
    """The node label `linkwire.address`: an operator's word on where other nodes reach it."""
    label_error: str | None = None
    known_at: tuple[IPAddress, ...] = ()
    """Addresses that Swarm knows it by: as its managers see it, and as a manager advertises itself."""
    approved: str | None = None
    """The node label `linkwire.key`: the fingerprint of the keys that an operator has approved as the node's."""
    revoked: str | None = None
    """The node label `linkwire.revoked`: since when an operator wants its tasks to have no links."""
    manager: bool = True

    @property
    def revocation(self) -> str | None:
        """Return a name for its revocation that no other one has, before or after; None where it is not revoked."""
        return None if self.revoked is None else f"{self.id}@{self.revoked}"


Named = tuple[str, str]
"""`service`, `task` or `node`, and an id."""


@dataclass(frozen=True, slots=True)
class SwarmChange:
    """Ids of services, tasks and nodes that may differ between two pictures of a Swarm."""

    services: frozenset[str] = frozenset()
    tasks: frozenset[str] = frozenset()
    nodes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Lineage:
    """Origin of a picture of a Swarm, in a series of them.

    Attributes:
        services: the picture's.
        tasks: the picture's.
        nodes: the picture's.
        mark: position in the log of changes.
    """

    services: Mapping[str, SwarmService]
    tasks: Mapping[str, SwarmTask]
    nodes: Mapping[str, SwarmNode]
    mark: Cursor[Named]


@dataclass(frozen=True, slots=True)
class Swarm:
    """Picture of a Swarm at one moment; its lists are always complete."""

    cluster: str
    services: Mapping[str, SwarmService]
    tasks: Mapping[str, SwarmTask]
    nodes: Mapping[str, SwarmNode]
    roots: tuple[bytes, ...] = ()
    """Roots of the nodes' certificates, in PEM."""
    data_path_port: int = DATA_PATH_PORT
    """UDP port of its VXLAN."""
    trail: Lineage | None = field(default=None, compare=False, repr=False)

    def changed_since(self, before: Swarm) -> SwarmChange | None:
        """Return what may differ from an earlier picture; None for anything."""
        now, then = self._trail(), before._trail()
        changed = now.mark.since(then.mark) if now is not None and then is not None else None
        if changed is None or self._own() != before._own():
            return None
        named: dict[str, set[str]] = {"service": set(), "task": set(), "node": set()}
        for kind, name in changed:
            named[kind].add(name)
        return SwarmChange(frozenset(named["service"]), frozenset(named["task"]), frozenset(named["node"]))

    def _own(self) -> tuple[object, ...]:
        return self.cluster, self.roots, self.data_path_port

    def _trail(self) -> Lineage | None:
        """Return the trail; None if the picture was copied with other lists."""
        trail = self.trail
        if trail is None or trail.services is not self.services or trail.tasks is not self.tasks:
            return None
        return trail if trail.nodes is self.nodes else None

    def live(self, task: SwarmTask) -> bool:
        """Tell whether a task holds, or may still hold, a place on a reachable node.

        A task of a dead node reads `running` for up to a day, so where Swarm wants it gone its node's state
        decides; and a task whose node has left the Swarm is over. On a revoked node no task holds a place.
        """
        if not task.node or task.ended:
            return False
        node = self.nodes.get(task.node)
        return node is not None and node.revoked is None and (task.wanted or not node.down)

    def revocations(self) -> frozenset[str]:
        """Return the revocations that hold."""
        return frozenset(name for node in self.nodes.values() if (name := node.revocation) is not None)

    def moves(self, service: str, tasks: Iterable[SwarmTask]) -> bool:
        """Tell whether Swarm is still moving the tasks of a service, which are these."""
        running = 0
        for task in tasks:
            if task.settled:
                running += task.running and task.wanted
            elif task.wanted or self.live(task):
                return True
        replicas = self.services[service].replicas if service in self.services else None
        return replicas not in {None, running}
