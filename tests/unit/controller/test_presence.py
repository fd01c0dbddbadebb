"""Presence of nodes and rest of addresses: both by the controller's own clock, and both by what it saw itself."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

from immutables import Map

from controller.recovery.resting_addresses import RestingAddresses
from controller.trust.presence import LOOK_S, SILENCE_S, Presence
from mesh.crypto.hpke import NodeKey
from mesh.crypto.signed_envelope import Signer, SigningKey, wrap
from mesh.model import codec, keyspace
from mesh.model.changelog import ChangeLog
from mesh.model.records import Address, Member, Node, Record, Status
from mesh.model.snapshot import Lineage, Snapshot, Versioned
from tests.support.signing import CLUSTER

KEYS = {name: SigningKey(name.encode().ljust(32)) for name in ("n1", "n2")}
ACCEPTED = {name: Member(name, NodeKey.generate().public, key.verify_key, 1) for name, key in KEYS.items()}


class World:
    """A store that is looked at as time passes."""

    def __init__(self) -> None:
        self.now, self.revision = 1000.0, 0
        self.records: dict[str, Versioned[Record]] = {}
        self.presence = Presence(CLUSTER)
        for name in KEYS:
            self.state(name)

    def state(self, name: str) -> None:
        """Write a node's statement, which nobody has signed: it is no sign of life, but there."""
        member, address = ACCEPTED[name], IPv4Address("192.0.2.1")
        keys = (member.sealing_key, member.report_key, 1, None, None)
        self.put(Node(name, name, *keys, address, 51820, 51920, "kernel", "1"), 0, b"unsigned")

    def put(self, record: Record, generation: int = 0, raw: bytes | None = None) -> None:
        self.revision += 1
        self.records[keyspace.key_of(record)] = Versioned(record, self.revision, generation, b"", raw)

    def say(self, node: str, generation: int, key: SigningKey | None = None) -> None:
        status = Status(node, float(generation), ())
        signer = Signer(CLUSTER, key or KEYS[node])
        raw = wrap(signer, keyspace.status(node), generation, codec.encode(status))
        self.put(status, generation, raw)

    def snapshot(self) -> Snapshot:
        return Snapshot(self.revision, True, dict(self.records), {})

    def look(self, seconds: float = 0.0) -> frozenset[str]:
        end = self.now + seconds
        self.presence.observe(self.snapshot(), ACCEPTED, self.now)
        while self.now < end:
            self.now += 1
            self.presence.observe(self.snapshot(), ACCEPTED, self.now)
        return self.presence.silent()


def test_only_a_growing_signed_generation_is_life() -> None:
    world = World()
    world.say("n1", 1)
    assert not world.look(SILENCE_S - 1)
    world.say("n1", 1)  # written again
    assert world.look(1) == {"n1"}
    world.say("n1", 2, KEYS["n2"])  # forged
    assert world.look() == {"n1"}
    world.say("n1", 2)
    assert not world.look()
    world.say("n1", 1)  # replayed
    assert world.look(SILENCE_S) == {"n1"}


def test_earlier_vitals_are_no_life_after_an_absence() -> None:
    world = World()
    world.say("n1", 5)
    world.look(1)
    del world.records[keyspace.node("n1")], world.records[keyspace.status("n1")]
    world.revision += 1
    world.look(1)
    world.state("n1")
    world.say("n1", 5)  # somebody has kept them
    assert world.look() == {"n1"}
    world.say("n1", 6)
    assert not world.look()


def test_last_sign_before_acceptance_is_life() -> None:
    """A node may join, sign, and die before the controller has accepted its statement."""
    world = World()
    world.say("n1", 1)
    made = world.snapshot()  # and it stays the same: nothing of it has changed when the statement is accepted
    kinds: dict[type, Map[str, Versioned[Record]]] = {
        kind: Map({key: made.records[key] for key, _ in made.keys_of(kind)}) for kind in (Node, Status)
    }
    stored = replace(made, trail=Lineage(made.records, made.invalid, kinds, ChangeLog[str]().mark()))
    world.presence.observe(stored, {}, world.now)
    for seconds in range(1, int(SILENCE_S) + 2):
        assert not world.presence.silent()
        world.presence.observe(stored, ACCEPTED, world.now + seconds)
    assert world.presence.silent() == {"n1"}


def test_vitals_without_statement_are_no_life() -> None:
    world = World()
    del world.records[keyspace.node("n1")]
    world.say("n1", 1)
    assert not world.look(SILENCE_S + 1), "absent, and not silent: there is nothing to leave out"


def test_each_node_is_silent_by_itself() -> None:
    world = World()
    for second in range(20):
        world.say("n1", second + 1)
        if second < 5:
            world.say("n2", second + 1)
        world.look(1)
    assert world.presence.silent() == {"n2"}


def test_time_that_nobody_looked_is_no_silence() -> None:
    """etcd did not answer, so that no node could write either."""
    world = World()
    world.say("n1", 1)
    world.say("n2", 1)
    world.look(SILENCE_S - 1)
    world.presence.pause()
    world.now += 100
    assert not world.look()
    assert not world.look(SILENCE_S - 1)
    assert world.look(1) == {"n1", "n2"}


def test_slow_passes_find_a_dead_node_later() -> None:
    """What passes while the controller itself is busy counts little, and not nothing."""
    world = World()
    world.say("n1", 1)
    world.look()
    found = []
    for _ in range(5):
        world.now += 100
        found.append(world.look() == {"n1"})
    assert found == [False, False, False, True, True]


def test_a_node_never_heard_is_not_silent() -> None:
    world = World()
    world.say("n1", 1, KEYS["n2"])
    assert not world.look(2 * SILENCE_S)
    assert world.presence.due_in(world.now) == LOOK_S


def test_rest_begins_anew_with_each_release() -> None:
    resting, address = RestingAddresses(600.0), Address(IPv4Address("10.1.0.3"), None)
    key = keyspace.key_of(address)
    held = replace(address, holder="task/t")

    def observe(record: Address, revision: int, now: float) -> list[int]:
        resting.observe(Snapshot(revision, True, {key: Versioned(record, revision)}, {}), now)
        return [op.revision or 0 for step in resting.over(now) for op in step.ops]

    assert resting.due_in(0.0) == float("inf")
    assert observe(address, 1, 0.0) == []
    assert observe(address, 1, 599.0) == []
    assert resting.due_in(599.0) == 1.0
    assert observe(address, 1, 600.0) == [1]
    assert observe(held, 2, 601.0) == []
    assert observe(address, 3, 700.0) == []
    assert observe(address, 4, 800.0) == []
    assert observe(address, 4, 1399.0) == []
    assert observe(address, 4, 1400.0) == [4]


def test_freed_addresses_come_in_transactions_that_fit() -> None:
    resting = RestingAddresses(1.0)
    records = [Address(IPv4Address("10.1.0.1") + n, None) for n in range(250)]
    stored: dict[str, Versioned[Record]] = {keyspace.key_of(record): Versioned(record, 1) for record in records}
    resting.observe(Snapshot(1, True, stored, {}), 0.0)
    steps = resting.over(1.0)
    assert [len(step.ops) for step in steps] == [50] * 5
    assert {op.key for step in steps for op in step.ops} == set(stored)


def test_a_standby_is_not_woken_without_pause() -> None:
    """It frees no address, and while etcd does not answer it hears no node."""
    world = World()
    assert world.presence.due_in(world.now) == LOOK_S
    world.say("n1", 1)
    world.look()
    world.presence.pause()
    assert world.presence.due_in(world.now + 100) == LOOK_S
