"""Plans of node encryption: who has a place, and that no step begins before all have taken the one before."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address
from random import Random

import pytest

from controller.planning.node_encryption import LATE_S, following
from controller.planning.planner import Planner, plan
from controller.steps import EncryptionGoal, Plan, PlanStep
from mesh.crypto.keys import PublicKey
from mesh.model import keyspace
from mesh.model.encryption.records import NODES_KEY, EncryptionWanted, NodeEncryption, Underlay
from mesh.model.encryption.status import EncryptionStatus, KeyStatus, Mode, Step
from mesh.model.net import UdpEndpoint
from mesh.model.records import LinkKeyEpoch, Node, SealedLinkKey
from mesh.model.snapshot import Op, Put
from tests.support.swarm_world import DB, NODES, SUBNET, WEB, home, node_of, private_key
from tests.unit.controller.planners import Pictures
from tests.unit.controller.transactions import carry_out, fresh

PORT = 51819
OFF = EncryptionStatus(0, "off", 0, 0, 0)


class Nodes:
    """Nodes whose agents do what the store says, one at a time."""

    def __init__(self, *able: str, rotate: int | None = None) -> None:
        self.store, self.world = fresh()
        self.states: dict[str, EncryptionStatus] = {}
        self.keys: dict[str, KeyStatus] = {}
        self.mode: Mode | None = None
        self.renewed, self.rotate = 0, rotate
        self.reached: dict[str, int] = {}
        """Node -> how many others it reaches by its device; all, where it is not named."""
        self.before_all: set[str] = set()
        """Nodes whose agents are of a version before mode `all`."""
        self.planner, self.pictures = Planner(), Pictures()
        for name in able or NODES:
            self.enable(name)

    def enable(self, name: str, key: str | None = None, port: int = PORT) -> None:
        """An agent that can take part states its key."""
        node = self.store.entries[keyspace.node(name)].record
        assert isinstance(node, Node)
        self.store.write(replace(node, encryption_key=public(key or name), encryption_port=port))

    def join(self, name: str) -> None:
        """Another node of the Swarm, with an agent of an earlier version."""
        self.world.nodes[name] = node_of(name)
        self.world.register(name)

    def plan(self) -> Plan:
        """The plan of a controller that remembers, which is that of one that does not."""
        goal = EncryptionGoal(self.mode, dict(self.states), dict(self.keys), self.renewed, self.rotate)
        swarm, stored = self.pictures.next(self.world.swarm(), self.store.snapshot())
        made = self.planner.plan(swarm, stored, SUBNET, self.world.now, dict(self.world.members), None, goal)
        assert made == plan(swarm, stored, SUBNET, self.world.now, self.world.members, None, goal)
        return made

    def settle(self) -> Plan:
        """Plan and write until there is nothing to write."""
        for _ in range(9):
            self.world.now += 1
            made = self.plan()
            if not made.steps:
                return made
            assert carry_out(self.store, made.steps) == len(made.steps)
            self.say_all()
            self.check()
        raise AssertionError(made)

    def say_all(self) -> None:
        """Agents say that they know mode `all`, while they are asked."""
        asked = self.store.snapshot().get(keyspace.ENCRYPTION_WANTED, EncryptionWanted)
        for node in self.store.all(Node):
            knows = asked is not None and asked.all_since > 0 and node.id not in self.before_all
            if knows != node.encryption_all:
                self.store.write(replace(node, encryption_all=knows))

    def acknowledge(self, *names: str) -> None:
        """Agents do what the record says now."""
        record = self.record
        for name in names or tuple(self.world.nodes):
            if keyspace.underlay(name) not in self.store.entries or record is None:
                self.states[name] = OFF
            else:
                places = len(self.store.all(Underlay))
                ready = self.reached.get(name, places - 1)
                self.states[name] = EncryptionStatus(record.generation, record.step, places - 1, ready, 0)
            self.check()

    def switch(self, mode: Mode | None) -> list[str]:
        """Switch over, every agent doing its part; return the steps on the way, `off` for none."""
        self.mode = mode
        steps: list[str] = []
        for _ in range(9):
            self.settle()
            steps.append(self.step)
            self.acknowledge()
        return [step for n, step in enumerate(steps) if n == 0 or steps[n - 1] != step]

    @property
    def record(self) -> NodeEncryption | None:
        return self.store.snapshot().get(keyspace.ENCRYPTION, NodeEncryption)

    @property
    def step(self) -> str:
        return self.record.step if self.record is not None else "off"

    @property
    def places(self) -> set[str]:
        return {place.node for place in self.store.all(Underlay)}

    def check(self) -> None:
        """Nobody sends by a device that another has not, or refuses what it sends; who joins later is no matter."""
        up = [name for name in NODES if name in self.states and name in self.world.nodes]
        taken = [ORDER.index(self.states[name].step) for name in up]
        assert max(taken, default=0) - min(taken, default=0) <= 1, "some nodes are two steps before others"


ORDER = ("off", "accept", "send", "enforce")


def ops(made: Plan) -> list[Op]:
    return [op for step in made.steps if isinstance(step, PlanStep) for op in step.ops]


def public(name: str) -> PublicKey:
    return private_key(4000 + sum(map(ord, name))).public


def test_switching_on_and_off_goes_step_by_step() -> None:
    nodes = Nodes()
    nodes.acknowledge()
    assert nodes.switch("strict") == ["accept", "send", "enforce"]
    assert nodes.record == NodeEncryption("strict", "enforce", 4789, nodes.record.generation if nodes.record else 0)
    assert nodes.places == set(NODES)
    assert nodes.switch("prefer") == ["send"]
    assert nodes.record is not None
    assert nodes.record.mode == "prefer"
    assert nodes.switch("strict") == ["enforce"]
    assert nodes.switch(None) == ["send", "accept", "off"]
    assert keyspace.ENCRYPTION_WANTED not in nodes.store.entries
    assert not nodes.places
    assert not nodes.store.all(LinkKeyEpoch)
    assert not nodes.store.all(SealedLinkKey)


def test_mode_all_goes_the_steps_of_strict() -> None:
    nodes = Nodes()
    nodes.acknowledge()
    assert nodes.switch("all") == ["accept", "send", "enforce"]
    before = nodes.record
    assert nodes.switch("strict") == ["enforce"]
    assert nodes.switch("all") == ["enforce"]
    assert before is not None
    assert nodes.record == replace(before, generation=nodes.record.generation if nodes.record else 0)
    assert nodes.switch(None) == ["send", "accept", "off"]


@pytest.mark.parametrize("before", [None, "prefer", "strict"])
def test_mode_all_waits_for_older_agents(before: Mode | None) -> None:
    """One that does not know the mode would act on nothing new: it is named, and all goes on as it was."""
    nodes = Nodes()
    nodes.before_all = {"n2"}
    nodes.acknowledge()
    nodes.switch(before)
    record = nodes.record
    assert nodes.switch("all") == [nodes.step]
    assert nodes.record == record
    nodes.world.now += LATE_S
    (problem,) = nodes.settle().problems
    assert problem.startswith("node encryption: mode all waits for host-n2: an agent of an earlier version")
    nodes.switch("strict")
    assert nodes.settle().problems == ()
    assert not any(node.encryption_all for node in nodes.store.all(Node)), "nobody says what nobody asks"
    nodes.switch("all")
    nodes.before_all = set()
    nodes.say_all()
    nodes.switch("all")
    assert nodes.record is not None
    assert (nodes.record.mode, nodes.step) == ("all", "enforce")
    nodes.switch(None)
    assert nodes.record is None


def test_all_waits_for_no_node_that_is_down() -> None:
    nodes = Nodes()
    nodes.before_all = {"n2"}
    nodes.world.nodes["n2"] = replace(nodes.world.nodes["n2"], down=True)
    nodes.acknowledge("n1", "n3")
    nodes.mode = "all"
    nodes.settle()
    assert nodes.step == "accept"


def test_never_switched_on_leaves_no_record() -> None:
    """An older agent or controller finds what it found before."""
    nodes, plain = Nodes(), Nodes()
    for each in (nodes, plain):
        each.world.add(WEB, "n1")
        each.world.add(DB, "n2")
        each.settle()
    nodes.mode = "strict"
    for name in NODES:
        node = nodes.store.entries[keyspace.node(name)].record
        assert isinstance(node, Node)
        nodes.store.write(replace(node, encryption_key=None, encryption_port=0))
    nodes.settle()
    assert keyspace.ENCRYPTION_WANTED in nodes.store.entries, "nodes are asked for their keys"
    nodes.mode = None
    nodes.settle()
    kinds = [sorted(key.partition("/")[0] for key in each.store.entries) for each in (nodes, plain)]
    assert kinds[0] == kinds[1]
    assert not {"encryption", "encryptionwanted", "peers"} & set(kinds[0])


def test_nothing_is_switched_before_all_can_take_part() -> None:
    nodes = Nodes("n1", "n2")
    nodes.mode = "prefer"
    assert nodes.settle().problems == (), "nodes are asked for their keys just now"
    nodes.world.now += LATE_S
    made = nodes.settle()
    (problem,) = made.problems
    assert problem == (
        "node encryption: node host-n3: its agent states no encryption key: it is of an earlier version, or its log "
        "says why; nothing is switched until every node has an agent that can take part"
    )
    assert nodes.record is None
    assert not nodes.places
    nodes.enable("n3")
    nodes.world.members.pop("n2")
    assert "host-n2: its agent's keys are neither proven nor approved" in nodes.settle().problems[0]
    assert not nodes.places
    nodes.world.nodes["n2"] = replace(nodes.world.nodes["n2"], down=True)
    nodes.settle()
    assert nodes.step == "accept", "a node that is down is not waited for"
    assert nodes.places == {"n1", "n3"}


@pytest.mark.parametrize("late", NODES)
def test_a_step_waits_for_nodes_up(late: str) -> None:
    nodes = Nodes()
    nodes.mode = "strict"
    others = [name for name in NODES if name != late]
    for step, following_step in (("accept", "send"), ("send", "enforce")):
        nodes.settle()
        nodes.acknowledge(*others)
        assert nodes.settle().problems == (), "it takes a few seconds"
        assert nodes.plan().awaits
        nodes.world.now += LATE_S
        made = nodes.settle()
        assert nodes.step == step
        assert made.awaits
        assert made.problems == (
            f"node encryption: step {step} of strict: next comes {following_step}, waiting for host-{late}",
        )
        nodes.acknowledge(late)
    assert not nodes.settle().awaits
    nodes.mode = None
    nodes.acknowledge(*others)
    nodes.settle()
    assert nodes.step == "enforce", "it has not acknowledged to refuse, and does so yet"
    nodes.world.nodes[late] = replace(nodes.world.nodes[late], down=True)
    nodes.settle()
    assert nodes.step == "send"


def test_an_older_acknowledgement_counts_for_nothing() -> None:
    nodes = Nodes()
    nodes.switch("prefer")
    nodes.switch(None)
    nodes.mode = "prefer"
    nodes.settle()
    assert nodes.record is not None
    for name in NODES:
        nodes.states[name] = EncryptionStatus(nodes.record.generation - 1, "accept", 2, 2, 0)
    nodes.settle()
    assert nodes.step == "accept"


def test_nothing_is_refused_while_nodes_lack_each_other() -> None:
    nodes = Nodes()
    nodes.reached["n2"] = 1
    assert nodes.switch("strict") == ["accept", "send"]
    nodes.world.now += LATE_S
    (problem,) = nodes.settle().problems
    assert problem.endswith("next comes enforce, waiting for host-n2 (which reaches 1 of 2 other nodes by it)")
    nodes.reached.clear()
    nodes.join("n4")
    nodes.acknowledge()
    problems = nodes.settle().problems
    assert "node host-n4: its agent states no encryption key" in problems[0]
    assert problems[0].endswith("; overlay packets to and from it are sent and taken plain")
    assert "host-n4 (which has no part in it)" in problems[1]
    assert nodes.step == "send"
    nodes.enable("n4")
    assert nodes.switch("strict") == ["send", "enforce"]


def test_a_node_that_joins_gets_its_place() -> None:
    nodes = Nodes()
    nodes.switch("strict")
    generation = nodes.record and nodes.record.generation
    nodes.join("n4")
    (problem,) = nodes.settle().problems
    assert problem.endswith("; overlay packets to and from it are refused")
    nodes.enable("n4")
    assert nodes.settle().problems == ()
    assert nodes.places == {*NODES, "n4"}
    assert nodes.record is not None
    assert nodes.record.generation == generation, "nothing is switched for it"
    assert keyspace.link_key("n4", NODES_KEY) in nodes.store.entries


def test_places_follow_nodes_and_outlast_silence() -> None:
    nodes = Nodes()
    nodes.switch("prefer")
    place = nodes.store.snapshot().get(keyspace.underlay("n2"), Underlay)
    assert place == Underlay("n2", public("n2"), UdpEndpoint(home("n2"), PORT))
    nodes.enable("n2", "another", 51900)
    nodes.world.nodes["n2"] = replace(nodes.world.nodes["n2"], address=IPv4Address("198.51.100.7"))
    nodes.settle()
    place = nodes.store.snapshot().get(keyspace.underlay("n2"), Underlay)
    assert place == Underlay("n2", public("another"), UdpEndpoint(IPv4Address("198.51.100.7"), 51900))
    nodes.world.members.pop("n2")
    nodes.settle()
    assert nodes.places == set(NODES)
    nodes.world.nodes["n3"] = replace(nodes.world.nodes["n3"], revoked="now")
    nodes.settle()
    assert nodes.places == {"n1", "n2"}
    del nodes.world.nodes["n2"]
    nodes.settle()
    assert nodes.places == {"n1"}


def test_no_node_takes_anothers_key_address_or_ports() -> None:
    nodes = Nodes("n1", "n2")
    nodes.mode = "prefer"
    for key, port, text in (
        ("n1", PORT, "it states the encryption key of host-n1"),
        ("n3", 80, "its agent states the UDP port 80 for it, which is not used"),
        ("n3", 4789, "its agent states the UDP port 4789 for it, which is not used"),
    ):
        nodes.enable("n3", key, port)
        nodes.settle()
        nodes.world.now += LATE_S
        (problem,) = nodes.settle().problems
        assert problem.startswith(f"node encryption: node host-n3: {text}")
    nodes.enable("n3")
    nodes.world.nodes["n3"] = replace(nodes.world.nodes["n3"], address=home("n1"))
    (problem,) = nodes.settle().problems
    assert "host-n3: its address, 192.0.2.1, is that of host-n1" in problem
    assert nodes.record is None


def test_all_with_a_place_have_the_nodes_key() -> None:
    nodes = Nodes()
    nodes.switch("prefer")
    boxes = {record.node: record.epoch for record in nodes.store.all(SealedLinkKey)}
    (epoch,) = nodes.store.all(LinkKeyEpoch)
    assert boxes == dict.fromkeys(NODES, epoch.epoch)
    assert epoch.key == NODES_KEY
    nodes.world.nodes["n3"] = replace(nodes.world.nodes["n3"], revoked="now")
    nodes.world.members.pop("n3")
    nodes.settle()
    (later,) = nodes.store.all(LinkKeyEpoch)
    assert later.epoch > epoch.epoch, "the revoked node knows the one before"
    assert {record.node for record in nodes.store.all(SealedLinkKey)} == {"n1", "n2"}


def test_other_port_of_vxlan_is_told() -> None:
    nodes = Nodes()
    goal, stored = EncryptionGoal("prefer"), nodes.store.snapshot()
    swarm = replace(nodes.world.swarm(), data_path_port=7789)
    carry_out(nodes.store, plan(swarm, stored, SUBNET, nodes.world.now, nodes.world.members, None, goal).steps)
    assert nodes.record is not None
    assert nodes.record.data_path_port == 7789


def test_unreadable_record_switches_nothing() -> None:
    nodes = Nodes()
    nodes.switch("strict")
    nodes.store.damage(keyspace.ENCRYPTION)
    modes: tuple[Mode | None, ...] = ("strict", None)
    for mode in modes:
        nodes.mode = mode
        assert nodes.plan().steps == ()
    nodes.store.heal()
    nodes.store.damage(keyspace.underlay("n1"))
    nodes.mode = "strict"
    assert all(isinstance(op, Put) and op.key == keyspace.underlay("n1") for op in ops(nodes.plan()))


@pytest.mark.parametrize("seed", range(30))
def test_any_events_keep_nodes_in_step(seed: int) -> None:
    """A controller that ends after any write, agents that are late, and goals that change on the way."""
    random = Random(seed)  # noqa: S311 - a test's choices
    nodes = Nodes()
    nodes.acknowledge()
    modes: tuple[Mode | None, ...] = (None, "prefer", "strict")
    for _ in range(150):
        match random.randrange(5):
            case 0:
                nodes.mode = random.choice(modes)
            case 1 | 2:
                nodes.acknowledge(random.choice(NODES))
            case _:
                nodes.world.now += 1
                made = nodes.plan().steps
                carry_out(nodes.store, made[: random.randint(0, len(made))])
        nodes.check()
    for mode in modes[::-1]:
        nodes.switch(mode)
    assert nodes.step == "off"
    assert not nodes.places


@pytest.mark.parametrize(
    ("step", "goal", "to"),
    [
        ("accept", "prefer", "send"),
        ("send", "prefer", "send"),
        ("enforce", "prefer", "send"),
        ("send", "strict", "enforce"),
        ("enforce", "strict", "enforce"),
        ("send", "all", "enforce"),
        ("enforce", "all", "enforce"),
        ("enforce", None, "send"),
        ("accept", None, None),
    ],
)
def test_next_step(step: Step, goal: Mode | None, to: Step | None) -> None:
    assert following(step, goal) == to
