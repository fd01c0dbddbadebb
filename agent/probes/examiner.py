"""Examiner of this node's own tasks: what it sees of a link's end, and what comes of trying the link from there.

Questions may come from any node, so nothing of them is used that the signed records do not bear out: both tasks have
to be ends of one link, and the other node's address is the records'.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from ipaddress import IPv4Address

from agent.firewall import nft
from agent.firewall.ruleset import Table, render
from agent.interface import reconcile
from agent.interface.task import TaskState
from agent.linux.netns import TaskNetns
from agent.probes import connect, datagrams, echo, listeners, names
from agent.wireguard.backend import Backend
from mesh.diagnosis.link_facts import Connection, Listener, Look, Trial
from mesh.diagnosis.questions import Answer, Arrived, Question
from mesh.errors import LinkwireError
from mesh.model.ports import MAX_PORT
from mesh.model.records import Endpoint
from mesh.topology.desired import device_name
from mesh.topology.link_graph import LinkGraph
from mesh.topology.underlay import FIRST_PORT
from mesh.topology.wgtypes import Interface, InterfaceConfig

MOST_PORTS = 8
"""Ports that one question may have connections tried to."""
_MOST_SHOWN = 16
_NONCE = 32


class Examiner:
    """Examiner of one node. Safe for several threads.

    Args:
        tasks: the states of its tasks, by container.
        graph: returns the link graph that the node acts on.
        backend: of its devices.
        ports: the first and the last UDP port that this node's tasks may have.
    """

    def __init__(
        self, tasks: Mapping[str, TaskState], graph: Callable[[], LinkGraph], backend: Backend, ports: tuple[int, int]
    ) -> None:
        self._tasks = tasks
        self._graph = graph
        self._backend = backend
        self._ports = ports

    def examine(self, question: Question) -> Answer:
        """Answer one question; what cannot be looked at is said in the answer's `look.error`."""
        graph, clock = self._graph(), time.time()
        own, peer = graph.by_task.get(question.task), graph.by_task.get(question.peer)
        if own is None or peer is None or not _linked(graph, own, peer):
            return Answer(Look(clock, error="this node's records do not have this link"))
        state = next((one for one in list(self._tasks.values()) if one.local.task == question.task), None)
        if state is None:
            return Answer(Look(clock, error="the task is not on this node"))
        with ThreadPoolExecutor(max_workers=1) as pool:
            arrived = pool.submit(self._probe, question, own, peer) if question.probe is not None else None
            look, trial = self._look(graph, state, own, peer), None
            if question.tries and look.device:
                trial = _try(graph, state, question, peer, look.mtu)
                look = self._look(graph, state, own, peer)  # the trial may have made a handshake
            return Answer(look, trial, arrived.result() if arrived is not None else None)

    def _look(self, graph: LinkGraph, state: TaskState, own: Endpoint, peer: Endpoint) -> Look:
        clock, applied, path = time.time(), state.interface.applied, state.local.netns
        problem = state.error or state.local.problem or ""
        if path is None:
            return Look(clock, error=problem or "its container has no network namespace")
        try:
            with closing(TaskNetns(path)) as netns:
                observed = reconcile.observe(self._backend, netns, device_name(own.task))
                table = nft.read(netns)
                waiting = listeners.listeners(netns)
        except (LinkwireError, OSError) as error:
            return Look(clock, wired=applied is not None, error=problem or str(error))
        return _seen(graph, clock, applied, peer, observed, table, problem, waiting)

    def _probe(self, question: Question, own: Endpoint, peer: Endpoint) -> Arrived:
        probe = question.probe
        if probe is None or own.node == peer.node:
            return Arrived(problem="both tasks are on one node")
        first, last = self._ports
        good = first <= probe.own_port <= last and FIRST_PORT <= probe.port <= MAX_PORT
        if not good or len(probe.nonce) != _NONCE or not set(probe.nonce) <= set("0123456789abcdef"):
            return Arrived(problem="the question is malformed")
        return datagrams.exchange(peer.underlay.host, probe)


def _seen(  # noqa: PLR0917 - what was read, all of it
    graph: LinkGraph,
    clock: float,
    applied: InterfaceConfig | None,
    peer: Endpoint,
    observed: Interface | None,
    table: Table | None,
    problem: str,
    waiting: tuple[Listener, ...],
) -> Look:
    """Sum up what was read of a task."""
    device = observed.device if observed is not None else None
    known = device.peers.get(peer.public_key) if device is not None else None
    handshake = known.last_handshake if known is not None else None
    vip = graph.vips.get(peer.service)
    balances = applied.policy.balance if applied is not None else ()
    backends = next((balance.backends for balance in balances if balance.vip == vip), ())
    counted = table.refused if table is not None else ()
    return Look(
        clock=clock,
        wired=applied is not None,
        error=problem[:500],
        device=device.name if device is not None else "",
        is_up=observed is not None and observed.up,
        mtu=_mtu(observed),
        is_peer=known is not None,
        handshake_age=round(max(0.0, clock - handshake), 1) if handshake else None,
        received=known.rx_bytes if known is not None else 0,
        sent=known.tx_bytes if known is not None else 0,
        rules_hold=None if applied is None or table is None else table.rules == render(applied.policy, applied.name),
        backends=tuple(map(str, backends[:_MOST_SHOWN])),
        refused=sum(one.packets for one in counted if one.service == peer.service and one.direction != "apart"),
        apart=sum(one.packets for one in counted if one.direction == "apart"),
        listeners=waiting,
    )


def _mtu(observed: Interface | None) -> int:
    """Return the largest packet inside the tunnel: the way may take less than the device."""
    if observed is None:
        return 0
    limits = [route.mtu for route in observed.routes if route.mtu is not None and route.network.version == 4]  # noqa: PLR2004
    return min([observed.mtu, *limits])


def _try(graph: LinkGraph, state: TaskState, question: Question, peer: Endpoint, mtu: int) -> Trial | None:
    """Try the link from inside the consumer's task; None where its namespace has ended."""
    own = graph.by_task[question.task]
    consumer, provider = graph.services.get(own.service), graph.services.get(peer.service)
    if state.local.netns is None or consumer is None or provider is None:
        return None
    links = graph.links.get((consumer.id, provider.name), ())
    aliases = [alias for link in links for alias in link.aliases][:_MOST_SHOWN]
    vip = graph.vips.get(provider.id)
    ports = [port for port in question.ports[:MOST_PORTS] if 0 < port <= MAX_PORT]
    targets = [(address, port) for port in ports for address in _addresses(peer, vip)]
    try:
        with closing(TaskNetns(state.local.netns)) as netns, ThreadPoolExecutor(max_workers=1) as pool:
            connections = pool.submit(connect.connect, netns, targets)
            echoes = echo.echo(netns, peer.address, mtu)
            found = connections.result()
        resolved = names.names(state.local.hosts, aliases)
    except (LinkwireError, OSError):
        return None
    return Trial(
        small=echoes.small,
        large=echoes.large if echoes.small else None,
        large_bytes=mtu,
        connections=tuple(
            Connection(str(address), port, outcome, address == vip) for (address, port), outcome in found.items()
        ),
        names=resolved,
    )


def _addresses(peer: Endpoint, vip: IPv4Address | None) -> tuple[IPv4Address, ...]:
    """Return what to connect to: the task itself, and the VIP, where the task may be what it leads to."""
    return (peer.address, vip) if vip is not None and peer.ready else (peer.address,)


def _linked(graph: LinkGraph, own: Endpoint, peer: Endpoint) -> bool:
    """Tell whether two tasks are ends of one link, in either direction."""
    one, other = graph.services.get(own.service), graph.services.get(peer.service)
    if one is None or other is None or own.task == peer.task:
        return False
    return (one.id, other.name) in graph.links or (other.id, one.name) in graph.links
