"""The agent's one loop: wait, look, derive each local task's interface, make it so, say what was seen.

Level-based: what wakes it says only that something may have changed. Nothing is done that a verified snapshot does
not say, and nothing is removed unless it is complete too and a controller has taken the store into use.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import structlog

from agent import gate, links, sysctl
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
from agent.netns import OWN_NETNS, TaskNetns
from agent.node_record import stated
from agent.node_table import NodeTable
from agent.recall import recalled
from agent.reports import Reporter
from agent.tasks import TaskState
from agent.trust import Trust
from agent.watch import ContainerWatch, Local
from agent.wireguard import Backend
from mesh import keyspace
from mesh.apart import Here
from mesh.errors import LinkwireError, Terminal
from mesh.garbage import Upkeep
from mesh.graph import Graph, desired, device_name, index
from mesh.hybrid import NodeKey
from mesh.keys import PrivateKey
from mesh.records import Endpoint, Member, Node, Recall, SealedKey, Status, TaskReport
from mesh.regraph import reindex
from mesh.sealing import open_key
from mesh.snapshot import Snapshot
from mesh.store import Store
from mesh.wake import Wake
from mesh.wgtypes import InterfaceConfig, IPAddress

log = structlog.get_logger(__name__)

ROUTES_S = 30.0
LEAVING_S = 0.2
"""Seconds between two looks at whether an agent that was told to stop may leave."""
OVERHEAD = {4: 60, 6: 80}
"""Bytes that WireGuard adds to a packet: IP 20 or 40, UDP 8, its own 32 (WireGuard paper, section 5.4.6)."""
DEFAULT_MTU = 1420
MIN_MTU = 576  # RFC 791: what every IPv4 host must take


def followed(node: str) -> tuple[str, ...]:
    """What of the store an agent reads."""
    return (
        keyspace.CLUSTER,
        keyspace.MANIFEST,
        keyspace.RECALL,
        keyspace.recalled(node, ""),
        keyspace.SERVICES,
        keyspace.ENDPOINTS,
        keyspace.EPOCHS,
        keyspace.sealed_key(node, ""),
        keyspace.link_key(node, ""),
        keyspace.report(node, ""),
        keyspace.node(node),
        keyspace.member(node),
    )


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
        self._home = TaskNetns(OWN_NETNS)
        self._mtus: dict[IPAddress, tuple[float, int]] = {}
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

    def run(self, stopped: threading.Event) -> None:
        """Reconcile until stopped and free to leave; the devices stay."""
        self._early_names.start(self._wake)
        watch = ContainerWatch(self._containers, self._wake)
        reporter: list[Reporter] = []

        def changed() -> None:
            self._wake()
            for one in reporter:
                one.wake()

        follower = self._store.follow(followed(self._node.id), changed, keep=True)
        reporter.append(Reporter(self._store, follower, self._node, self._identity))
        try:
            told_at: float | None = None
            while told_at is None or not self._may_leave(watch.local, time.monotonic() - told_at):
                self._wake.wait(self._due_in() if told_at is None else min(self._due_in(), LEAVING_S))
                self._pass(watch.local, follower.snapshot, reporter[0])
                if told_at is None and stopped.is_set():
                    told_at = time.monotonic()
        finally:
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
        due = (at for state in self._tasks.values() for at in (state.retry_at, state.confirm_at) if at is not None)
        return max(0.0, min([self._looks.due_in(), *(at - now for at in due)]))

    def _pass(self, local: Local, snapshot: Snapshot, reporter: Reporter) -> None:
        self._know(local)
        self._believe(snapshot)
        reporter.recalled(recalled(snapshot.get(keyspace.RECALL, Recall), self._node.id, self._seen))
        self._early_names.write(self._graph, self._tasks.values())
        now = time.monotonic()
        # Who waits to be wired goes first: one new neighbour is reason to look at all the others too.
        for state in sorted(self._tasks.values(), key=lambda state: state.applied is not None):
            self._try_to_bring(state, now)
        for state in to_confirm(list(self._tasks.values()), now, self._wake.is_pending):
            self._try_to_bring(state, now)
        wired = (state for state in self._tasks.values() if state.applied is not None)
        self._prober.ask({s.local.netns: s.suspects for s in wired if s.local.netns is not None and s.suspects})
        if self._lists and self._graph.complete and self._graph.cluster is not None:
            # Not before everything is known: a task that is not reported as wired is taken for one that is not. And
            # keys of tasks that are not wired yet count too: a new agent makes the devices of wireguard-go again.
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
            self._upkeep.take(time.monotonic())

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
            if state.local != task:
                state.local = task
                state.dirty = True
        for container in self._tasks.keys() - local.tasks.keys():
            state = self._tasks.pop(container)
            state.close()
            self._forget(state.local.task)
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
                state.dirty = True
            self._discard()

    def _forget(self, task: str) -> None:
        for key, private in list(self._keys.items()):
            if key[0] == task:
                del self._keys[key]
                self._link_keys.held.keep_only(private.public, ())

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

    def _try_to_bring(self, state: TaskState, now: float) -> None:
        try:
            self._bring(state, now)
        except Exception as error:
            # Whatever it is: one task must not keep this node's others from being wired.
            log.exception("wiring failed in a way that nobody thought of", task=state.local.task)
            state.failed_oddly(error)

    def _bring(self, state: TaskState, now: float) -> None:
        """Make one task's interface what the records say, if there is anything to do."""
        due = state.retry_at is not None and now >= state.retry_at
        if not (state.dirty or due or state.brought is not self._graph):
            return
        state.brought = self._graph
        if due:
            state.retry_at = None
        if state.local.state == "gone":
            state.close()
            return
        endpoint = self._graph.by_task.get(state.local.task)
        if endpoint is None or endpoint.service not in self._graph.services or self._graph.cluster is None:
            knows = self._graph.complete and self._graph.cluster is not None
            if knows and state.retry_at is None:
                service = self._graph.services.get(state.local.service)
                state.unwire(self._backend, is_linked=service is not None and bool(service.links))
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
        if config is not None and not waits and (state.dirty or config != state.applied):
            state.wire(self._backend, config, complete=self._graph.complete)
        elif state.unready != unready and state.applied is not None:
            state.open_gate()

    def _desired(self, state: TaskState, endpoint: Endpoint) -> InterfaceConfig | None:
        key = self._private_key(endpoint)
        mtu = self._mtu(tuple({peer.underlay.host for peer in self._graph.peers(endpoint)}))
        held, known = self._link_keys.held, state.peers
        state.suspects = self._graph.suspects(endpoint)
        config = desired(self._graph, endpoint, key, mtu, self._here, link_keys=held, known=known)
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

    def _mtu(self, hosts: tuple[IPAddress, ...]) -> int:
        """The largest packet that fits on the way to every peer's node, bytes."""
        now = time.monotonic()
        found: list[int] = []
        for host in hosts:
            at, mtu = self._mtus.get(host, (0.0, 0))
            if not mtu or now >= at:
                try:
                    mtu = links.route_mtu(self._home, (host,))
                except LinkwireError as error:
                    log.warning("no route to a node", host=str(host), error=str(error))
                    mtu = DEFAULT_MTU + OVERHEAD[6]
                self._mtus[host] = (now + ROUTES_S, mtu)
            found.append(mtu - OVERHEAD[host.version])
        return self._backend.largest(max(MIN_MTU, min(found, default=DEFAULT_MTU)))

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
