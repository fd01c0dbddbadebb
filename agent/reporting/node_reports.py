"""Reporting side of the agent: what the loop has seen, for the store, for Prometheus and for the next start."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol

import structlog

from agent.desired_state import DesiredState
from agent.interface.task import TaskState
from agent.local_tasks import LocalTasks
from agent.node_encryption.key import NodeKeys
from agent.reporting.metrics import Metrics
from agent.reporting.node_record import stated
from agent.reporting.reporter import Reporter
from agent.reporting.status_poller import StatusPoller
from agent.state.clock import WatchedClock
from agent.state.node_identity import Identity
from agent.state.recovery import recalled
from mesh.crypto.keys import PublicKey
from mesh.errors import LinkwireError, Terminal
from mesh.model import keyspace
from mesh.model.device_readings import bounded
from mesh.model.encryption.records import EncryptionWanted, Underlay
from mesh.model.encryption.status import EncryptionStatus, KeyStatus, TunnelFigures
from mesh.model.records import BrokenPeers, Member, Node, Recall, Status, TaskReport
from mesh.model.snapshot import Snapshot
from mesh.store.client import Follower, Store
from mesh.topology.link_graph import LinkGraph

log = structlog.get_logger(__name__)

REPORT_S = 3.0
"""At most so often, in seconds, is what was read of the devices reported while nothing new is wrong."""
_OWN = "node"
"""Stands for the node itself among the tasks whose keys a clock that goes back spends: no task has that id."""
FIRST_REPORT_S = 20.0
"""Seconds from when all is known until an agent says which tasks are wired, though it has not looked at each."""


class Tunnel(Protocol):
    """The node's part in node encryption, as it was read back."""

    @property
    def status(self) -> EncryptionStatus | None:
        """None where it has none."""

    @property
    def keys(self) -> KeyStatus | None:
        """None where its keys have never rotated."""


class NodeReports:
    """Reports of one node, its tasks and its devices. Only the loop calls it.

    Args:
        node: its record.
        identity: its keys, and the proof of them.
        metrics: for Prometheus.
        clock: the node's wall clock.
        keys: of its devices for node encryption, which it states only while it is asked to; None where it has none.
        tunnel: reads the figures of those devices.
        holder: says what is wrong with the node's holder of wireguard-go (agent.holder.client); empty for nothing.

    Attributes:
        node: its record.
        status: what was last read of its devices; None while nothing was.
    """

    def __init__(
        self,
        node: Node,
        identity: Identity,
        metrics: Metrics,
        clock: WatchedClock,
        keys: NodeKeys | None = None,
        *,
        tunnel: Callable[[], TunnelFigures | None] = lambda: None,
        holder: Callable[[], str] = lambda: "",
    ) -> None:
        self._tunnel = tunnel
        self._holder = holder
        self._keys = keys
        self._unkept = ""
        self.node = node
        self._identity = identity
        self._metrics = metrics
        self._clock = clock
        self._looks = StatusPoller()
        self._reporter: Reporter | None = None
        self.status: Status | None = None
        self._report_by: float | None = None
        self._reported_at = -REPORT_S
        self._step: tuple[object, ...] = ()
        self._broken: tuple[tuple[str, tuple[PublicKey, ...]], ...] = ()

    def start(self, store: Store, follower: Follower) -> None:
        """Begin to write into the store."""
        self._reporter = Reporter(store, follower, self.node, self._identity)

    def wake(self) -> None:
        """Check the store, which changed, for lost reports."""
        if self._reporter is not None:
            self._reporter.wake()

    def stop(self) -> None:
        """Write no more."""
        if self._reporter is not None:
            self._reporter.stop()

    def due_in(self) -> float:
        """Return the seconds until devices are to be read again."""
        return self._looks.due_in()

    def answer_recall(self, snapshot: Snapshot, verified: Snapshot) -> None:
        """Bring back what was signed, where the controller asks for it."""
        if self._reporter is not None:
            asked = snapshot.get(keyspace.RECALL, Recall)
            self._reporter.recalled(recalled(asked, self.node.id, verified))

    def report(
        self,
        tasks: LocalTasks,
        desired: DesiredState,
        snapshot: Snapshot,
        is_wanted: Callable[[], bool],
        tunnel: Tunnel,
    ) -> None:
        """Report the tasks, read devices until `is_wanted` elsewhere, and report what was read.

        Args:
            tasks: this node's.
            desired: what the records mean.
            snapshot: of the store.
            is_wanted: tells whether something else is to be done.
            tunnel: the node's part in node encryption, as it was read back.

        Raises:
            Terminal: somebody else has the node's report key.
        """
        reporter = self._reporter
        if reporter is None:
            return
        self._state_keys(snapshot, desired, reporter)
        graph = desired.graph
        if self._may_report(tasks, desired, time.monotonic()):
            self._look_at_clock([state.local.task for state in tasks], graph)
            reporter.tasks(self._task_reports(tasks, graph))
        if reporter.key_is_stolen:
            self._identity.disown()
            raise Terminal(
                "another program signs with this node's report key: it was removed, the next start makes a new one"
            )
        devices = self._looks.read(tasks.by_container, desired.backend, is_wanted)
        if devices is None:
            return
        broken = bounded(state.interface.broken_peers(state.local.task) for state in tasks)
        encryption, node_keys = tunnel.status, tunnel.keys
        if not self._is_due(broken, encryption, node_keys):
            return
        trust = desired.trust
        self._clock.save()
        trust.save(self.node.id)
        self._renew_proof(snapshot, reporter)
        status = Status(
            self.node.id,
            round(time.time(), 1),
            devices,
            trust.manifest,
            trust.held,
            broken=broken,
            encryption=encryption,
            node_keys=node_keys,
            tunnel=self._tunnel() if encryption is not None else None,
            holder=self._holder(),
        )
        self.status = status
        reporter.status(status)
        self._metrics.update(graph, status, self._task_reports(tasks, graph))

    def _is_due(
        self, broken: tuple[BrokenPeers, ...], encryption: EncryptionStatus | None, keys: KeyStatus | None
    ) -> bool:
        """Tell whether to report what was read: now and then, and at once what somebody waits for.

        That is other broken links than before, and another step of node encryption or of its keys' rotation.
        """
        now, which = time.monotonic(), tuple((each.task, each.peers) for each in broken)
        step: tuple[object, ...] = ()
        if encryption is not None:
            step = encryption.generation, encryption.step, encryption.ready, encryption.problem
        if keys is not None:  # each node that comes to be reached is none: there may be hundreds
            step += keys.epochs, bool(keys.waiting)
        if (which, step) == (self._broken, self._step) and now < self._reported_at + REPORT_S:
            return False
        self._broken, self._step, self._reported_at = which, step, now
        return True

    def _may_report(self, tasks: LocalTasks, desired: DesiredState, now: float) -> bool:
        """Tell whether to report which tasks are wired: one that is not reported so is taken for unwired.

        So an agent that starts has looked at each task first. One that takes very long over it is not waited for.
        """
        if not tasks.lists or not desired.is_whole:
            return False
        if self._report_by is None:
            self._report_by = now + FIRST_REPORT_S
        if now < self._report_by and any(_is_unknown(state) for state in tasks):
            return False
        self._report_by = now
        return True

    def _task_reports(self, tasks: LocalTasks, graph: LinkGraph) -> dict[str, TaskReport]:
        """Report all tasks that take part in the mesh, or whose service does: the controller asks Swarm of them."""
        reports: dict[str, TaskReport] = {}
        for state in tasks:
            task, is_gone = state.local.task, state.local.state == "gone"
            takes_part = task in graph.by_task or (state.local.service in graph.services and not is_gone)
            if takes_part and not (is_gone and task in reports):
                endpoint = graph.by_task.get(task)
                if endpoint is not None and endpoint.public_key == state.exposed:
                    self._clock.spend(task, endpoint.epoch)
                spent = self._clock.spent.get(task)
                reports[task] = replace(state.report(), node=self.node.id, spent=spent)
        return reports

    def _state_keys(self, snapshot: Snapshot, desired: DesiredState, reporter: Reporter) -> None:
        """State the node's encryption keys while they are asked for: an older controller could not read the record.

        One of the epoch that is asked for is made; one that the records do not have any more is forgotten.
        """
        keys = self._keys
        if keys is None or not snapshot.complete or keyspace.ENCRYPTION_WANTED in snapshot.invalid:
            return
        asked = snapshot.get(keyspace.ENCRYPTION_WANTED, EncryptionWanted)
        if asked is not None and desired.is_whole:
            place = desired.verified.get(keyspace.underlay(self.node.id), Underlay)
            self._keep_keys(keys, asked.epoch, [key.public_key for key in place.keys] if place is not None else [])
        first, later = (*(keys.stated if asked is not None else ()), None, None)[:2]
        node = replace(
            self.node,
            encryption_key=first.public_key if first is not None else None,
            encryption_port=first.port if first is not None else 0,
            encryption_epoch=first.epoch if first is not None else 0,
            encryption_next=later,
            encryption_spent=self._clock.spent.get(_OWN) if first is not None else None,
            encryption_all=asked is not None and asked.all_since > 0,
        )
        if node != self.node:
            self.node = node
            reporter.node(node)

    def _look_at_clock(self, tasks: Iterable[str], graph: LinkGraph) -> None:
        """Look whether it went back, and which keys that spends."""
        # Keys of tasks that are not wired yet count too: a new agent makes the devices of wireguard-go again.
        endpoints = (graph.by_task.get(task) for task in tasks)
        epochs = {endpoint.task: endpoint.epoch for endpoint in endpoints if endpoint is not None}
        self._clock.look(epochs | self._own_epoch())

    def _own_epoch(self) -> dict[str, int]:
        """Return the epoch of the node's newest key, while it states one: others have seen it in handshakes."""
        first, later = self.node.encryption_epoch, self.node.encryption_next
        return {_OWN: later.epoch if later is not None else first} if self.node.encryption_key is not None else {}

    def _keep_keys(self, keys: NodeKeys, asked: int, placed: list[PublicKey]) -> None:
        """Make and forget keys. Where the disk does not take them the node goes on with those that it has."""
        problem = ""
        try:
            keys.keep(asked, placed)
        except LinkwireError as error:
            problem = str(error)
        if problem and problem != self._unkept:
            log.warning("node key not kept", error=problem)
        self._unkept = problem

    def _renew_proof(self, snapshot: Snapshot, reporter: Reporter) -> None:
        """Prove this node's keys again when Swarm renewed its certificate or the controller knows a later proof."""
        accepted = snapshot.get(keyspace.member(self.node.id), Member)
        try:
            if (accepted is not None and self._identity.catch_up(accepted)) or self._identity.look():
                self.node = stated(self.node, self._identity)
                reporter.node(self.node)
        except LinkwireError as error:
            log.warning("proof of node keys not renewed", error=str(error))


def _is_unknown(state: TaskState) -> bool:
    """Tell whether it is not known yet if a task is wired."""
    return state.busy or state.schedule.graph is None or bool(state.local.unread)
