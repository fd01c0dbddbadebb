"""A Swarm and its agents that do whatever a test chooses, one small thing at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from typing import Protocol, TypeVar

from controller.swarm.model import STATES, Swarm, SwarmNetwork, SwarmNode, SwarmService, SwarmTask
from mesh.crypto.hpke import NodeKey, NodePublicKey
from mesh.crypto.keys import PrivateKey
from mesh.crypto.preshared_keys import LinkKey, LinkSeed, link_key
from mesh.crypto.signed_envelope import SigningKey
from mesh.model import keyspace
from mesh.model.labels.link_labels import LinkLabel, ServiceLabels
from mesh.model.records import Attachment, Endpoint, Node, TaskReport, TaskState
from mesh.model.snapshot import Delete
from mesh.model.vault.records import EpochHistory
from tests.unit.controller.memory_store import MemoryStore

SUBNET = IPv4Network("10.1.0.0/27")
NAMES = ("shop_web", "shop_db", "shop_cache", "blog_web")
NODES = ("n1", "n2", "n3")
FIRST_PORT, LAST_PORT = 51820, 51824
PROCESS = ("assigned", "preparing", "starting", "running")
REPORT_KEY = SigningKey(bytes(32)).verify_key
OVERLAY, BRIDGE = "overlay", "ab" * 32
LABELLED = IPv4Address("203.0.113.7")
"""The address that an operator gives a node."""
ON_OVERLAY = SwarmNetwork(OVERLAY, one_per_node=False)
ENDS = ("complete", "shutdown", "failed", "rejected", "orphaned")

SEED = LinkSeed(bytes(range(32)))

T = TypeVar("T")


class Choose(Protocol):
    """Picks one of several."""

    def __call__(self, options: Sequence[T], /) -> T: ...


def on(network: str, number: int) -> Attachment:
    """An address on a network that is not the mesh, an IPv6 one if the number is odd."""
    v4, v6 = IPv4Address("172.20.0.0"), IPv6Address("fd12::")
    return Attachment(network, v6 + number if number % 2 else v4 + number)


def recorded(attachment: Attachment, node: str) -> Attachment:
    """The same as a record has it: a bridge is of one node alone."""
    return replace(attachment, network=f"{BRIDGE[:12]}@{node}") if attachment.network == BRIDGE else attachment


def home(node: str) -> IPv4Address:
    """The address of a node, as Swarm knows it."""
    return IPv4Address(f"192.0.2.{int(node[1:])}")


def node_of(name: str, label: IPv4Address | None = None) -> SwarmNode:
    """A node that is up."""
    return SwarmNode(name, f"host-{name}", down=False, address=label, known_at=(home(name),))


@cache
def private_key(number: int) -> PrivateKey:
    """The n-th private key of a test, always the same."""
    return PrivateKey((number * 8).to_bytes(32, "little"))  # clamping clears the three lowest bits


def node_key(number: int) -> NodeKey:
    """The n-th sealing key of a test, always the same."""
    return NodeKey(number.to_bytes(32, "little"))


class DerivedSecrets:
    """Link keys' secrets from a seed alone."""

    def __call__(self, key: str, epoch: int, /) -> LinkKey:
        return link_key(SEED, "cluster", key, epoch)

    def noted(self, history: EpochHistory, /) -> EpochHistory:
        return history


secret = DerivedSecrets()


def service(name: str, *providers: str, number: int = 0, replicas: int | None = None) -> SwarmService:
    """A service that links to providers by their names; all of them are of one stack."""
    links = tuple(LinkLabel(provider, (provider.partition("_")[2],)) for provider in providers)
    labels = ServiceLabels(links)
    return SwarmService(f"{name}#{number}", name, labels, (), dnsrr=False, replicas=replicas, stack="shop")


WEB = service("shop_web", "shop_db", replicas=1)
DB = service("shop_db", replicas=1)


class World:
    """What a Swarm's managers and its agents know, changed by `act`."""

    def __init__(self, choose: Choose, store: MemoryStore) -> None:
        self._choose = choose
        self._store = store
        self._made = 0
        self.now = 1_800_000_000
        """Of the controller's clock, in seconds."""
        self.services: dict[str, SwarmService] = {}
        self.tasks: dict[str, SwarmTask] = {}
        self.nodes: dict[str, SwarmNode] = {}
        self.roots: tuple[bytes, ...] = (b"root",)
        self.homes: dict[str, str] = {}
        """Which node has the private key of a sealing key, by its fingerprint."""
        self.sealing_keys: dict[str, NodeKey] = {}
        self.members: dict[str, NodePublicKey] = {}
        """Node -> the sealing key that it has shown to be its own."""
        self.said: dict[str, set[Attachment]] = {}
        """Task -> all that Swarm or its own node ever said of its addresses."""
        self.actions: dict[str, Callable[[], None]] = {
            "deploy": self._deploy,
            "relink": self._relink,
            "remove": self._remove,
            "vanish": self._vanish,
            "start": self._start,
            "advance": self._advance,
            "stop": self._stop,
            "end": self._end,
            "forget": self._forget,
            "drain": self._drain,
            "node": self._node,
            "node down": self._node_down,
            "node leaves": self._node_leaves,
            "node revoked": self._node_revoked,
            "agent": self._agent,
            "agent silent": self._agent_silent,
            "report": self._report,
            "port taken": self._port_taken,
            "lie": self._lie,
            "rested": self._rested,
        }
        for name in NODES:
            self.nodes[name] = node_of(name)
            self.register(name)

    def swarm(self, reverse: bool = False) -> Swarm:
        """Complete lists, as of now."""

        def order(found: dict[str, T]) -> dict[str, T]:
            return dict(reversed(found.items())) if reverse else dict(found)

        return Swarm("cluster", order(self.services), order(self.tasks), order(self.nodes), self.roots)

    def act(self, action: str) -> None:
        """Let one thing happen."""
        self.actions[action]()
        self.now += 1

    def register(self, node: str) -> None:
        """An agent starts with a sealing key that it never had before."""
        self._made += 1
        key = node_key(self._made)
        self.homes[key.public.fingerprint] = node
        self.sealing_keys[key.public.fingerprint] = key
        self.members[node] = key.public
        self._store.write(
            Node(
                id=node,
                hostname=f"host-{node}",
                sealing_key=key.public,
                report_key=REPORT_KEY,
                counter=self._made,
                proof=None,
                unproven=None,
                address=home(node),
                first_port=FIRST_PORT,
                last_port=LAST_PORT,
                backend="kernel",
                version="0.1.0",
            ),
        )

    def add(self, found: SwarmService, *nodes: str, state: str = "running") -> tuple[SwarmTask, ...]:
        """Deploy a service with one task on each of some nodes."""
        self.services[found.id] = found
        return tuple(self.start(found.id, node, state) for node in nodes)

    def start(self, service_id: str, node: str, state: str = "running") -> SwarmTask:
        """One more task."""
        self._made += 1
        elsewhere = self._choose(((), (on(OVERLAY, self._made),)))
        task = SwarmTask(
            f"t{self._made:04}", service_id, self._made, node, "running", state, elsewhere, (ON_OVERLAY,)
        )
        self.tasks[task.id] = task
        self.said[task.id] = set(elsewhere)
        return task

    def change(self, task: str, **changes: str) -> None:
        """Change a task."""
        found = self.tasks[task]
        self.tasks[task] = replace(
            found, desired=changes.get("desired", found.desired), state=changes.get("state", found.state)
        )

    def report(
        self,
        task: str,
        state: TaskState = "running",
        *,
        wired: bool = True,
        port_taken: int | None = None,
        elsewhere: tuple[Attachment, ...] = (),
    ) -> None:
        """What a task's node says of it."""
        found = self.tasks[task]
        error = "the UDP port is taken" if port_taken else None
        self.said[task].update(recorded(claim, found.node) for claim in elsewhere)
        self._store.write(TaskReport(task, found.service, found.node, state, wired, error, port_taken, elsewhere))

    # --- what may happen

    def _some_task(self) -> str | None:
        return self._choose(sorted(self.tasks)) if self.tasks else None

    def _some_links(self) -> tuple[str, ...]:
        web, db, cache, _ = NAMES
        return self._choose([(), (web,), (db,), (web, db), (cache,), (db, cache), ("missing",)])

    def _deploy(self) -> None:
        name = self._choose(NAMES)
        if all(known.name != name for known in self.services.values()):
            self._made += 1
            found = service(name, *self._some_links(), number=self._made)
            self.services[found.id] = found

    def _relink(self) -> None:
        if self.services:
            found = self.services[self._choose(sorted(self.services))]
            links = service(found.name, *self._some_links()).labels
            attachments = self._choose(((), (on(OVERLAY, 0),)))
            dnsrr = self._choose((False, True))
            self.services[found.id] = replace(found, labels=links, dnsrr=dnsrr, attachments=attachments)

    def _remove(self) -> None:
        if self.services:
            gone = self.services.pop(self._choose(sorted(self.services)))
            for task in list(self.tasks.values()):
                if task.service == gone.id:
                    self.change(task.id, desired=self._choose(("remove", "shutdown", "running")))

    def _vanish(self) -> None:
        if self.services:
            gone = self.services.pop(self._choose(sorted(self.services)))
            self.tasks = {name: task for name, task in self.tasks.items() if task.service != gone.id}

    def _start(self) -> None:
        if self.services:
            node = self._choose(("", *sorted(self.nodes)))
            self.start(self._choose(sorted(self.services)), node, "assigned" if node else "pending")

    def _advance(self) -> None:
        task = self._some_task()
        if task is None:
            return
        found = self.tasks[task]
        if not found.node and self.nodes:
            found = replace(found, node=self._choose(sorted(self.nodes)))
        later = [state for state in PROCESS if STATES.index(state) >= STATES.index(found.state)]
        self.tasks[task] = replace(found, state=self._choose(later)) if found.node and later else found

    def _stop(self) -> None:
        if (task := self._some_task()) is not None:
            self.change(task, desired="shutdown")

    def _end(self) -> None:
        if (task := self._some_task()) is not None:
            self.change(task, state=self._choose(ENDS))

    def _forget(self) -> None:
        if (task := self._some_task()) is not None:
            del self.tasks[task]

    def _drain(self) -> None:
        node = self._choose(NODES)
        for task in list(self.tasks.values()):
            if task.node == node:
                self.change(task.id, desired="shutdown")

    def _node(self) -> None:
        name = self._choose(NODES)
        label = self._choose((None, LABELLED))
        known = self._choose((True, True, False))
        self.nodes[name] = replace(node_of(name, label), known_at=(home(name),) if known else ())

    def _node_down(self) -> None:
        if self.nodes:
            name = self._choose(sorted(self.nodes))
            self.nodes[name] = replace(self.nodes[name], down=True)

    def _node_leaves(self) -> None:
        self.nodes.pop(self._choose(NODES), None)

    def _node_revoked(self) -> None:
        """An operator revokes a node, or approves it again."""
        if self.nodes:
            name = self._choose(sorted(self.nodes))
            since = self._choose((None, str(self.now)))
            self.nodes[name] = replace(self.nodes[name], revoked=since)

    def _agent(self) -> None:
        self.register(self._choose(NODES))

    def _agent_silent(self) -> None:
        self._store.commit([Delete(keyspace.node(self._choose(NODES)), None)])

    def _report(self) -> None:
        task = self._some_task()
        if task is not None and self.tasks[task].node:
            states: tuple[TaskState, ...] = ("created", "running", "gone")
            network = self._choose((None, BRIDGE, OVERLAY))
            elsewhere = (on(network, self._choose((1, 2))),) if network else ()
            self.report(task, self._choose(states), wired=self._choose((True, False)), elsewhere=elsewhere)

    def _port_taken(self) -> None:
        placed = sorted((e.task, e.underlay.port) for e in self._store.all(Endpoint) if e.task in self.tasks)
        if placed:
            task, port = self._choose(placed)
            self.report(task, "created", wired=False, port_taken=port)

    def _lie(self) -> None:
        """A node speaks of another node's task."""
        task = self._some_task()
        if task is not None and self.tasks[task].node:
            found = self.tasks[task]
            liar = self._choose([node for node in NODES if node != found.node])
            elsewhere = (on(BRIDGE, 99),)
            self._store.write(
                TaskReport(
                    task, found.service, liar, "gone", wired=False, error=None, port_taken=None, elsewhere=elsewhere
                )
            )

    def _rested(self) -> None:
        if resting := self._store.resting():
            self._store.end_rest(self._choose(resting))


def unsettled(swarm: Swarm) -> frozenset[str]:
    """Every service whose tasks Swarm is still moving."""
    tasks: dict[str, list[SwarmTask]] = {service: [] for service in swarm.services}
    for task in swarm.tasks.values():
        tasks.setdefault(task.service, []).append(task)
    return frozenset(service for service, its in tasks.items() if swarm.moves(service, its))
