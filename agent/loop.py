"""Main loop of the agent: wait, look, derive each local task's interface, make it so, report what was seen.

Level-based: what wakes it says only that something may have changed. Nothing is done that a verified snapshot does
not say, and nothing is removed unless it is complete too and a controller has taken the store into use.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from functools import partial

import structlog

from agent.containers import start_gate
from agent.containers.docker_client import Containers
from agent.containers.watcher import ContainerWatcher, LocalContainers
from agent.desired_state import DesiredState
from agent.dns.responder_client import Responder
from agent.firewall.node_table import NodeTable
from agent.interface.early_names import EarlyNames
from agent.interface.task import TaskState
from agent.interface.workers import Workers
from agent.local_tasks import LocalTasks, may_leave
from agent.node_encryption.keeper import Keeper
from agent.reporting.liveness import Prober
from agent.reporting.node_reports import NodeReports
from agent.reporting.status_poller import to_confirm
from agent.state.verified_state import followed
from mesh.errors import LinkwireError
from mesh.model.snapshot import Snapshot
from mesh.process.gc_tuning import IdleCollector
from mesh.process.wakeup import Wake
from mesh.store.client import Follower, Store
from mesh.topology.wgtypes import InterfaceConfig

log = structlog.get_logger(__name__)

LATER_S = 1.0
"""Seconds for which a change that is in no hurry waits, at most, while tasks are to be wired."""
LEAVING_S = 0.2
"""Seconds between two looks at whether an agent that was told to stop may leave."""


class Agent:
    """The agent of one node: reconciles its tasks' interfaces with the records."""

    def __init__(
        self,
        containers: Containers,
        store: Store,
        desired: DesiredState,
        reports: NodeReports,
        table: NodeTable,
        *,
        keeper: Keeper,
        answers_dns: bool = True,
    ) -> None:
        """Prepare; `run` does the work.

        Args:
            containers: this node's.
            store: where the records are.
            desired: what they mean.
            reports: of this node.
            table: the node's own, which refuses the mesh's networks.
            keeper: of the node's part in node encryption.
            answers_dns: whether the kernel can turn DNS questions to the responder.
        """
        self._containers = containers
        self._store = store
        self._desired = desired
        self._reports = reports
        self._wake = Wake()
        self._tasks = LocalTasks(Responder(able=answers_dns), desired.backend)
        self._early_names = EarlyNames(table)
        self._keeper = keeper
        self._prober = Prober(self._wake)
        self._workers = Workers(self._wake)
        self._upkeep = IdleCollector()
        self._follower: Follower | None = None

    @property
    def tasks(self) -> Mapping[str, TaskState]:
        """The states of this node's tasks, by container: for others to look at, never to change."""
        return self._tasks.by_container

    def run(self, stopped: threading.Event, moving: Callable[[], None]) -> None:
        """Reconcile until stopped and free to leave; the devices stay.

        Args:
            stopped: set when it is to leave.
            moving: called in each pass from then on, and once more before threads and connections are closed.
        """
        self._early_names.start(self._wake)
        self._keeper.start(self._wake)
        watch = ContainerWatcher(self._containers, self._wake)

        def changed() -> None:
            self._wake()
            self._reports.wake()

        follower = self._follower = self._store.follow(followed(self._reports.node.id), changed, with_raw=True)
        self._reports.start(self._store, follower)
        try:
            stop_seen_at: float | None = None
            while stop_seen_at is None or not self._may_leave(watch.local, time.monotonic() - stop_seen_at):
                self._wake.wait(self._due_in() if stop_seen_at is None else min(self._due_in(), LEAVING_S))
                self._pass(watch.local, follower.snapshot)
                if stopped.is_set():
                    moving()
                    if stop_seen_at is None:
                        stop_seen_at = time.monotonic()
                        log.info("agent leaves", stopping=self._tasks.count_stopping(watch.local))
        finally:
            moving()
            self._workers.stop()
            self._early_names.stop()
            self._keeper.stop()
            self._reports.stop()
            follower.stop()
            self._tasks.close()

    def age(self, revision: int) -> float | None:
        """Return how many seconds ago the store was at a revision; None where this agent did not see it."""
        return self._follower.times.age(revision) if self._follower is not None else None

    def exact_age(self, revision: int) -> float | None:
        """Return the same where it is certain: None after a time without the store."""
        return self._follower.times.exact_age(revision) if self._follower is not None else None

    def stop(self) -> None:
        """Wake the loop, so that it sees that it is to stop."""
        self._wake()

    def _may_leave(self, local: LocalContainers, seconds: float) -> bool:
        """Tell whether no wired task is being stopped, so many seconds after the agent was told to stop."""
        return may_leave(seconds, self._tasks.count_stopping(local))

    def _due_in(self) -> float:
        now = time.monotonic()
        # Whoever is busy, or waits for a thread, is looked at when a thread ends its work: that wakes the loop.
        due = (at - now for state in self._tasks if self._may_work_on(state) for at in state.schedule.times)
        return max(0.0, min([self._reports.due_in(), *due]))

    def _pass(self, local: LocalContainers, snapshot: Snapshot) -> None:
        desired, tasks = self._desired, self._tasks
        self._update_tasks(local)
        desired.update(snapshot, self._prober.unreachable)
        self._keeper.want(desired.node_tunnel())
        self._reports.answer_recall(snapshot, desired.verified)
        self._early_names.write(desired.graph, tasks)
        now = time.monotonic()
        # Who waits to be wired goes first: one new neighbour is reason to look at all the others too.
        for state in sorted(tasks, key=self._is_urgent, reverse=True):
            self._reconcile_safely(state, now)
        for state in to_confirm(list(tasks), now, self._wake.is_pending):
            self._reconcile_safely(state, now)
        wired = (state for state in tasks if state.interface.applied is not None)
        self._prober.ask({s.local.netns: s.suspects for s in wired if s.local.netns is not None and s.suspects})
        self._reports.report(tasks, desired, snapshot, self._wake.is_pending, self._keeper)
        if desired.graph.complete and not self._wake.is_pending():
            self._upkeep.collect(time.monotonic())

    # --- containers

    def _update_tasks(self, local: LocalContainers) -> None:
        lists = self._tasks.lists
        for state in self._tasks.update(local).values():
            self._desired.drop_keys(state.local.task)
        if self._tasks.lists != lists:
            self._discard_surplus_devices()

    def _discard_surplus_devices(self) -> None:
        """End what serves no task's device: prepared in vain, or left in a namespace that outlives its task."""
        desired = self._desired
        needed = {*self._keeper.device_names, *self._tasks.devices(desired.graph, is_whole=desired.is_whole)}
        try:
            for name in self._desired.backend.served():
                if name not in needed:
                    log.info("device without task discarded", device=name)
                    self._desired.backend.discard(name)
        except LinkwireError as error:
            log.warning("devices without task not discarded", error=str(error))

    # --- interfaces

    def _is_urgent(self, state: TaskState) -> bool:
        return state.interface.applied is None and state.local.task in self._desired.graph.by_task

    def _may_work_on(self, state: TaskState) -> bool:
        return not state.busy and self._workers.has_room(is_urgent=self._is_urgent(state))

    def _reconcile_safely(self, state: TaskState, now: float) -> None:
        if not self._may_work_on(state):
            return
        try:
            self._reconcile(state, now)
        except LinkwireError as error:
            state.put_off(error)
        except Exception as error:
            # Whatever it is: one task must not keep this node's others from being wired.
            log.exception("task reconciliation crashed", task=state.local.task)
            state.fail_unexpectedly(error)

    def _reconcile(self, state: TaskState, now: float) -> None:
        """Make one task's interface what the records say, if there is anything to do."""
        graph, link_keys, schedule = self._desired.graph, self._desired.link_keys, state.schedule
        is_due = schedule.retry_at is not None and now >= schedule.retry_at
        is_late = schedule.apply_by is not None and now >= schedule.apply_by
        is_outdated = schedule.graph is not graph or schedule.link_keys is not link_keys
        if not (schedule.dirty or is_due or is_late or is_outdated):
            return
        schedule.graph, schedule.link_keys = graph, link_keys
        schedule.retry_at = None if is_due else schedule.retry_at
        schedule.apply_by = None if is_late else schedule.apply_by
        if state.local.state == "gone":
            state.end(self._desired.backend)
            return
        endpoint = graph.by_task.get(state.local.task)
        if endpoint is None or endpoint.service not in graph.services or graph.cluster is None:
            self._unwire(state)
            return
        state.virtual = graph.services[endpoint.service].elsewhere
        unready, state.unready = state.unready, graph.unready(state.local.awaits, endpoint.service)
        try:
            config = self._desired.interface(state, endpoint, self._tasks.here)
        except LinkwireError as error:
            state.error = str(error)
            if state.interface.applied is None:
                start_gate.shut(state.local.container, state.error)
            return
        waits = schedule.retry_at is not None and config == schedule.tried
        waits = waits or (config is not None and not is_late and self._is_put_off(state, config, now))
        if config is not None and not waits and (schedule.dirty or config != state.interface.applied):
            self._workers.run(state, partial(state.wire, self._desired.backend, config, complete=graph.complete))
        elif state.unready != unready and state.interface.applied is not None:
            state.open_gate()

    def _unwire(self, state: TaskState) -> None:
        """Take away what a task has of ours, where it is known that it is to have nothing."""
        if self._desired.is_whole and state.schedule.retry_at is None:
            service = self._desired.graph.services.get(state.local.service)
            is_linked = service is not None and bool(service.links)
            self._workers.run(state, partial(state.unwire, self._desired.backend, is_linked=is_linked))

    def _is_put_off(self, state: TaskState, config: InterfaceConfig, now: float) -> bool:
        """Put off a change that is in no hurry while tasks are to be wired: each costs the time of wiring one."""
        waits = config != state.interface.applied and state.is_in_no_hurry(config)
        if not waits or not any(map(self._is_urgent, self._tasks)):
            state.schedule.apply_by = None
            return False
        if state.schedule.apply_by is None:
            state.schedule.apply_by = now + LATER_S
        return True
