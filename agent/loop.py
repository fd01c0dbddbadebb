"""The agent's one loop: wait, look, derive each local task's interface, make it so, say what was seen.

Level-based: what wakes it says only that something may have changed. Nothing is done that a verified snapshot does
not say, and nothing is removed unless it is complete too and a controller has taken the store into use.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from functools import partial

import structlog

from agent import gate, sysctl
from agent.clock import WatchedClock
from agent.containers import Containers
from agent.dns.responder import Responder
from agent.early_names import EarlyNames
from agent.identity import Identity
from agent.leaving import may_leave
from agent.linkkeys import HeldLinkKeys
from agent.liveness import Prober
from agent.looks import Looks, to_confirm
from agent.metrics import Metrics
from agent.node_record import stated
from agent.node_table import NodeTable
from agent.path_mtu import PathMtu
from agent.recall import recalled
from agent.reports import Reporter
from agent.tasks import TaskState
from agent.trust import Trust, followed
from agent.watch import ContainerWatch, Local
from agent.wireguard import Backend
from agent.workers import Workers
from mesh import keyspace
from mesh.apart import Here
from mesh.desired import desired, device_name
from mesh.errors import LinkwireError, Terminal
from mesh.garbage import Upkeep
from mesh.graph import Graph, index, reindex
from mesh.hybrid import NodeKey
from mesh.keys import PrivateKey
from mesh.records import Endpoint, Member, Node, Recall, SealedKey, Status, TaskReport
from mesh.sealing import open_key
from mesh.snapshot import Snapshot
from mesh.store import Store
from mesh.wake import Wake
from mesh.wgtypes import InterfaceConfig

log = structlog.get_logger(__name__)

FIRST_REPORT_S = 20.0
"""Seconds from when all is known until an agent says which tasks are wired, though it has not looked at each."""
LATER_S = 1.0
"""Seconds for which a change that is in no hurry waits, at most, while tasks are to be wired."""
LEAVING_S = 0.2
"""Seconds between two looks at whether an agent that was told to stop may leave."""


class Agent:
    """Keeps the interfaces of this node's tasks as the records say."""

    def __init__(  # noqa: PLR0917 - called once, from cli
        self,
        containers: Containers,
        backend: Backend,
        store: Store,
        key: NodeKey,
        identity: Identity,
        node: Node,
        metrics: Metrics,
        trust: Trust,
        clock: WatchedClock,
        table: NodeTable,
        *,
        answers_dns: bool = True,
    ) -> None:
        """Prepare; `run` does the work. `node` is what this node says of itself, `key` its sealing key."""
        self._identity = identity
        self._containers = containers
        self._backend = backend
        self._store = store
        self._key = key
        self._node = node
        self._metrics = metrics
        self._trust = trust
        self._clock = clock
        self._early_names = EarlyNames(table)
        self._wake = Wake()
        self._tasks: dict[str, TaskState] = {}
        self._keys: dict[tuple[str, int], PrivateKey] = {}
        self._link_keys = HeldLinkKeys(node.id, key)
        self._path_mtu = PathMtu()
        self._here = Here({}, ())
        self._prober = Prober(self._wake)
        self._ipv6 = sysctl.has_ipv6()
        self._shown = Snapshot()
        self._seen = Snapshot()
        self._graph: Graph = index(self._seen)
        self._lists = 0
        self._looks = Looks()
        self._upkeep = Upkeep()
        self._responder = Responder(able=answers_dns)
        self._workers = Workers(self._wake)
        self._ending: list[TaskState] = []
        self._report_by: float | None = None

    def run(self, stopped: threading.Event) -> None:
        """Reconcile until stopped and free to leave; the devices stay."""
        self._early_names.start(self._wake)
        watch = ContainerWatch(self._containers, self._wake)
        reporter: list[Reporter] = []

        def changed() -> None:
            self._wake()
            for one in reporter:
                one.wake()

        follower = self._store.follow(followed(self._node.id), changed, with_raw=True)
        reporter.append(Reporter(self._store, follower, self._node, self._identity))
        try:
            told_at: float | None = None
            while told_at is None or not self._may_leave(watch.local, time.monotonic() - told_at):
                self._wake.wait(self._due_in() if told_at is None else min(self._due_in(), LEAVING_S))
                self._pass(watch.local, follower.snapshot, reporter[0])
                if told_at is None and stopped.is_set():
                    told_at = time.monotonic()
        finally:
            self._workers.stop()
            self._early_names.stop()
            reporter[0].stop()
            follower.stop()
            self._responder.close()

    def stop(self) -> None:
        """Wake the loop, so that it sees that it is to stop."""
        self._wake()

    def _may_leave(self, local: Local, told_for: float) -> bool:
        """Whether no wired task is being stopped; the namespaces tell, since Docker may be stopping as well."""
        stopping = [self._tasks[found] for found in local.stopping & self._tasks.keys()]
        return may_leave(told_for, sum(1 for state in stopping if state.is_wired_still()))

    def _due_in(self) -> float:
        now = time.monotonic()
        # Whoever is busy, or waits for a thread, is looked at when a thread ends its work: that wakes the loop.
        free = [state for state in self._tasks.values() if self._may_work_on(state)]
        due = (at for state in free for at in (state.retry_at, state.confirm_at, state.later) if at is not None)
        return max(0.0, min([self._looks.due_in(), *(at - now for at in due)]))

    def _pass(self, local: Local, snapshot: Snapshot, reporter: Reporter) -> None:
        self._know(local)
        self._believe(snapshot)
        reporter.recalled(recalled(snapshot.get(keyspace.RECALL, Recall), self._node.id, self._seen))
        self._early_names.write(self._graph, self._tasks.values())
        now = time.monotonic()
        # Who waits to be wired goes first: one new neighbour is reason to look at all the others too.
        for state in sorted(self._tasks.values(), key=self._is_urgent, reverse=True):
            self._try_to_bring(state, now)
        for state in to_confirm(list(self._tasks.values()), now, self._wake.is_pending):
            self._try_to_bring(state, now)
        wired = (state for state in self._tasks.values() if state.applied is not None)
        self._prober.ask({s.local.netns: s.suspects for s in wired if s.local.netns is not None and s.suspects})
        if self._is_known(now):
            # Keys of tasks that are not wired yet count too: a new agent makes the devices of wireguard-go again.
            here = (self._graph.by_task.get(state.local.task) for state in self._tasks.values())
            self._clock.look({endpoint.task: endpoint.epoch for endpoint in here if endpoint is not None})
            reporter.tasks(self._reports())
        if reporter.key_is_stolen:
            self._identity.disown()
            raise Terminal("somebody else signs with this node's report key: it is given up, and a new one made")
        devices = self._looks.take(self._tasks, self._backend, self._wake.is_pending)
        if devices is not None:
            self._clock.save()
            self._trust.save(self._node.id)
            self._prove(snapshot, reporter)
            trust = self._trust
            status = Status(self._node.id, round(time.time(), 1), devices, trust.manifest, trust.held)
            reporter.status(status)
            self._metrics.update(self._graph, status, self._reports())
        if self._graph.complete and not self._wake.is_pending():
            self._upkeep.collect(time.monotonic())

    def _is_known(self, now: float) -> bool:
        """Whether it may be said which tasks are wired: one that is not reported so is taken for one that is not.

        So an agent that starts has looked at each task first. One that takes very long over it is not waited for.
        """
        if not self._lists or not self._graph.complete or self._graph.cluster is None:
            return False
        if self._report_by is None:
            self._report_by = now + FIRST_REPORT_S
        if now < self._report_by and any(one.busy or one.brought is None for one in self._tasks.values()):
            return False
        self._report_by = now
        return True

    def _believe(self, snapshot: Snapshot) -> None:
        """Act on a snapshot from now on, if it may be acted on; and on what answers here."""
        if snapshot is not self._shown or not snapshot.revision:
            self._shown = snapshot
            believed = self._trust.take(snapshot)
            if believed is not self._seen:
                self._graph = reindex(self._graph, self._seen, believed)
                self._seen = believed
                self._link_keys.learn(believed)
        if (unreachable := self._prober.unreachable) != self._graph.unreachable:
            self._graph = replace(self._graph, unreachable=unreachable)

    def _prove(self, snapshot: Snapshot, reporter: Reporter) -> None:
        """Say anew whose keys these are, when Swarm has renewed its certificate or the controller knows more."""
        accepted = snapshot.get(keyspace.member(self._node.id), Member)
        try:
            if (accepted is not None and self._identity.know(accepted)) or self._identity.look():
                self._node = stated(self._node, self._identity)
                reporter.node(self._node)
        except LinkwireError as error:
            log.warning("this node's proof is not renewed", error=str(error))

    # --- containers

    def _know(self, local: Local) -> None:
        """Take over what is known of the local containers. After each whole list everything is read again."""
        for container, task in local.tasks.items():
            state = self._tasks.setdefault(container, TaskState(task, responder=self._responder))
            if state.local != task and not state.busy:
                state.local = task
                state.dirty = True
        for container in self._tasks.keys() - local.tasks.keys():
            state = self._tasks.pop(container)
            self._ending.append(state)
            self._forget(state.local.task)
        self._close_ended()
        tasks = {s.local.task: s.local.elsewhere for s in self._tasks.values() if s.local.state != "gone"}
        here = Here(tasks, local.exits)
        if here != self._here:
            # A new neighbour on a network that is not the mesh concerns all: `strict` keeps them apart there.
            self._here = here
            for state in self._tasks.values():
                state.brought = None
        if local.lists != self._lists:
            self._lists = local.lists
            gate.keep(self._tasks.keys())
            for state in self._tasks.values():
                state.listed = True
            self._discard()
        for state in self._tasks.values():
            if state.listed and not state.busy:
                state.listed, state.dirty = False, True

    def _close_ended(self) -> None:
        """Let go of tasks that are gone, each as soon as no thread is at work on it."""
        for state in self._ending:
            if not state.busy:
                state.close()
        self._ending = [state for state in self._ending if state.busy]

    def _forget(self, task: str) -> None:
        for key, private in list(self._keys.items()):
            if key[0] == task:
                del self._keys[key]
                self._link_keys.held.drop_stale(private.public, ())

    def _discard(self) -> None:
        """End what serves no task's device: prepared in vain, or left in a namespace that outlives its task."""
        # A container that was made when its node lost power stays as it is, and its task is never started again.
        knows = self._graph.complete and self._graph.cluster is not None
        here = [state.local for state in self._tasks.values() if state.local.state != "gone"]
        kept = {
            device_name(local.task)
            for local in here
            if local.state != "created" or local.netns is not None or not knows or local.task in self._graph.by_task
        }
        try:
            for name in self._backend.served():
                if name not in kept:
                    log.info("no task has this device, or will have it", device=name)
                    self._backend.discard(name)
        except LinkwireError as error:
            log.warning("what serves no task's device is left for now", error=str(error))

    # --- interfaces

    def _is_urgent(self, state: TaskState) -> bool:
        return state.applied is None and state.local.task in self._graph.by_task

    def _may_work_on(self, state: TaskState) -> bool:
        return not state.busy and self._workers.has_room(is_urgent=self._is_urgent(state))

    def _try_to_bring(self, state: TaskState, now: float) -> None:
        if not self._may_work_on(state):
            return
        try:
            self._bring(state, now)
        except Exception as error:
            # Whatever it is: one task must not keep this node's others from being wired.
            log.exception("wiring failed in a way that nobody thought of", task=state.local.task)
            state.failed_oddly(error)

    def _bring(self, state: TaskState, now: float) -> None:
        """Make one task's interface what the records say, if there is anything to do."""
        is_due = state.retry_at is not None and now >= state.retry_at
        is_late = state.later is not None and now >= state.later
        if not (state.dirty or is_due or is_late or state.brought is not self._graph):
            return
        state.brought = self._graph
        state.retry_at = None if is_due else state.retry_at
        state.later = None if is_late else state.later
        if state.local.state == "gone":
            state.close()
            return
        endpoint = self._graph.by_task.get(state.local.task)
        if endpoint is None or endpoint.service not in self._graph.services or self._graph.cluster is None:
            self._unwire(state)
            return
        unready, state.unready = state.unready, self._graph.unready(state.local.awaits)
        try:
            config = self._desired(state, endpoint)
        except LinkwireError as error:
            state.error = str(error)
            if state.applied is None:
                gate.shut(state.local.container, state.error)
            return
        waits = state.retry_at is not None and config == state.tried
        waits = waits or (config is not None and not is_late and self._is_put_off(state, config, now))
        if config is not None and not waits and (state.dirty or config != state.applied):
            complete = self._graph.complete
            self._workers.run(state, partial(state.wire, self._backend, config, complete=complete))
        elif state.unready != unready and state.applied is not None:
            state.open_gate()

    def _unwire(self, state: TaskState) -> None:
        """Take away what a task has of ours, where it is known that it is to have nothing."""
        if self._graph.complete and self._graph.cluster is not None and state.retry_at is None:
            service = self._graph.services.get(state.local.service)
            is_linked = service is not None and bool(service.links)
            self._workers.run(state, partial(state.unwire, self._backend, is_linked=is_linked))

    def _is_put_off(self, state: TaskState, config: InterfaceConfig, now: float) -> bool:
        """Put off a change that is in no hurry while tasks are to be wired: each costs the time of wiring one."""
        waits = config != state.applied and state.is_in_no_hurry(config)
        if not waits or not any(self._is_urgent(one) for one in self._tasks.values()):
            state.later = None
            return False
        if state.later is None:
            state.later = now + LATER_S
        return True

    def _desired(self, state: TaskState, endpoint: Endpoint) -> InterfaceConfig | None:
        key = self._private_key(endpoint)
        hosts = tuple({peer.underlay.host for peer in self._graph.peers(endpoint)})
        mtu = self._backend.largest(self._path_mtu.least(hosts))
        held, configs = self._link_keys.held, state.peers
        state.suspects = self._graph.suspects(endpoint)
        config = desired(self._graph, endpoint, key, mtu, self._here, link_keys=held, peer_configs=configs)
        if config is not None:
            resolving = state.resolving(config.policy.resolving.names)
            config = replace(config, policy=replace(config.policy, resolving=resolving))
        return config.without_ipv6() if config is not None and not self._ipv6 else config

    def _private_key(self, endpoint: Endpoint) -> PrivateKey:
        """Open the task's sealed key, once. Raises Terminal."""
        kept = self._keys.get((endpoint.task, endpoint.epoch))
        if kept is not None and kept.public == endpoint.public_key:
            return kept
        sealed = self._seen.get(keyspace.sealed_key(self._node.id, endpoint.task), SealedKey)
        if sealed is None:
            raise Terminal("its key is not in the store (yet)")
        key = open_key(sealed, self._key)
        if key.public != endpoint.public_key:
            raise Terminal("its key in the store is not the one of its endpoint")
        self._keys[endpoint.task, endpoint.epoch] = key
        return key

    # --- reports

    def _reports(self) -> dict[str, TaskReport]:
        """Of every task that takes part in the mesh, or whose service does: the controller asks Swarm about it."""
        reports: dict[str, TaskReport] = {}
        for state in self._tasks.values():
            local = state.local
            part = local.task in self._graph.by_task or (
                local.service in self._graph.services and local.state != "gone"
            )
            if part and (local.state != "gone" or local.task not in reports):
                spent = self._clock.spent.get(local.task)
                reports[local.task] = replace(state.report(), node=self._node.id, spent=spent)
        return reports
