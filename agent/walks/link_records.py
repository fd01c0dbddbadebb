"""Records of links, as facts for their diagnosis: their ends, their keys, and who keeps them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

from agent.desired_state import DesiredState
from agent.status.node_status import believed
from mesh.crypto.keys import PublicKey
from mesh.diagnosis.link_facts import End, LinkFacts
from mesh.errors import LinkwireError
from mesh.model import keyspace
from mesh.model.records import Endpoint, Leader, Node, Port, SealedKey, SealedLinkKey, Service, Status, TaskReport
from mesh.model.snapshot import Snapshot
from mesh.topology.agreed_links import hidden, shown
from mesh.topology.link_graph import LinkGraph

_SPREAD = 200
"""Ports at the end of a node's range, which the controller gives last, that a probe may use."""
MOST_ENDS = 32
"""Tasks of one service that are told of."""
_FEW_TASKS, _FEW_NODES = 64, 64
"""Of so few tasks the records are read one by one, and of so few nodes, or of half of all, node by node: a read costs
a millisecond, as much as some ten records."""
_OF_NODES = (keyspace.TASKS, keyspace.KEYS, keyspace.LINK_KEYS, keyspace.PORTS)
"""Kinds whose keys name the node first."""
_ONE_A_NODE = (keyspace.NODES, keyspace.MEMBERS, keyspace.STATUS)

_BrokenFor = Mapping[tuple[str, PublicKey], float]
"""For how many seconds a task's packets to a peer get no answer, by both."""


@dataclass(frozen=True, slots=True)
class SwarmTask:
    """A running task as Swarm told the plugin: its id, its name, and its node's id and name."""

    id: str
    name: str
    node: str
    host: str


Sides = tuple[Sequence[SwarmTask], Sequence[SwarmTask]]
"""The running tasks of a link's consumer, and of its provider."""


@dataclass(frozen=True, slots=True)
class LinkRecords:
    """Records of some links.

    Attributes:
        snapshot: what was read, as far as it is believed.
        graph: the index of the records that this node acts on.
        held: why it does not act on the store's present state; empty while it does.
        unread: why etcd does not answer; empty while it does.
        broken: as the nodes say.
        ports: UDP ports that tasks hold, by node.
    """

    snapshot: Snapshot
    graph: LinkGraph
    held: str
    unread: str
    broken: _BrokenFor
    ports: Mapping[str, frozenset[int]] = field(default_factory=dict)

    def facts(self, asked: LinkFacts, ends: Sides) -> LinkFacts:
        """Return the facts that the records hold of one link.

        Args:
            asked: the facts with what was asked for alone.
            ends: the running tasks of consumer and provider.
        """
        graph, snapshot = self.graph, self.snapshot
        consumer, provider = (_service(graph, name) for name in (asked.consumer, asked.provider))
        links = [link for link in consumer.links if shown(link.provider) == asked.provider] if consumer else []
        keys = _link_keys(graph, asked)
        ports = graph.ports(consumer, provider) if consumer is not None and provider is not None and links else ()
        vip = graph.vips.get(provider.id) if provider is not None else None
        sides = tuple(tuple(self._end(task, keys) for task in side[:MOST_ENDS]) for side in ends)
        one, other = chosen_pair(sides[0], sides[1], self.broken, graph)
        return replace(
            asked,
            is_recorded=bool(links),
            is_allowed=not any(hidden(link.provider) for link in links),
            leads=bool(self.unread) or snapshot.get(keyspace.LEADER, Leader) is not None,
            store=self.unread,
            held=self.held,
            vip=str(vip) if vip is not None else "",
            names=tuple(alias for link in links for alias in link.aliases),
            ports=None if ports is None else tuple(map(str, ports)),
            ports_of="" if ports is None else "link" if any(link.ports for link in links) else "provider",
            consumer_ends=sides[0],
            provider_ends=sides[1],
            consumer_end=one,
            provider_end=other,
        )

    def free_port(self, node: str, choice: int) -> int | None:
        """Return a UDP port of a node that no task of it holds, from its range's end; None where none is known.

        Args:
            node: its id.
            choice: any number, so that two who ask at once hardly choose the same; other numbers are other ports.
        """
        return free_port(self.snapshot.get(keyspace.node(node), Node), self.ports.get(node, frozenset()), choice)

    def _end(self, task: SwarmTask, link_keys: Sequence[str]) -> End:
        endpoint, snapshot = self.graph.by_task.get(task.id), self.snapshot
        if self.unread:
            return _placed(End(task.id, task.name, task.node, task.host), endpoint)
        key = keyspace.node(task.node)
        report = snapshot.get(keyspace.report(task.node, task.id), TaskReport)
        sealed = snapshot.get(keyspace.sealed_key(task.node, task.id), SealedKey) is not None
        shared = all(snapshot.get(keyspace.link_key(task.node, key), SealedLinkKey) is not None for key in link_keys)
        node = snapshot.get(key, Node)
        end = End(
            task.id,
            task.name,
            task.node,
            task.host,
            is_silent=key not in snapshot.records and key not in snapshot.invalid,
            approved=key not in snapshot.invalid,
            unproven=node is not None and node.unproven is not None,
            has_keys=sealed and shared,
            error=(report.error or "") if report is not None else "",
        )
        return _placed(end, endpoint)


Reader = Callable[[Sequence[tuple[LinkFacts, Sides]]], LinkRecords]
"""Reads the records of links, as `read` does with its other arguments given."""


def read(
    load: Callable[[Sequence[str]], Snapshot],
    desired: DesiredState,
    cluster: str,
    links: Sequence[tuple[LinkFacts, Sides]],
) -> LinkRecords:
    """Read the records of some links.

    Args:
        load: reads from the store what the agent itself does not follow.
        desired: the records that this node acts on.
        cluster: Swarm's id of it.
        links: what was asked for of each, and its running tasks.
    """
    graph, held, unread = desired.graph, desired.trust.held, ""
    try:
        snapshot = believed(load(_keys(graph, links)), cluster)
    except LinkwireError as error:
        snapshot, unread = desired.verified, str(error)
    return LinkRecords(snapshot, graph, held, unread, broken_for(snapshot), taken_ports(snapshot))


def taken_ports(snapshot: Snapshot) -> dict[str, frozenset[int]]:
    """Return the UDP ports that tasks hold, by node."""
    ports: defaultdict[str, set[int]] = defaultdict(set)
    for port in snapshot.all(Port):
        ports[port.node].add(port.port)
    return {node: frozenset(numbers) for node, numbers in ports.items()}


def free_port(node: Node | None, taken: frozenset[int], choice: int) -> int | None:
    """Return a UDP port of a node that is not taken, from its range's end; `choice` as of `LinkRecords.free_port`."""
    if node is None:
        return None
    last = node.last_port
    free = [port for port in range(max(node.first_port, last - _SPREAD), last + 1) if port not in taken]
    return free[choice % len(free)] if free else None


def _service(graph: LinkGraph, name: str) -> Service | None:
    ids = graph.by_name.get(name, ())
    return graph.services[ids[0]] if ids else None


def _link_keys(graph: LinkGraph, asked: LinkFacts) -> tuple[str, ...]:
    consumer, provider = (_service(graph, name) for name in (asked.consumer, asked.provider))
    return graph.link_keys(consumer, provider) if consumer is not None and provider is not None else ()


def _keys(graph: LinkGraph, links: Iterable[tuple[LinkFacts, Sides]]) -> tuple[str, ...]:
    """Return the keys and prefixes of the records to read."""
    of_tasks: dict[str, SwarmTask] = {}
    link_keys: set[tuple[str, str]] = set()
    for asked, ends in links:
        tasks = [task for side in ends for task in side[:MOST_ENDS]]
        of_tasks |= {task.id: task for task in tasks}
        link_keys |= {(task.node, key) for key in _link_keys(graph, asked) for task in tasks}
    nodes = sorted({task.node for task in of_tasks.values()})
    wanted = [keyspace.LEADER]
    all_nodes = {endpoint.node for endpoint in graph.by_task.values()}
    if len(nodes) > max(_FEW_NODES, len(all_nodes) // 2):
        return (*wanted, *_ONE_A_NODE, *_OF_NODES)
    wanted += [f"{prefix}{node}" for node in nodes for prefix in _ONE_A_NODE]
    if len(of_tasks) > _FEW_TASKS:
        return (*wanted, *(f"{prefix}{node}/" for node in nodes for prefix in _OF_NODES))
    wanted += [f"{keyspace.PORTS}{node}/" for node in nodes]
    for task in of_tasks.values():
        wanted += [keyspace.report(task.node, task.id), keyspace.sealed_key(task.node, task.id)]
    return (*wanted, *(keyspace.link_key(node, key) for node, key in sorted(link_keys)))


def _placed(end: End, endpoint: Endpoint | None) -> End:
    """Add the task's place in the mesh, where it has one."""
    if endpoint is None:
        return end
    return replace(end, address=str(endpoint.address), ready=endpoint.ready)


def chosen_pair(
    consumers: Sequence[End], providers: Sequence[End], broken: _BrokenFor, graph: LinkGraph
) -> tuple[End | None, End | None]:
    """Choose the pair to look at: of each side the task with most wrong by its records; else the broken pair.

    Args:
        consumers: the running tasks of one side.
        providers: those of the other.
        broken: as their nodes say.
        graph: with their public keys.
    """
    worst = [min(side, key=_soundness, default=None) for side in (consumers, providers)]
    if worst[0] is not None and worst[1] is not None and worst[0].task == worst[1].task:  # linked to itself
        others = (end for end in providers if end.task != worst[0].task)
        worst[1] = min(others, key=_soundness, default=worst[1])
    if not broken or any(end is None or _soundness(end) != _SOUND for end in worst):
        return worst[0], worst[1]
    keys = {end.task: graph.by_task[end.task].public_key for end in (*consumers, *providers)}

    def lasting(pair: tuple[End, End]) -> float:
        ways = (pair, pair[::-1])
        return max(broken.get((mine.task, keys[theirs.task]), 0.0) for mine, theirs in ways)

    longest = max(product(consumers, providers), key=lasting)
    return longest if lasting(longest) else (worst[0], worst[1])


_SOUND = (True, True, True)


def _soundness(end: End) -> tuple[bool, bool, bool]:
    return bool(end.address) and end.approved, not end.error, not end.is_silent


def broken_for(snapshot: Snapshot) -> dict[tuple[str, PublicKey], float]:
    """Return for how many seconds a task's packets to a peer get no answer, by both."""
    told = [broken for status in snapshot.all(Status) for broken in status.broken]
    return {(broken.task, key): broken.seconds for broken in told for key in broken.peers}
