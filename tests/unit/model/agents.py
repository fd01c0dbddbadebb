"""An agent of the model: production's verified and desired state, and diffs applied to devices in memory.

What the loop and a task's interface do between them (agent.loop, agent.interface.task) is done here in their order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, cast

from agent.desired_state import DesiredState
from agent.interface.diff import InterfaceDiff, Observed, diff, peer_changes, rules_around
from agent.interface.render_cache import RenderCache
from agent.linux.nft_json import Rules
from agent.state.recovery import recalled
from agent.state.verified_state import VerifiedState
from controller.swarm.model import Swarm, SwarmNode
from mesh.crypto.hpke import NodeKey
from mesh.crypto.keys import PublicKey
from mesh.errors import LinkwireError
from mesh.model import keyspace
from mesh.model.records import Node, Recall, Record, Status, TaskReport
from mesh.model.snapshot import Delete, Op, Put, Snapshot
from mesh.topology.desired import desired
from mesh.topology.peer_cache import PeerCache
from mesh.topology.strict_isolation import LocalNetworks
from mesh.topology.wgtypes import Device, DeviceChange, HostEntry, Interface, InterfaceConfig
from tests.support.signing import CLUSTER, NODE_KEY
from tests.support.swarm_world import FIRST_PORT, LAST_PORT, home, node_key, node_of
from tests.unit.agent.test_diff import Model
from tests.unit.controller.planners import Pictures
from tests.unit.model.environment import CLOCK, Folder, copied
from tests.unit.model.etcd import Etcd, Port

_NOWHERE = LocalNetworks({}, ())
_MTU = 1420
_NO_SWARM = Swarm(CLUSTER, {}, {}, {})


@cache
def sealing_key(node: str) -> NodeKey:
    return node_key(int(node[1:]))


@cache
def node_record(node: str) -> Node:
    return Node(
        id=node,
        hostname=f"host-{node}",
        sealing_key=sealing_key(node).public,
        report_key=NODE_KEY.verify_key,
        counter=1,
        proof=None,
        unproven=None,
        address=home(node),
        first_port=FIRST_PORT,
        last_port=LAST_PORT,
        backend="kernel",
        version="0.1.0",
    )


@cache
def approved(node: str) -> SwarmNode:
    """A node whose keys an operator has approved."""
    return replace(node_of(node), approved=node_record(node).statement(CLUSTER).fingerprint)


@dataclass(slots=True)
class ModelInterface:
    """One task's interface: what is in its namespace, and what its agent remembers of it.

    Attributes:
        changes: those that were made last, for the rules.
        wanted: the configuration that they were made for.
        before: what was applied before them, and what was there.
    """

    there: Interface | None = None
    rules: Rules | None = None
    hosts: tuple[HostEntry, ...] | None = None
    applied: InterfaceConfig | None = None
    settled: bool = False
    graph: object = None
    link_keys: object = None
    peers: PeerCache = field(default_factory=PeerCache)
    changes: InterfaceDiff | None = None
    before: tuple[InterfaceConfig | None, Interface | None] = (None, None)

    def restart(self) -> None:
        """Forget what an agent's process knows: the namespace stays."""
        self.applied, self.settled, self.graph, self.link_keys, self.peers = None, False, None, None, PeerCache()

    def set(self, wanted: InterfaceConfig, *, complete: bool) -> None:
        """Go on from what was read back last, or read everything; as TaskInterface and reconcile do."""
        changes = self._advance(wanted) if complete else None
        if changes is None:
            observed = Observed(self.there, self.rules, self.hosts)
            changes = diff(wanted, observed, self.applied, CLOCK.now, complete=complete, memo=RenderCache())
            self.settled = complete
        self.changes, self.before = changes, (self.applied, self.there)
        model = Model(self.there, self.hosts, self.rules)
        model.apply(changes)
        self.there, self.hosts, self.rules, self.applied = model.interface, model.hosts, model.table, wanted

    def _advance(self, wanted: InterfaceConfig) -> InterfaceDiff | None:
        if self.applied is None or not self.settled:
            return None
        peers = peer_changes(self.applied, wanted)
        if peers is None:
            return None
        first, rules = rules_around(wanted, self.rules, self.applied, RenderCache(), complete=True)
        hosts = wanted.hosts if wanted.hosts != self.applied.hosts else None
        device = DeviceChange(peers=peers) if peers else None
        return InterfaceDiff(first_rules=first, device=device, rules=rules, hosts=hosts)

    def fingerprint(self) -> tuple[object, ...]:
        device = self.there.device if self.there is not None else None
        peers = sorted(device.peers.values(), key=lambda peer: peer.public_key) if device is not None else ()
        told = tuple(
            (p.public_key, p.endpoint, p.allowed_ips, p.preshared_key is None, p.last_handshake is None)
            for p in peers
        )
        return told, self.applied is not None, self.settled, device is None


class ModelAgent:
    """One node's agent, and the namespaces of its tasks."""

    def __init__(self, node: str, *, remembers: bool = False) -> None:
        self.node = node
        self.folder = Folder()
        self.interfaces: dict[str, ModelInterface] = {}
        self.sequence = 0
        self.shown: Snapshot = Snapshot()
        self.was_complete = False
        self._remembers = remembers
        self._start(CLOCK.now)

    def _start(self, began: float) -> None:
        self.trust = VerifiedState(cast("Any", self.folder))
        self.trust._began = began
        self.trust.recover(Port().opened)
        self.desired = DesiredState(self.node, sealing_key(self.node), self.trust, cast("Any", None))
        self._pictures = Pictures() if self._remembers else None
        self.shown = Snapshot()

    def copy(self) -> ModelAgent:
        return copied(self)

    def restart(self, *, alone: bool) -> None:
        """Start another process; alone, it has not reached the store for a while."""
        for interface in self.interfaces.values():
            interface.restart()
        self._start(CLOCK.now - (60.0 if alone else 0.0))

    def look(self, etcd: Etcd | None, local: Sequence[str]) -> None:
        """Make one pass with what the store was at one moment; None while nothing was read of it yet."""
        snapshot = etcd.snapshot if etcd is not None else Snapshot()
        if self._pictures is not None and etcd is not None:
            _, snapshot = self._pictures.next(_NO_SWARM, snapshot)
        self._pass(snapshot, local)

    def look_again(self, local: Sequence[str]) -> None:
        """Make one pass with what it has seen last."""
        self._pass(self.shown, local)

    def _pass(self, snapshot: Snapshot, local: Sequence[str]) -> None:
        self.shown = snapshot
        self.desired.update(snapshot, frozenset())
        for task in self.interfaces.keys() - set(local):
            del self.interfaces[task]  # its namespace is gone
            self.desired.drop_keys(task)
        for task in local:
            self._reconcile(task, self.interfaces.setdefault(task, ModelInterface()))
        self.was_complete = self.desired.is_whole

    def _reconcile(self, task: str, interface: ModelInterface) -> None:
        graph, link_keys = self.desired.graph, self.desired.link_keys
        interface.changes = None
        if interface.graph is graph and interface.link_keys is link_keys:
            return
        interface.graph, interface.link_keys = graph, link_keys
        endpoint = graph.by_task.get(task)
        if endpoint is None or endpoint.service not in graph.services or graph.cluster is None:
            if self.desired.is_whole:
                interface.restart()
                interface.there = interface.rules = interface.hosts = None
            return
        try:
            key = self.desired._private_key(endpoint)
        except LinkwireError:
            return
        peers = interface.peers
        wanted = desired(graph, endpoint, key, _MTU, _NOWHERE, link_keys=link_keys, peer_configs=peers)
        if wanted is not None and wanted != interface.applied:
            interface.set(wanted, complete=graph.complete)

    def roam(self, task: str, peer: PublicKey) -> None:
        """A peer is heard of, from elsewhere than its record says."""
        interface = self.interfaces[task]
        assert interface.there is not None
        device = interface.there.device
        old = device.peers[peer]
        assert old.endpoint is not None
        moved = replace(old, endpoint=replace(old.endpoint, port=9), last_handshake=CLOCK.now)
        peers = {**device.peers, peer: moved}
        changed = Device(device.name, device.public_key, device.listen_port, peers)
        interface.there = replace(interface.there, device=changed)

    def wanted(self, swarm: Swarm, local: Sequence[str]) -> Iterator[Record]:
        """Yield the records that it wants in the store."""
        yield node_record(self.node)
        for task in local:
            interface, found = self.interfaces.get(task), swarm.tasks[task]
            wired = interface is not None and interface.applied is not None
            state = "running" if found.state == "running" else "created"
            yield TaskReport(task, found.service, self.node, cast("Any", state), wired, None, None, ())
        yield Status(self.node, 0.0, (), self.trust.manifest, "held" if self.trust.held else "")
        yield from recalled(self.shown.get(keyspace.RECALL, Recall), self.node, self.desired.verified)

    def report(self, etcd: Etcd, swarm: Swarm, local: Sequence[str], *, beat: bool = False) -> Etcd:
        """Have the store hold what it wants there; with `beat` sign its vitals anew, and save its state."""
        if beat:
            self.trust.save(self.node)
        wanted = {keyspace.key_of(record): record for record in self.wanted(swarm, local)}
        own = (keyspace.report(self.node, ""), keyspace.recalled(self.node, ""))
        ops: list[Op] = [Delete(key, None) for key in etcd.records if key.startswith(own) and key not in wanted]
        stored: Mapping[str, Any] = etcd.records
        for key, record in wanted.items():
            if (beat and isinstance(record, Status)) or key not in stored or stored[key].record != record:
                ops.append(Put(record, None))
        if not ops:
            return etcd
        self.sequence += 1
        made = etcd.commit(ops, self.sequence)
        assert made is not None
        return made

    def leave(self, etcd: Etcd) -> Etcd:
        """The store after its lease has ended."""
        keys = (keyspace.node(self.node), keyspace.status(self.node))
        gone = [key for key in etcd.records if key in keys or key.startswith(keyspace.recalled(self.node, ""))]
        made = etcd.commit([Delete(key, None) for key in gone]) if gone else etcd
        assert made is not None
        return made

    def fingerprint(self) -> tuple[object, ...]:
        return (
            self.trust.manifest,
            self.trust.held,
            self.desired.verified.complete,
            len(self.desired.verified.records),
            isinstance(self.shown.get(keyspace.RECALL, Recall), Recall),
            tuple((task, its.fingerprint()) for task, its in sorted(self.interfaces.items())),
            len(self.folder.files.get("state", b"")),
        )
