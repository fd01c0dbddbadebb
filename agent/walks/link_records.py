"""Records of one link, as facts for its diagnosis: its ends, its keys, and who keeps them. Pure but for the store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product

from agent.desired_state import DesiredState
from agent.status.node_status import believed
from mesh.crypto.keys import PublicKey
from mesh.diagnosis.link_facts import End, LinkFacts
from mesh.errors import LinkwireError
from mesh.model import keyspace
from mesh.model.records import Endpoint, Leader, Node, Port, SealedKey, SealedLinkKey, Service, Status, TaskReport
from mesh.model.snapshot import Snapshot
from mesh.store.client import Store
from mesh.topology.agreement import hidden, shown
from mesh.topology.link_graph import LinkGraph

_SPREAD = 200
"""Ports at the end of a node's range, which the controller gives last, that a probe may use."""
MOST_ENDS = 32
"""Tasks of one service that are told of."""


@dataclass(frozen=True, slots=True)
class SwarmTask:
    """A running task as Swarm told the plugin: its id, its name, and its node's id and name."""

    id: str
    name: str
    node: str
    host: str


def facts(
    store: Store,
    desired: DesiredState,
    cluster: str,
    ends: tuple[Sequence[SwarmTask], Sequence[SwarmTask]],
    asked: LinkFacts,
) -> tuple[LinkFacts, Snapshot]:
    """Return the facts that the records hold, and those records.

    Args:
        store: to read what the agent itself does not follow.
        desired: the records that this node acts on.
        cluster: Swarm's id of it.
        ends: the running tasks of consumer and provider.
        asked: the facts with what was asked for alone.
    """
    graph = desired.graph
    consumer, provider = (_service(graph, name) for name in (asked.consumer, asked.provider))
    links = [link for link in consumer.links if shown(link.provider) == asked.provider] if consumer else []
    keys = graph.link_keys(consumer, provider) if consumer is not None and provider is not None else ()
    every = [task for side in ends for task in side[:MOST_ENDS]]
    unread = ""
    try:
        snapshot = believed(store.load(_keys(every, keys)), cluster)
    except LinkwireError as error:
        snapshot, unread = desired.verified, str(error)
    ports = graph.ports(consumer, provider) if consumer is not None and provider is not None and links else ()
    vip = graph.vips.get(provider.id) if provider is not None else None
    sides = tuple(tuple(_end(snapshot, graph, task, keys, unread) for task in side[:MOST_ENDS]) for side in ends)
    found = replace(
        asked,
        is_recorded=bool(links),
        is_allowed=not any(hidden(link.provider) for link in links),
        leads=bool(unread) or snapshot.get(keyspace.LEADER, Leader) is not None,
        store=unread,
        held=desired.trust.held,
        vip=str(vip) if vip is not None else "",
        names=tuple(alias for link in links for alias in link.aliases),
        ports=None if ports is None else tuple(map(str, ports)),
        ports_of="" if ports is None else "link" if any(link.ports for link in links) else "provider",
        consumer_ends=sides[0],
        provider_ends=sides[1],
    )
    one, other = chosen_pair(sides[0], sides[1], snapshot, graph)
    return replace(found, consumer_end=one, provider_end=other), snapshot


def _service(graph: LinkGraph, name: str) -> Service | None:
    ids = graph.by_name.get(name, ())
    return graph.services[ids[0]] if ids else None


def _keys(tasks: Iterable[SwarmTask], link_keys: Iterable[str]) -> tuple[str, ...]:
    """Return the keys of the records to read."""
    wanted = [keyspace.LEADER]
    for task in tasks:
        node = task.node
        wanted += [keyspace.node(node), keyspace.member(node), keyspace.report(node, task.id), keyspace.status(node)]
        wanted += [keyspace.sealed_key(node, task.id), *(keyspace.link_key(node, key) for key in link_keys)]
        wanted.append(f"{keyspace.PORTS}{node}/")
    return tuple(dict.fromkeys(wanted))


def free_port(snapshot: Snapshot, node: str, choice: int) -> int | None:
    """Return a UDP port of a node that no task of it holds, from the end of its range; None where none is known.

    Args:
        snapshot: with the node's record and its ports.
        node: its id.
        choice: any number, so that two who ask at once hardly choose the same.
    """
    record = snapshot.get(keyspace.node(node), Node)
    if record is None:
        return None
    taken = {port.port for port in snapshot.all(Port) if port.node == node}
    last = record.last_port
    free = [port for port in range(max(record.first_port, last - _SPREAD), last + 1) if port not in taken]
    return free[choice % len(free)] if free else None


def _end(snapshot: Snapshot, graph: LinkGraph, task: SwarmTask, link_keys: Sequence[str], unread: str) -> End:
    endpoint = graph.by_task.get(task.id)
    if unread:
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


def _placed(end: End, endpoint: Endpoint | None) -> End:
    """Add the task's place in the mesh, where it has one."""
    if endpoint is None:
        return end
    return replace(end, address=str(endpoint.address), ready=endpoint.ready)


def chosen_pair(
    consumers: Sequence[End], providers: Sequence[End], snapshot: Snapshot, graph: LinkGraph
) -> tuple[End | None, End | None]:
    """Choose the pair to look at: of each side the task with most wrong by its records; else the broken pair.

    Args:
        consumers: the running tasks of one side.
        providers: those of the other.
        snapshot: with the status of their nodes.
        graph: with their public keys.
    """
    worst = [min(side, key=_soundness, default=None) for side in (consumers, providers)]
    if any(end is None or _soundness(end) != _SOUND for end in worst):
        return worst[0], worst[1]
    broken = _broken(snapshot)
    keys = {end.task: graph.by_task[end.task].public_key for end in (*consumers, *providers)}

    def lasting(pair: tuple[End, End]) -> float:
        ways = (pair, pair[::-1])
        return max(broken.get((mine.task, keys[theirs.task]), 0.0) for mine, theirs in ways)

    longest = max(product(consumers, providers), key=lasting)
    return longest if lasting(longest) else (worst[0], worst[1])


_SOUND = (True, True, True)


def _soundness(end: End) -> tuple[bool, bool, bool]:
    return bool(end.address) and end.approved, not end.error, not end.is_silent


def _broken(snapshot: Snapshot) -> dict[tuple[str, PublicKey], float]:
    """Return for how many seconds a task's packets to a peer get no answer, by both."""
    told = [broken for status in snapshot.all(Status) for broken in status.broken]
    return {(broken.task, key): broken.seconds for broken in told for key in broken.peers}
