"""Examiner of this node's own tasks: what it sees of a link's end, and what comes of trying the link from there.

Questions may come from any node, so nothing of them is used that the signed records do not bear out: both tasks have
to be ends of one link, and the other node's address is the records'.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address

from agent.firewall import nft
from agent.firewall.ruleset import render
from agent.interface import reconcile
from agent.interface.task import TaskState
from agent.linux.netns import TaskNetns
from agent.probes import connect, datagrams, echo, listeners, names
from agent.probes.tunnel_examiner import TunnelExaminer
from agent.wireguard.backend import Backend
from mesh.diagnosis.link_facts import Connection, Listener, Look, Trial
from mesh.diagnosis.questions import Answer, Arrived, Question
from mesh.errors import LinkwireError
from mesh.model.labels.ports import MAX_PORT
from mesh.model.records import Endpoint, Refused
from mesh.topology.desired import device_name
from mesh.topology.link_graph import LinkGraph
from mesh.topology.policy import Balance
from mesh.topology.wgtypes import Interface

MOST_OWN = 32
"""Questions that one node answers at a time: tries go on at the same time, and cost next to nothing but seconds."""
MOST_PROBES = 8
"""Of these, such as exchange datagrams with another node."""
MOST_PORTS = 8
"""Ports that one question may have connections tried to."""
_LOOKS_AT_ONCE = 2
"""Tasks that are looked at at the same time, whoever asks: that is what costs processor time."""
_MOST_SHOWN = 16


@dataclass(frozen=True, slots=True)
class _Ends:
    """Both ends of a link: this node's task, with its state, and its peer."""

    own: Endpoint
    peer: Endpoint
    state: TaskState


@dataclass(frozen=True, slots=True)
class _Task:
    """A task of this node, with its namespace, or with why that cannot be entered."""

    state: TaskState
    netns: TaskNetns | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class _Seen:
    """One look at a task: when, what is wrong with it, in words, what was applied, and what was read."""

    clock: float
    problem: str
    wired: bool
    observed: Interface | None = None
    rules_hold: bool | None = None
    balances: tuple[Balance, ...] = ()
    refused: tuple[Refused, ...] = ()
    listeners: tuple[Listener, ...] = ()

    @property
    def has_device(self) -> bool:
        """Whether the task has its device."""
        return self.observed is not None and bool(self.observed.device.name)

    @property
    def mtu(self) -> int:
        """The largest packet inside the tunnel: the way may take less than the device."""
        if self.observed is None:
            return 0
        routes = self.observed.routes
        limits = [route.mtu for route in routes if route.mtu is not None and route.network.version == 4]  # noqa: PLR2004
        return min([self.observed.mtu, *limits])


class Examiner:
    """Examiner of one node. Safe for several threads.

    Args:
        tasks: the states of its tasks, by container.
        graph: returns the link graph that the node acts on.
        backend: of its devices.
        ports: the first and the last UDP port that this node's tasks may have.
        tunnel: examiner of the node's part in node encryption; None where it has none.
    """

    def __init__(
        self,
        tasks: Mapping[str, TaskState],
        graph: Callable[[], LinkGraph],
        backend: Backend,
        ports: tuple[int, int],
        *,
        tunnel: TunnelExaminer | None = None,
    ) -> None:
        self._tunnel = tunnel
        self._tasks = tasks
        self._graph = graph
        self._backend = backend
        self._ports = ports
        self._looking = threading.BoundedSemaphore(_LOOKS_AT_ONCE)

    def examine(self, questions: Sequence[Question]) -> list[Answer]:
        """Answer questions; what cannot be looked at is said in an answer's `look.error`.

        A task is looked at once for all questions about it, and after its links were tried once more.

        Args:
            questions: about this node's tasks, at most MOST_OWN.
        """
        if not questions:
            return []
        if self._tunnel is not None and any(question.between for question in questions):
            return self._with_tunnel(self._tunnel, questions)
        graph = self._graph()
        ends = {at: self._ends(graph, question) for at, question in enumerate(questions)}
        found = {at: end for at, end in ends.items() if isinstance(end, _Ends)}
        with ExitStack() as stack:
            # The namespaces first: they are closed when the pools have ended.
            states = {end.own.task: end.state for end in found.values()}
            tasks = {task: _opened(stack, state) for task, state in states.items()}
            pool = stack.enter_context(ThreadPoolExecutor(MOST_OWN))
            probing = stack.enter_context(ThreadPoolExecutor(MOST_PROBES))
            probed = {  # first of all, since the other side begins now as well
                at: probing.submit(self._probe, questions[at], end)
                for at, end in found.items()
                if questions[at].probe is not None
            }
            seen = self._seen(pool, tasks.values())
            trying = {
                at: pool.submit(_try, graph, end, tasks[end.own.task], (questions[at].ports, seen[end.own.task].mtu))
                for at, end in found.items()
                if questions[at].tries and seen[end.own.task].has_device
            }
            trials = {at: job.result() for at, job in trying.items()}
            # The trial may have made a handshake.
            seen |= self._seen(pool, [tasks[task] for task in dict.fromkeys(found[at].own.task for at in trials)])
            answers = {
                at: Answer(_look(graph, end, seen[end.own.task]), trials.get(at), _result(probed.get(at)))
                for at, end in found.items()
            }
        clock = time.time()
        return [answers[at] if at in answers else Answer(Look(clock, error=str(end))) for at, end in ends.items()]

    def _with_tunnel(self, tunnel: TunnelExaminer, questions: Sequence[Question]) -> list[Answer]:
        """Answer questions some of which are about node encryption."""
        about = [at for at, question in enumerate(questions) if question.between]
        others = [at for at, question in enumerate(questions) if not question.between]
        with ThreadPoolExecutor(max_workers=1) as pool:
            beside = pool.submit(self.examine, [questions[at] for at in others])
            found = dict(zip(about, tunnel.examine([questions[at] for at in about]), strict=True))
            found |= dict(zip(others, beside.result(), strict=True))
        return [found[at] for at in range(len(questions))]

    def _ends(self, graph: LinkGraph, question: Question) -> _Ends | str:
        """Return both ends of the link that is asked about; a text says why it is none of this node's."""
        own, peer = graph.by_task.get(question.task), graph.by_task.get(question.peer)
        if own is None or peer is None or not _linked(graph, own, peer):
            return "this node's records do not have this link"
        state = next((one for one in list(self._tasks.values()) if one.local.task == question.task), None)
        return _Ends(own, peer, state) if state is not None else "the task is not on this node"

    def _seen(self, pool: ThreadPoolExecutor, tasks: Iterable[_Task]) -> dict[str, _Seen]:
        """Look at some tasks."""
        jobs = {task.state.local.task: pool.submit(self._read, task) for task in tasks}
        return {task: job.result() for task, job in jobs.items()}

    def _read(self, task: _Task) -> _Seen:
        state = task.state
        with self._looking:
            clock, applied = time.time(), state.interface.applied
            problem = state.error or state.local.problem or ""
            if task.netns is None:
                return _Seen(
                    clock, problem or task.problem, wired=applied is not None and state.local.netns is not None
                )
            try:
                observed = reconcile.observe(self._backend, task.netns, device_name(state.local.task))
                table = nft.read(task.netns)
                waiting = listeners.listeners(task.netns)
            except (LinkwireError, OSError) as error:
                return _Seen(clock, problem or str(error), wired=applied is not None)
            held = None
            if applied is not None and table is not None:
                held = table.rules == render(applied.policy, applied.name)
            balances = applied.policy.balance if applied is not None else ()
            counted = table.refused if table is not None else ()
        return _Seen(clock, problem, applied is not None, observed, held, balances, counted, waiting)

    def _probe(self, question: Question, end: _Ends) -> Arrived:
        probe = question.probe
        if probe is None or end.own.node == end.peer.node:
            return Arrived(problem="both tasks are on one node")
        if not datagrams.is_good(probe, self._ports):
            return Arrived(problem="the question is malformed")
        return datagrams.exchange(end.peer.underlay.host, probe)


def _result(job: Future[Arrived] | None) -> Arrived | None:
    return job.result() if job is not None else None


def _look(graph: LinkGraph, end: _Ends, seen: _Seen) -> Look:
    """Sum up what was seen of a task, for one of its peers."""
    peer, observed = end.peer, seen.observed
    device = observed.device if observed is not None else None
    known = device.peers.get(peer.public_key) if device is not None else None
    handshake = known.last_handshake if known is not None else None
    vip = graph.vips.get(peer.service)
    backends = next((balance.backends for balance in seen.balances if balance.vip == vip), ())
    return Look(
        clock=seen.clock,
        wired=seen.wired,
        error=seen.problem[:500],
        device=device.name if device is not None else "",
        is_up=observed is not None and observed.up,
        mtu=seen.mtu,
        is_peer=known is not None,
        handshake_age=round(max(0.0, seen.clock - handshake), 1) if handshake else None,
        received=known.rx_bytes if known is not None else 0,
        sent=known.tx_bytes if known is not None else 0,
        rules_hold=seen.rules_hold,
        backends=tuple(map(str, backends[:_MOST_SHOWN])),
        refused=sum(one.packets for one in seen.refused if one.service == peer.service and one.direction != "apart"),
        apart=sum(one.packets for one in seen.refused if one.direction == "apart"),
        listeners=seen.listeners,
    )


def _opened(stack: ExitStack, state: TaskState) -> _Task:
    """Open a task's namespace, as long as a stack: each look and try at it goes on from the one before."""
    path = state.local.netns
    if path is None:
        return _Task(state, None, "its container has no network namespace")
    try:
        return _Task(state, stack.enter_context(TaskNetns(path)))
    except (LinkwireError, OSError) as error:
        return _Task(state, None, str(error))


def _try(graph: LinkGraph, end: _Ends, task: _Task, tried: tuple[Sequence[int], int]) -> Trial | None:
    """Try the link from inside the consumer's task; None where its namespace has ended.

    Args:
        graph: that the node acts on.
        end: both ends.
        task: the consumer's.
        tried: ports to connect to, and the bytes of the largest packet.
    """
    own, peer, netns, (ports, mtu) = end.own, end.peer, task.netns, tried
    consumer, provider = graph.services.get(own.service), graph.services.get(peer.service)
    if netns is None or consumer is None or provider is None:
        return None
    links = graph.links.get((consumer.id, provider.name), ())
    aliases = [alias for link in links for alias in link.aliases][:_MOST_SHOWN]
    vip = graph.vips.get(provider.id)
    open_ports = [port for port in ports[:MOST_PORTS] if 0 < port <= MAX_PORT]
    targets = [(address, port) for port in open_ports for address in _addresses(peer, vip)]
    try:
        with ThreadPoolExecutor(max_workers=1) as pool:
            connections = pool.submit(connect.connect, netns, targets)
            echoes = echo.echo(netns, peer.address, mtu)
            found = connections.result()
        resolved = names.names(task.state.local.hosts, aliases)
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
