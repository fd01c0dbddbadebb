"""Plans of new node keys: made before the old ones go, and only when every node has acknowledged."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from controller.planning.node_encryption import LATE_S
from controller.planning.node_keys import SPENT_S
from controller.steps import Plan
from mesh.crypto.keys import PrivateKey, PublicKey
from mesh.model import codec, keyspace
from mesh.model.encryption.records import EncryptionWanted, Underlay
from mesh.model.encryption.status import EpochKey, KeyStatus
from mesh.model.records import Node
from tests.support.swarm_world import NODES
from tests.unit.controller.test_plan_node_encryption import PORT, Nodes, ops, public
from tests.unit.controller.transactions import carry_out

SLOTS = (PORT, PORT - 1)
MONTH = 30 * 86400


class Agents(Nodes):
    """Nodes whose agents also keep their keys, as `agent.node_encryption` does."""

    def __init__(self, *, rotate: int | None = None) -> None:
        super().__init__(rotate=rotate)
        self.lost: dict[str, int] = {}
        """How often it has lost its keys."""
        self.held: dict[str, dict[int, EpochKey]] = {name: {0: self.made(name, 0, PORT)} for name in NODES}
        self.cut: set[str] = set()
        """Nodes that no other reaches by its newest key."""
        self.old: set[str] = set()
        """Those with agents of an earlier version."""

    def made(self, name: str, epoch: int, port: int) -> EpochKey:
        if lives := self.lost.get(name, 0):
            return EpochKey(epoch, of_epoch(f"{name} again {lives}", epoch), port)
        return EpochKey(epoch, of_epoch(name, epoch) if epoch else public(name), port)

    def place(self, name: str) -> Underlay | None:
        return self.store.snapshot().get(keyspace.underlay(name), Underlay)

    def state(self, *names: str) -> None:
        """Agents make the key that they are asked for, forget others, and state those that they have."""
        asked = self.store.snapshot().get(keyspace.ENCRYPTION_WANTED, EncryptionWanted)
        for name in names or tuple(self.world.nodes):
            place, held = self.place(name), self.held.setdefault(name, {0: self.made(name, 0, PORT)})
            in_use = {key.public_key for key in place.keys} if place is not None else set()
            if asked is not None and name not in self.old:
                needed = {e: key for e, key in held.items() if e == asked.epoch or key.public_key in in_use}
                free = [port for port in SLOTS if port not in {key.port for key in needed.values()}]
                free.sort(key=lambda port: any(key.port == port for key in held.values()))
                if asked.epoch not in needed and free:
                    needed[asked.epoch] = self.made(name, asked.epoch, free[0])
                    held = {e: key for e, key in held.items() if key.port != free[0]}
                held = self.held[name] = needed if in_use else {**held, **needed}
            first, *later = (held[epoch] for epoch in sorted(held)[:2])
            node = self.store.entries[keyspace.node(name)].record
            assert isinstance(node, Node)
            own = replace(node, encryption_key=first.public_key, encryption_port=first.port)
            own = replace(own, encryption_epoch=first.epoch, encryption_next=later[0] if later else None)
            self.store.write(own)

    def say(self, *names: str) -> None:
        """Agents say which devices they have, and by which one they send."""
        for name in names or tuple(self.world.nodes):
            place = self.place(name)
            epochs = tuple(key.epoch for key in place.keys) if place is not None else ()
            if any(epochs):
                self.keys[name] = KeyStatus(epochs, tuple(other for other in self.places if self.waits(name, other)))
            else:
                self.keys.pop(name, None)

    def waits(self, name: str, other: str) -> bool:
        """Whether one does not send to the other by its newest key."""
        place, others = self.place(name), self.place(other)
        assert place is not None
        assert others is not None
        newest = place.keys[-1].epoch
        has = any(key.epoch == newest for key in others.keys)
        return name != other and (not has or bool({name, other} & self.cut))

    def set_clock_back(self, name: str) -> None:
        """Its agent says that its newest key must not be used any more."""
        node = self.store.entries[keyspace.node(name)].record
        assert isinstance(node, Node)
        newest = node.encryption_next.epoch if node.encryption_next is not None else node.encryption_epoch
        self.store.write(replace(node, encryption_spent=newest))

    def lose_volume(self, name: str) -> None:
        """Its agent begins anew, with keys that it has never had."""
        self.lost[name] = self.lost.get(name, 0) + 1
        self.held[name] = {0: self.made(name, 0, PORT)}
        self.keys.pop(name, None)
        self.state(name)

    def put_down(self, name: str) -> None:
        self.world.nodes[name] = replace(self.world.nodes[name], down=True)

    def put_up(self, name: str) -> None:
        self.world.nodes[name] = replace(self.world.nodes[name], down=False)

    def plan_once(self) -> None:
        self.world.now += 1
        carry_out(self.store, self.plan().steps)

    def rotate_now(self) -> None:
        self.renewed = self.world.now = self.world.now + 100

    def run(self, rounds: int = 6) -> Plan:
        """Go on until all agents have done their part."""
        for _ in range(rounds):
            self.state()
            made = self.settle()
            self.acknowledge()
            self.say()
            self.check_keys()
        return made

    def check_keys(self) -> None:
        """Any two nodes that are up, and neither new, have keys of one epoch, that both really hold."""
        for name in self.world.nodes:
            place = self.place(name)
            if place is not None:
                assert {key.public_key for key in place.keys} <= {k.public_key for k in self.held[name].values()}
        for name in NODES:
            for other in NODES:
                one, two = self.place(name), self.place(other)
                if one is None or two is None or self.world.nodes[name].down or self.world.nodes[other].down:
                    continue
                shared = {key.epoch for key in one.keys} & {key.epoch for key in two.keys}
                assert shared, f"{name} and {other} share no epoch"

    def at(self, name: str) -> list[int]:
        return [*self.epochs[name]]

    @property
    def epochs(self) -> dict[str, tuple[int, ...]]:
        return {place.node: tuple(key.epoch for key in place.keys) for place in self.store.all(Underlay)}


def of_epoch(name: str, epoch: int) -> PublicKey:
    return PrivateKey(f"{name} {epoch}".encode().ljust(32, b"\x01")).public


def begun(*, rotate: int | None = None) -> Agents:
    nodes = Agents(rotate=rotate)
    nodes.switch("strict")
    return nodes


def test_rotation_goes_by_three_phases() -> None:
    nodes = begun()
    before = {name: nodes.place(name) for name in NODES}
    nodes.rotate_now()
    epoch = nodes.renewed + 1
    nodes.settle()
    assert nodes.store.snapshot().get(keyspace.ENCRYPTION_WANTED, EncryptionWanted) is not None
    assert {name: nodes.place(name) for name in NODES} == before, "nothing is written before keys are stated"
    nodes.state()
    nodes.settle()
    assert nodes.epochs == dict.fromkeys(NODES, (0, epoch))
    nodes.settle()
    assert nodes.epochs == dict.fromkeys(NODES, (0, epoch)), "nobody has moved"
    nodes.say()
    nodes.settle()
    assert nodes.epochs == dict.fromkeys(NODES, (epoch,))
    for name in NODES:
        place = nodes.place(name)
        assert place is not None
        assert (place.public_key, place.endpoint.port) == (of_epoch(name, epoch), PORT - 1)
    assert nodes.run().problems == ()
    assert nodes.epochs == dict.fromkeys(NODES, (epoch,)), "once is enough"
    assert not nodes.plan().awaits
    assert nodes.switch(None) == ["send", "accept", "off"]
    assert keyspace.ENCRYPTION_WANTED not in nodes.store.entries


def test_keys_rotate_twenty_times() -> None:
    nodes = begun()
    seen = set()
    for _ in range(20):
        nodes.rotate_now()
        nodes.run()
        (epochs,) = set(nodes.epochs.values())
        assert len(epochs) == 1
        seen.add(epochs)
    assert len(seen) == 20


def test_no_rotation_leaves_records_as_before() -> None:
    """An agent or controller of an earlier version can read all of it."""
    nodes = begun(rotate=MONTH)
    nodes.run()
    for entry in nodes.store.entries.values():
        if isinstance(entry.record, Underlay | EncryptionWanted | Node):
            written = codec.encode(entry.record).decode()
            assert not {"epoch", "next", "encryption_epoch", "encryption_next"} & set(written.split('"'))


@pytest.mark.parametrize("late", NODES)
def test_one_node_holds_each_phase(late: str) -> None:
    nodes = begun()
    others = [name for name in NODES if name != late]
    nodes.rotate_now()
    nodes.settle()
    nodes.state(*others)
    assert nodes.settle().problems == ()
    assert nodes.plan().due == nodes.renewed + 1 + LATE_S
    nodes.world.now += LATE_S
    (problem,) = nodes.settle().problems
    assert problem == f"node encryption: new keys of nodes: waiting for host-{late} (which states no new key)"
    assert set(nodes.epochs.values()) == {(0,)}
    nodes.state(late)
    nodes.settle()
    nodes.say(*others)
    (problem,) = nodes.settle().problems
    assert problem.endswith(f"waiting for host-{late} (which does not say that it uses the new key)")
    nodes.cut = {late}
    nodes.say()
    (problem,) = nodes.settle().problems
    assert f"host-{others[0]} (which does not reach host-{late} by the new key)" in problem
    assert all(len(epochs) == 2 for epochs in nodes.epochs.values())
    nodes.cut = set()
    nodes.say()
    assert nodes.settle().problems == ()
    assert all(len(epochs) == 1 for epochs in nodes.epochs.values())


def test_older_agent_holds_the_rotation() -> None:
    nodes = begun()
    nodes.old = {"n2"}
    nodes.rotate_now()
    nodes.run()
    nodes.world.now += LATE_S
    assert "host-n2 (which states no new key)" in nodes.run().problems[0]
    assert set(nodes.epochs.values()) == {(0,)}
    nodes.old = set()
    nodes.run()
    assert (0,) not in nodes.epochs.values()


def test_node_that_was_down_gets_its_key_later() -> None:
    nodes = begun()
    nodes.put_down("n3")
    nodes.rotate_now()
    for _ in range(4):
        nodes.state("n1", "n2")
        nodes.settle()
        nodes.say("n1", "n2")
    (epoch,) = nodes.at("n1")
    assert epoch
    assert nodes.at("n3") == [0], "it has no other"
    nodes.put_up("n3")
    nodes.settle()
    nodes.state("n3")
    nodes.settle()
    assert nodes.at("n3") == [0, epoch]
    nodes.say()
    nodes.settle()
    assert nodes.at("n3") == [epoch]


def test_two_old_keys_hold_no_later_rotation() -> None:
    """A node went down amid one rotation, and comes back amid the next, which needs one of its two devices."""
    nodes = begun()
    nodes.rotate_now()
    nodes.settle()
    nodes.state()
    nodes.settle()
    nodes.put_down("n3")
    for _ in range(2):
        nodes.state("n1", "n2")
        nodes.say("n1", "n2")
        nodes.settle()
    (first,) = nodes.at("n1")
    assert nodes.at("n3") == [0, first]
    nodes.rotate_now()
    nodes.settle()
    nodes.put_up("n3")
    nodes.state("n3")
    nodes.settle()
    assert nodes.at("n3") == [first], "the one that the others have too"
    nodes.state()
    nodes.settle()
    (second,) = set(nodes.epochs.values())
    assert second[0] == first < second[1]
    nodes.run()
    assert set(nodes.epochs.values()) == {second[1:]}


def test_node_that_joins_gets_the_newest_epoch() -> None:
    nodes = begun()
    nodes.rotate_now()
    nodes.run()
    (epoch,) = nodes.epochs["n1"]
    nodes.join("n4")
    nodes.held["n4"] = {0: nodes.made("n4", 0, PORT)}
    nodes.run()
    assert nodes.epochs["n4"] == (epoch,)


def test_keys_rotate_on_their_schedule() -> None:
    nodes = begun(rotate=MONTH)
    asked = nodes.store.snapshot().get(keyspace.ENCRYPTION_WANTED, EncryptionWanted)
    assert asked is not None
    assert nodes.settle().due == asked.since + MONTH
    nodes.world.now = asked.since + MONTH - 2
    nodes.run(1)
    nodes.run()
    (epochs,) = set(nodes.epochs.values())
    assert asked.since + MONTH <= epochs[0] < asked.since + MONTH + 20
    assert nodes.settle().due == epochs[0] + MONTH


def test_keys_rotate_once_a_clock_went_back() -> None:
    nodes = begun()
    nodes.world.now += SPENT_S
    nodes.set_clock_back("n2")
    assert any("as clocks went back: host-n2" in step.reason for step in nodes.plan().steps)
    nodes.run()
    ((epoch,),) = set(nodes.epochs.values())
    assert epoch > nodes.world.now - 100
    nodes.world.now += 2 * SPENT_S
    nodes.run()
    assert set(nodes.epochs.values()) == {(epoch,)}, "the key that it said so of is gone"


def test_one_clock_cannot_keep_keys_rotating() -> None:
    """A node may say what it likes of its clock, after each rotation again."""
    nodes = begun()
    nodes.world.now += SPENT_S
    seen, began = set(), nodes.world.now
    while nodes.world.now < began + 3 * SPENT_S:
        nodes.run()
        seen |= set(nodes.epochs.values())
        nodes.set_clock_back("n2")
        due = nodes.settle().due
        assert due is not None
        assert due > nodes.world.now
        nodes.world.now = due - 1
    assert 3 <= len(seen) <= 5, seen


def test_rotation_waits_until_no_step_is_under_way() -> None:
    nodes = begun()
    nodes.renewed = nodes.world.now + 50
    nodes.mode = "prefer"
    nodes.plan()
    asked = nodes.store.snapshot().get(keyspace.ENCRYPTION_WANTED, EncryptionWanted)
    assert asked is not None
    assert asked.epoch == 0


@pytest.mark.parametrize("phase", range(6))
def test_all_is_switched_off_amid_each_phase(phase: int) -> None:
    """And on again, by nodes some of which have made new keys."""
    nodes = begun()
    nodes.rotate_now()
    for _ in range(phase):
        nodes.plan_once()
        nodes.state(*NODES[: 1 + phase % len(NODES)])
        nodes.say()
    assert nodes.switch(None) == ["send", "accept", "off"]
    assert not nodes.places
    assert keyspace.ENCRYPTION_WANTED not in nodes.store.entries
    nodes.mode = "prefer"
    for _ in range(4):
        nodes.settle()
        nodes.state()
        nodes.acknowledge()
        nodes.say()
    assert nodes.step == "send"
    nodes.check_keys()
    assert len(set(nodes.epochs.values())) == 1
    nodes.rotate_now()
    nodes.run()
    assert len(set(nodes.epochs.values())) == 1
    assert nodes.at("n1")[0] >= nodes.renewed


def test_new_key_of_another_node_is_not_placed() -> None:
    nodes = begun()
    nodes.rotate_now()
    nodes.settle()
    nodes.state()
    (epoch,) = [key for key in nodes.held["n1"] if key]
    node = nodes.store.entries[keyspace.node("n2")].record
    assert isinstance(node, Node)
    nodes.store.write(replace(node, encryption_next=EpochKey(epoch, of_epoch("n1", epoch), PORT - 1)))
    nodes.settle()
    keys = [key.public_key for place in nodes.store.all(Underlay) for key in place.keys]
    assert len(keys) == len(set(keys))
    nodes.world.now += LATE_S
    assert "host-n2 (it states the encryption key of host-n1)" in nodes.settle().problems[0]


@pytest.mark.parametrize("seed", range(30))
def test_any_events_leave_a_shared_epoch(seed: int) -> None:
    """A controller that ends after any write, agents that are late, and requests on the way."""
    random = Random(seed)  # noqa: S311 - a test's choices
    nodes = begun()
    for _ in range(200):
        match random.randrange(6):
            case 0:
                nodes.renewed = nodes.world.now
            case 1:
                nodes.state(random.choice(NODES))
            case 2:
                nodes.say(random.choice(NODES))
            case 3:
                nodes.cut = set(random.sample(NODES, random.randrange(2)))
            case _:
                nodes.world.now += 1
                made = nodes.plan().steps
                carry_out(nodes.store, made[: random.randint(0, len(made))])
        nodes.check_keys()
    nodes.cut = set()
    nodes.run(9)
    assert not ops(nodes.plan())
    assert len(set(nodes.epochs.values())) == 1
    assert all(len(epochs) == 1 for epochs in nodes.epochs.values())


@pytest.mark.parametrize("seed", range(12))
def test_any_nodes_that_come_and_go_end_alike(seed: int) -> None:
    """Nodes go down and come back in each phase, or lose their volumes; no rotation ends of it."""
    random = Random(seed)  # noqa: S311 - a test's choices
    nodes = begun()
    for _ in range(200):
        up = [name for name in NODES if not nodes.world.nodes[name].down]
        match random.randrange(8):
            case 0:
                nodes.renewed = nodes.world.now
            case 1 | 2 if up:
                nodes.state(random.choice(up))
            case 3 if up:
                nodes.say(random.choice(up))
            case 4 if up:
                nodes.put_down(random.choice(up))
            case 5:
                nodes.put_up(random.choice(NODES))
            case 6 if up and random.random() < 0.3:
                nodes.lose_volume(random.choice(up))
            case _:
                nodes.world.now += 1
                steps = nodes.plan().steps
                carry_out(nodes.store, steps[: random.randint(0, len(steps))])
    for name in NODES:
        nodes.put_up(name)
    for _ in range(9):
        nodes.state()
        nodes.settle()
        nodes.say()
    assert nodes.settle().problems == ()
    (epochs,) = set(nodes.epochs.values())
    assert len(epochs) == 1
    nodes.run()


def test_clock_that_was_wrong_once_stops_no_rotation() -> None:
    """A controller of the year 2099 rotated; the next one knows better, and keys are renewed all the same."""
    nodes = begun(rotate=MONTH)
    today = nodes.world.now
    nodes.world.now += 30_000 * 86_400
    nodes.run()
    ((ahead,),) = set(nodes.epochs.values())
    assert ahead > today + MONTH
    nodes.world.now = today
    nodes.run()
    (epochs,) = set(nodes.epochs.values())
    assert epochs == (ahead + 1,)
    assert today + MONTH < (nodes.settle().due or 0) < today + MONTH + 60, "and not again and again"
    nodes.renewed = ahead + 2
    nodes.run()
    assert set(nodes.epochs.values()) == {(ahead + 2,)}
