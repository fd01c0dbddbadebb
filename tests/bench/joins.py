"""A node that joins a Swarm with node encryption: what it costs the store, itself and every other node.

    .venv/bin/python -m tests.bench.joins 100 300

The plan, all signatures, the check of the whole set, link keys and devices are real; the other nodes' devices are not
there, and no etcd is: what is written is counted as it would be sent, but for the manifest and the page of the audit
log. Processor time is that of the agent's thread: with the kernel's WireGuard its work too, without wireguard-go's.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from agent.desired_state import DesiredState
from agent.linux.netns import TaskNetns
from agent.node_encryption.device import NodeDevice
from agent.node_encryption.keeper import Keeper
from agent.node_encryption.key import HeldKey, NodeKeys
from agent.state.verified_state import VerifiedState
from controller.planning.planner import plan
from controller.steps import EncryptionGoal
from controller.swarm.model import SwarmNode
from mesh.crypto.hpke import NodeKey
from mesh.crypto.keys import PrivateKey, PublicKey
from mesh.crypto.multiset_hash import Entry
from mesh.crypto.signed_envelope import Keyring, SigningKey
from mesh.integrity.record_signing import RecordSigner
from mesh.model import codec, keyspace
from mesh.model.encryption.records import NodeEncryption
from mesh.model.encryption.status import EncryptionStatus, KeyStatus
from mesh.model.records import Cluster, Node, Record
from mesh.model.snapshot import Put, SignedSet, Snapshot
from mesh.process.log_setup import configure
from mesh.store.follower import Batch, MaterializedView, RecordChange
from mesh.topology.ipam import ula
from tests.netns.world import device_name, make_backend
from tests.support import stage
from tests.support.swarm_world import REPORT_KEY, World
from tests.unit.controller.memory_store import MemoryStore
from tests.unit.controller.transactions import transaction

SUBNET = IPv4Network("10.1.0.0/16")
_SIGNING = SigningKey(bytes(32))
_SIGNER = RecordSigner.controller(Keyring("cluster", (_SIGNING.verify_key,)), _SIGNING)
_PASSES, _TURNS = 12, 5
FIRST = IPv4Address("10.128.0.0")
PORTS = (51819, 51818)


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of one more node.

    Attributes:
        records: that the controller writes, by kind.
        size: of all of them, in bytes.
        planning: milliseconds of the controller's processor for the plan.
        joining: of the new node's, from the read store to a device with all peers.
        others: of each other node's, from the changed records to a device with one peer more.
        looking: of a look at the device that finds nothing to do: each node takes one every 2 s anyhow.
    """

    records: Counter[str]
    size: int
    planning: float
    joining: float
    others: float
    looking: float


class Swarm:
    """Nodes, of which each has taken every step that the store says."""

    def __init__(self, size: int) -> None:
        self.store = MemoryStore()
        self.world = World(lambda options: options[0], self.store)
        self.world.nodes.clear()
        self.world.members.clear()
        self.store.write(Cluster("cluster", SUBNET, ula("cluster")))
        self.sealing: dict[str, NodeKey] = {}
        self.keys: dict[str, PrivateKey] = {}
        self.epochs: dict[str, KeyStatus] = {}
        self.renewed = 0
        for _ in range(size):
            self.join()
        while self.settle()[0]:
            pass

    def join(self) -> str:
        """One more node, whose agent states its keys; returns its name."""
        number = len(self.keys) + 1
        name, address = f"n{number}", FIRST + number
        self.keys[name], self.sealing[name] = PrivateKey.generate(), NodeKey.generate()
        public = self.sealing[name].public
        self.world.nodes[name] = SwarmNode(name, f"host-{name}", down=False, address=None, known_at=(address,))
        self.world.members[name] = public
        self.store.write(
            Node(
                id=name,
                hostname=f"host-{name}",
                sealing_key=public,
                report_key=REPORT_KEY,
                counter=number,
                proof=None,
                unproven=None,
                address=address,
                first_port=51820,
                last_port=53819,
                backend="kernel",
                version="0.1.0",
                encryption_key=self.keys[name].public,
                encryption_port=PORTS[0],
            )
        )
        return name

    def settle(self) -> tuple[list[Record], float]:
        """Plan and write until there is nothing to write; what was written, and milliseconds of the first plan."""
        written: list[Record] = []
        took = []
        for _ in range(_PASSES):
            self.world.now += 1
            goal = EncryptionGoal("strict", self._states(), self.epochs, self.renewed)
            swarm, stored = self.world.swarm(), self.store.snapshot()
            began = time.thread_time()
            made = plan(swarm, stored, SUBNET, self.world.now, self.world.members, None, goal)
            took.append((time.thread_time() - began) * 1000)
            if not made.steps:
                return written, took[0]
            for step in made.steps:
                ops = transaction(step)
                assert self.store.commit(ops) is not None
                written += [op.record for op in ops if isinstance(op, Put)]
        raise AssertionError(f"still writing after {_PASSES} passes")

    def _states(self) -> dict[str, EncryptionStatus]:
        told = self.store.snapshot().get(keyspace.ENCRYPTION, NodeEncryption)
        if told is None:
            return dict.fromkeys(self.keys, EncryptionStatus(0, "off", 0, 0, 0))
        others = len(self.keys) - 1
        return dict.fromkeys(self.keys, EncryptionStatus(told.generation, told.step, others, others, 0))


class View:
    """What one node's agent has read of the store, signed as the controller signs it."""

    def __init__(self, store: MemoryStore, node: str) -> None:
        self._store = store
        self._node = node
        self._picture = MaterializedView(_SIGNER)
        self._set = SignedSet()
        self._generation = self._revision = 0

    def whole(self) -> Batch:
        """All of it."""
        return self._batch((entry.record for entry in self._store.entries.values()), whole=True)

    def changed(self, records: Iterable[Record]) -> Batch:
        """What the controller has written."""
        return self._batch(records, whole=False)

    def read(self, batch: Batch) -> Snapshot:
        """Open and check it, as a follower of the store does."""
        if batch.whole:
            self._picture.replace(batch)
        else:
            self._picture.apply(batch)
        return self._picture.snapshot(complete=True)

    def _batch(self, records: Iterable[Record], *, whole: bool) -> Batch:
        self._generation, self._revision = self._generation + 1, self._revision + 1
        values = {
            key: signed(record, self._generation)
            for record in records
            if keyspace.read_by(key := keyspace.key_of(record), self._node) and key != keyspace.MANIFEST
        }
        entries = [Entry.of(key, self._generation, value) for key, value in values.items()]
        self._set = self._set.after(entries, ())
        values[keyspace.MANIFEST] = signed(self._set.record(), self._generation)
        changes = [RecordChange(key.encode(), value, self._revision) for key, value in values.items()]
        return Batch(self._revision, whole=whole, changes=changes)


def signed(record: Record, generation: int) -> bytes:
    """The value that the store has of a record."""
    return _SIGNER.sign(keyspace.key_of(record), generation, codec.encode(record))


class Agent:
    """One node's part in node encryption, from the store to its device."""

    def __init__(self, swarm: Swarm, node: str, home: TaskNetns, folder: Path) -> None:
        self.view = View(swarm.store, node)
        self._backend = make_backend(home.path)
        self.device = NodeDevice(home, self._backend, device_name())
        self._keeper = Keeper(self.device, folder)
        self.keys = NodeKeys(folder, PORTS)
        self.keys.held = (HeldKey(0, 0, swarm.keys[node]),)
        trust = VerifiedState(folder)
        self._desired = DesiredState(node, swarm.sealing[node], trust, self._backend, node_keys=self.keys)

    def act(self, batch: Batch) -> float:
        """Act on what was read; returns milliseconds of processor."""
        return spent(lambda: self._act(batch))

    def look(self) -> float:
        """Look at the device, when nothing has changed; likewise."""
        return spent(self._keeper._look_safely)

    def peers(self) -> int:
        """Peers that its device has."""
        status = self._keeper.status
        assert status is not None
        assert "link key" not in status.problem
        return status.peers

    def has(self, public: PublicKey) -> bool:
        """Whether its device has a peer, read outside of the clock."""
        return public in self.device.read().devices[0].device.peers

    def close(self) -> None:
        """Take its devices away: two in a rotation."""
        with stage.uninterrupted():
            for name in self.device.names:
                self._backend.delete(self.device.home, name)
            self._backend.close()

    def _act(self, batch: Batch) -> None:
        self._desired.update(self.view.read(batch), frozenset())
        assert self._desired.trust.held == ""
        self._keeper.want(self._desired.node_tunnel())
        self._keeper._look_safely()


def spent(work: Callable[[], object]) -> float:
    """Milliseconds of this thread's processor, once."""
    began = time.thread_time()
    work()
    return (time.thread_time() - began) * 1000


def cost(size: int, turns: int = _TURNS) -> Cost:
    """What a node more costs a Swarm of a size: the medians of some that join one after the other."""
    swarm = Swarm(size)
    with stage.world() as (world, folder):
        home = world.netns()
        first = Agent(swarm, "n1", home, _folder(folder, "n1"))
        stage.address(home, "wire", FIRST + 1)
        first.act(first.view.whole())
        taken: list[tuple[float, float, float, float]] = []
        try:
            for turn in range(turns):
                name = swarm.join()
                written, planning = swarm.settle()
                first.look()  # which asks for the MTU of the ways to all others, every 30 s
                looking = first.look()
                others = first.act(first.view.changed(written))
                assert first.has(swarm.keys[name].public)
                first.look()
                assert first.peers() == size + turn
                stage.address(there := world.netns(), "wire", FIRST + len(swarm.keys))
                newcomer = Agent(swarm, name, there, _folder(folder, name))
                try:
                    joining = newcomer.act(newcomer.view.whole())
                    assert newcomer.peers() == size + turn
                finally:
                    newcomer.close()
                taken.append((planning, joining, others, looking))
        finally:
            first.close()
    size_of = sum(len(signed(record, 1)) for record in written)
    records = Counter(type(record).__name__ for record in written)
    return Cost(records, size_of, *(statistics.median(column) for column in zip(*taken, strict=True)))


def _folder(folder: Path, name: str) -> Path:
    made = folder / name
    made.mkdir()
    return made


def main(sizes: Iterable[int]) -> None:
    """Print a table."""
    configure("warning")
    print("| nodes | records | bytes | plan, ms | the node that joins, ms | each other, ms | a look, ms |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for size in sizes:
        made = cost(size)
        records = ", ".join(f"{count} {kind}" for kind, count in sorted(made.records.items()))
        times = " | ".join(f"{value:.1f}" for value in (made.planning, made.joining, made.others, made.looking))
        print(f"| {size} | {records} | {made.size} | {times} |")


if __name__ == "__main__":
    main(map(int, sys.argv[1:] or ("100", "300")))
