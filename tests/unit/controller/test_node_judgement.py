"""Whom the controller believes: real certificates of a made-up Swarm, and somebody who can write anything to etcd."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv4Network

import pytest

from controller.planning.planner import plan
from controller.swarm.model import Swarm, SwarmNode, SwarmTask
from controller.trust.node_judgement import Judged, Members
from controller.trust.snapshot_judgement import AGAIN
from mesh.crypto import signed_envelope
from mesh.crypto.hpke import NodeKey
from mesh.crypto.signed_envelope import Keyring, Opened, Signer, SigningKey, wrap
from mesh.identity import attestation
from mesh.identity.attestation import TOLERANCE, Identity, NodeProof, NodeStatement, make_proof
from mesh.integrity.record_signing import RecordSigner
from mesh.model import codec, keyspace
from mesh.model.records import Cluster, Endpoint, Member, Node, Record, TaskReport
from mesh.model.snapshot import Delete, Put, Snapshot, Versioned
from mesh.topology.ipam import ula
from tests.support.swarm_ca import CLUSTER, MADE, Authority, Leaf, key_file, pem
from tests.support.swarm_world import service
from tests.unit.controller.transactions import transaction

READER = RecordSigner.reader(Keyring(CLUSTER, ()))
SUBNET = IPv4Network("10.1.0.0/24")
ROOT = Authority.root()
NOW = MADE + timedelta(days=1)
N1, N2 = "n1", "n2"
OWN_LINK = service("shop_web", "shop_web", replicas=1)


class Agent:
    """A node's agent, with the node's certificate."""

    def __init__(self, node: str, authority: Authority = ROOT) -> None:
        self.node = node
        self.authority = authority
        self.leaf = Leaf.of(node=node)
        self.sealing_key, self.key = NodeKey.generate(), SigningKey.generate()
        self.counter = 1
        self.generation = 0

    def record(self, *, proven: bool = True) -> Node:
        said = Node(
            id=self.node,
            hostname=f"host-{self.node}",
            sealing_key=self.sealing_key.public,
            report_key=self.key.verify_key,
            counter=self.counter,
            proof=None,
            unproven=None if proven else "locked",
            address=IPv4Address("192.0.2.1"),
            first_port=51820,
            last_port=51920,
            backend="kernel",
            version="0.1.0",
        )
        return replace(said, proof=self.proof(said)) if proven else said

    def proof(self, said: Node) -> NodeProof:
        return make_proof(pem(self.leaf.signed_by(self.authority)), key_file(self.leaf.key), said.statement(CLUSTER))

    def report(self, task: str, *, wired: bool = True) -> TaskReport:
        return TaskReport(task, OWN_LINK.id, self.node, "running", wired, None, None, ())

    def signed(self, record: Record, key: str = "") -> tuple[str, bytes]:
        self.generation += 1
        key = key or keyspace.key_of(record)
        return key, wrap(Signer(CLUSTER, self.key), key, self.generation, codec.encode(record))


class Mesh:
    """etcd, a Swarm and a controller that looks at both."""

    def __init__(self) -> None:
        self.members = Members()
        self.swarm = Swarm(CLUSTER, {OWN_LINK.id: OWN_LINK}, {}, {}, (ROOT.pem,))
        self.now: datetime = NOW
        self.values: dict[str, Versioned[Record]] = {}
        self.revision = 0
        self.put(Cluster(CLUSTER, SUBNET, ula(CLUSTER)))
        for node in (N1, N2):
            self.join(node)

    def join(self, node: str, **fields: object) -> None:
        known = SwarmNode(node, f"host-{node}", down=False, address=None, known_at=(IPv4Address("192.0.2.1"),))
        self.swarm = replace(self.swarm, nodes={**self.swarm.nodes, node: replace(known, **fields)})  # type: ignore[arg-type]  # a test names them right

    def leave(self, node: str) -> None:
        self.swarm = replace(self.swarm, nodes={n: found for n, found in self.swarm.nodes.items() if n != node})

    def run(self, task: str, node: str) -> None:
        made = SwarmTask(task, OWN_LINK.id, 1, node, "running", "running")
        self.swarm = replace(self.swarm, tasks={**self.swarm.tasks, task: made})

    def put(self, record: Record) -> None:
        """As the controller does."""
        self.revision += 1
        self.values[keyspace.key_of(record)] = Versioned(record, self.revision)

    def say(self, *values: tuple[str, bytes]) -> None:
        """As anybody does who can write to etcd, read as a controller reads it."""
        for key, raw in values:
            self.revision += 1
            opened = READER.open(key, raw)
            record = codec.decode(key, opened.body)
            self.values[key] = Versioned(record, self.revision, opened.generation, opened.signer, raw)

    @property
    def stored(self) -> Snapshot:
        return Snapshot(self.revision, True, dict(self.values), {})

    def judge(self) -> Judged:
        return self.members.judge(self.swarm, self.stored, self.now)

    def settle(self) -> Judged:
        """Judge, plan and write until there is nothing to do; the last judgement."""
        for _ in range(6):
            judged = self.judge()
            made = plan(self.swarm, judged.stored, SUBNET, 1_800_000_000, judged.members)
            steps = (*judged.steps, *made.steps)
            for step in steps:
                for op in transaction(step):
                    if isinstance(op, Put):
                        self.put(op.record)
                    elif isinstance(op, Delete):
                        self.values.pop(op.key, None)
            if not steps:
                return judged
        raise AssertionError("it does not come to rest")

    def endpoint(self, task: str) -> Endpoint | None:
        found = self.values.get(keyspace.endpoint(OWN_LINK.id, task))
        return found.record if found and isinstance(found.record, Endpoint) else None

    def wire(self, agent: Agent, task: str) -> Endpoint:
        """An agent that is believed, with one of its tasks wired and ready."""
        self.say(agent.signed(agent.record()), agent.signed(agent.report(task)))
        self.run(task, agent.node)
        self.settle()
        found = self.endpoint(task)
        assert found is not None
        assert found.ready
        return found


@pytest.fixture
def mesh() -> Mesh:
    return Mesh()


@pytest.fixture
def agent() -> Agent:
    return Agent(N1)


def member(agent: Agent) -> Member:
    return Member(agent.node, agent.sealing_key.public, agent.key.verify_key, agent.counter)


def wired_with(mesh: Mesh, agent: Agent) -> Endpoint:
    return mesh.wire(agent, "t1")


# -- who is a member -------------------------------------------------------------------------------------


def test_node_proving_its_keys_becomes_a_remembered_member(mesh: Mesh, agent: Agent) -> None:
    mesh.say(agent.signed(agent.record()))
    judged = mesh.settle()
    assert judged.members == {N1: agent.sealing_key.public}
    assert judged.problems == ()
    assert mesh.stored.get(keyspace.member(N1), Member) == member(agent)


def test_unproven_node_needs_approval_by_hand(mesh: Mesh, agent: Agent) -> None:
    said = agent.record(proven=False)
    mesh.say(agent.signed(said))
    judged = mesh.judge()
    assert judged.members == {}
    assert "its Swarm key is encrypted (autolock): approve it" in judged.stored.invalid[keyspace.node(N1)]
    mesh.join(N1, approved=said.statement(CLUSTER).fingerprint)
    assert mesh.settle().members == {N1: agent.sealing_key.public}
    agent.counter += 1
    mesh.say(agent.signed(agent.record(proven=False)))
    assert mesh.settle().members == {N1: agent.sealing_key.public}, "the next statement is of the same keys"


def test_an_approval_is_of_those_keys_alone(mesh: Mesh, agent: Agent) -> None:
    mesh.join(N1, approved=agent.record().statement(CLUSTER).fingerprint)
    stranger = Agent(N1)
    mesh.say(stranger.signed(stranger.record(proven=False)))
    judged = mesh.judge()
    assert judged.members == {}
    assert "linkwire.key approves other keys" in judged.stored.invalid[keyspace.node(N1)]


@pytest.mark.parametrize("change", ["sealing_key", "report_key", "counter"])
def test_statement_outside_the_proof_is_disbelieved(mesh: Mesh, agent: Agent, change: str) -> None:
    """Somebody puts a key of his own beside the node's proof."""
    own = Agent(N1)
    value = {"sealing_key": own.sealing_key.public, "report_key": own.key.verify_key, "counter": 9}[change]
    signer = own if change == "report_key" else agent
    mesh.say(signer.signed(replace(agent.record(), **{change: value})))  # type: ignore[arg-type]  # as named
    judged = mesh.judge()
    assert judged.members == {}
    assert "its proof does not hold" in judged.stored.invalid[keyspace.node(N1)]


def test_another_nodes_certificate_proves_nothing(mesh: Mesh) -> None:
    rogue = Agent(N2)
    said = replace(rogue.record(proven=False), id=N1, unproven=None)
    mesh.say(rogue.signed(replace(said, proof=rogue.proof(said))))
    judged = mesh.judge()
    assert judged.members == {}
    assert "another node's" in judged.stored.invalid[keyspace.node(N1)]


def test_record_unsigned_by_its_key_is_forged(mesh: Mesh, agent: Agent) -> None:
    """The proof is public: anybody can copy it beside an address of his own."""
    stranger = Agent(N1)
    mesh.say(stranger.signed(replace(agent.record(), address=IPv4Address("203.0.113.9"))))
    judged = mesh.judge()
    assert judged.members == {}
    assert judged.stored.get(keyspace.node(N1), Node) is None


def test_node_outside_the_swarm_is_never_a_member(mesh: Mesh, agent: Agent) -> None:
    wired_with(mesh, agent)
    mesh.leave(N1)
    judged = mesh.settle()
    assert judged.members == {}
    assert judged.problems == (f"node {N1}: an agent speaks for it, and it is not in this Swarm",)
    assert mesh.stored.get(keyspace.member(N1), Member) is None
    assert mesh.endpoint("t1") is None


def test_a_role_is_not_taken_from_a_certificate(mesh: Mesh, agent: Agent) -> None:
    agent.leaf = Leaf.of("swarm-manager", node=N1)
    mesh.say(agent.signed(agent.record()))
    assert mesh.judge().members == {N1: agent.sealing_key.public}


# -- earlier statements ----------------------------------------------------------------------------------


def renewed(agent: Agent) -> Agent:
    """The same node with new keys, as after the loss of its volume."""
    fresh = Agent(agent.node)
    fresh.counter = agent.counter + 1
    return fresh


@pytest.mark.parametrize("remembered", ["by the controller", "in the store"])
def test_restored_earlier_proof_is_refused(mesh: Mesh, agent: Agent, remembered: str) -> None:
    earlier = agent.signed(agent.record())
    mesh.say(earlier)
    mesh.settle()
    fresh = renewed(agent)
    mesh.say(fresh.signed(fresh.record()))
    assert mesh.settle().members == {N1: fresh.sealing_key.public}
    if remembered == "in the store":
        mesh.members = Members()
    else:
        del mesh.values[keyspace.member(N1)]
    mesh.say(earlier)
    judged = mesh.settle()
    assert judged.members == {}
    assert (
        "an earlier statement about its keys (counter 1, where 2 was accepted)" in judged.stored.invalid["nodes/n1"]
    )
    assert mesh.stored.get(keyspace.member(N1), Member) == member(fresh), "what was accepted is put back"


def test_first_of_two_statements_with_one_counter_stays(mesh: Mesh, agent: Agent) -> None:
    mesh.say(agent.signed(agent.record()))
    mesh.settle()
    twin = Agent(N1)
    mesh.say(twin.signed(twin.record()))
    assert mesh.settle().members == {}
    assert mesh.stored.get(keyspace.member(N1), Member) == member(agent)


def test_controllers_earlier_member_record_undoes_no_later(mesh: Mesh, agent: Agent) -> None:
    statement = agent.signed(agent.record())
    mesh.say(statement)
    mesh.settle()
    earlier = mesh.values[keyspace.member(N1)]
    fresh = renewed(agent)
    mesh.say(fresh.signed(fresh.record()))
    mesh.settle()
    mesh.values[keyspace.member(N1)] = earlier
    mesh.say(statement)
    assert mesh.settle().members == {}
    assert mesh.stored.get(keyspace.member(N1), Member) == member(fresh)


def test_records_of_the_earlier_key_stop_counting(mesh: Mesh, agent: Agent) -> None:
    before = wired_with(mesh, agent)
    fresh = renewed(agent)
    mesh.say(fresh.signed(fresh.record()))
    judged = mesh.judge()
    assert "may not sign this" in judged.stored.invalid[keyspace.report(N1, "t1")]
    mesh.say(fresh.signed(agent.report("t1")))
    assert mesh.judge().stored.get(keyspace.report(N1, "t1"), TaskReport) is not None
    assert before.ready


def test_strangers_statement_does_not_revive_an_earlier_one(mesh: Mesh, agent: Agent) -> None:
    """Of the same keys, with an address that the node had before."""
    moved = agent.signed(replace(agent.record(), address=IPv4Address("203.0.113.9")))
    mesh.say(agent.signed(agent.record()))
    mesh.settle()
    mesh.judge()
    stranger = Agent(N1)
    mesh.say(stranger.signed(stranger.record()))
    mesh.judge()
    mesh.say(moved)
    assert mesh.judge().members == {}


def test_after_wipe_members_are_rebuilt_from_proofs(mesh: Mesh, agent: Agent) -> None:
    wired_with(mesh, agent)
    mesh.members = Members()
    mesh.values.clear()
    mesh.say(agent.signed(agent.record()), agent.signed(agent.report("t1")))
    assert mesh.settle().members == {N1: agent.sealing_key.public}
    assert mesh.endpoint("t1") is not None


# -- a proof that stops to hold --------------------------------------------------------------------------


def lapse(mesh: Mesh, agent: Agent, how: str) -> None:
    if how == "expired":
        mesh.now = agent.leaf.ends + TOLERANCE + timedelta(seconds=1)
    elif how == "rotated":
        mesh.swarm = replace(mesh.swarm, roots=(Authority.root().pem,))
    else:
        agent.counter += 1
        mesh.say(agent.signed(agent.record(proven=False)))


@pytest.mark.parametrize("how", ["expired", "rotated", "locked"])
@pytest.mark.parametrize("restarted", [False, True])
def test_wired_tasks_stay_and_nothing_new_is_sealed(mesh: Mesh, agent: Agent, how: str, restarted: bool) -> None:
    before = wired_with(mesh, agent)
    sealed = mesh.values[keyspace.sealed_key(N1, "t1")]
    lapse(mesh, agent, how)
    if restarted:
        mesh.members = Members()
    mesh.run("t2", N1)
    judged = mesh.settle()
    assert judged.members == {}
    assert any("What it has stays, and nothing new is sealed to it" in problem for problem in judged.problems)
    assert mesh.endpoint("t1") == before
    assert mesh.values[keyspace.sealed_key(N1, "t1")] == sealed
    assert mesh.endpoint("t2") is None
    mesh.say(agent.signed(agent.report("t1", wired=False)))
    mesh.settle()
    after = mesh.endpoint("t1")
    assert after is not None
    assert not after.ready, "its reports are still its own"


def test_node_proving_itself_again_gets_waiting_keys(mesh: Mesh, agent: Agent) -> None:
    wired_with(mesh, agent)
    other = Authority.root()
    mesh.swarm = replace(mesh.swarm, roots=(other.pem,))
    mesh.run("t2", N1)
    mesh.settle()
    assert mesh.endpoint("t2") is None
    agent.authority = other
    agent.counter += 1
    mesh.say(agent.signed(agent.record()))
    judged = mesh.settle()
    assert judged.problems == ()
    assert mesh.endpoint("t2") is not None


def test_while_the_root_is_rotated_and_afterwards(mesh: Mesh, agent: Agent) -> None:
    fresh = Authority.root()
    bridge = fresh.cross_signed_by(ROOT)
    said = agent.record(proven=False)
    chain = pem(agent.leaf.signed_by(fresh), bridge)
    proof = make_proof(chain, key_file(agent.leaf.key), said.statement(CLUSTER))
    mesh.say(agent.signed(replace(said, unproven=None, proof=proof)))
    for roots in ((ROOT.pem,), (ROOT.pem, fresh.pem), (fresh.pem,)):
        mesh.swarm = replace(mesh.swarm, roots=roots)
        assert mesh.judge().members == {N1: agent.sealing_key.public}


@pytest.mark.parametrize("approved", [True, False])
def test_an_approval_that_is_taken_back(mesh: Mesh, agent: Agent, approved: bool) -> None:
    fingerprint = agent.record().statement(CLUSTER).fingerprint
    mesh.join(N1, approved=fingerprint)
    mesh.say(agent.signed(agent.record(proven=False)))
    mesh.settle()
    mesh.join(N1, approved=fingerprint if approved else None)
    assert mesh.settle().members == ({N1: agent.sealing_key.public} if approved else {})


def test_failed_proof_is_checked_again(mesh: Mesh, agent: Agent) -> None:
    """The controller's clock was a day behind."""
    mesh.now = MADE - timedelta(days=1)
    mesh.say(agent.signed(agent.record()))
    assert mesh.judge().members == {}
    mesh.now = NOW
    assert mesh.judge().members
    assert MADE - timedelta(days=1) + AGAIN < NOW


# -- reports ---------------------------------------------------------------------------------------------


def not_ready(mesh: Mesh) -> bool:
    found = mesh.endpoint("t1")
    return found is None or not found.ready


def test_forged_report_changes_nothing_and_is_named_once(mesh: Mesh, agent: Agent) -> None:
    before = wired_with(mesh, agent)
    mesh.say(Agent(N1).signed(agent.report("t1", wired=False)))
    judged = mesh.settle()
    assert mesh.endpoint("t1") == before
    assert keyspace.report(N1, "t1") in judged.stored.invalid
    problems = plan(mesh.swarm, judged.stored, SUBNET, 0, judged.members).problems
    assert len([text for text in problems if "tasks/n1/t1" in text]) == 1


def test_a_forged_report_does_not_make_ready(mesh: Mesh, agent: Agent) -> None:
    mesh.say(agent.signed(agent.record()))
    mesh.run("t1", N1)
    mesh.say(Agent(N1).signed(agent.report("t1")))
    mesh.settle()
    assert mesh.endpoint("t1") is not None
    assert not_ready(mesh)


def test_a_member_signs_nothing_for_another(mesh: Mesh, agent: Agent) -> None:
    before = wired_with(mesh, agent)
    rogue = Agent(N2)
    mesh.say(rogue.signed(rogue.record()))
    mesh.say(rogue.signed(agent.report("t1", wired=False)))
    judged = mesh.settle()
    assert set(judged.members) == {N1, N2}
    assert mesh.endpoint("t1") == before


def test_members_report_under_another_key_is_disbelieved(mesh: Mesh, agent: Agent) -> None:
    before = wired_with(mesh, agent)
    mesh.run("t2", N1)
    moved = agent.signed(replace(agent.report("t2", wired=False), task="t2"))
    mesh.say((keyspace.report(N1, "t2"), moved[1]))
    mesh.settle()
    raw = agent.signed(agent.report("t1", wired=False), keyspace.report(N1, "t2"))[1]
    mesh.values[keyspace.report(N1, "t1")] = replace(mesh.values[keyspace.report(N1, "t1")], raw=raw, revision=99)
    mesh.settle()
    assert mesh.endpoint("t1") == before


def test_report_on_task_running_elsewhere_is_ignored(mesh: Mesh, agent: Agent) -> None:
    before = wired_with(mesh, agent)
    rogue = Agent(N2)
    mesh.say(rogue.signed(rogue.record()), rogue.signed(rogue.report("t1", wired=False)))
    judged = mesh.settle()
    assert mesh.endpoint("t1") == before
    assert keyspace.report(N2, "t1") not in {**judged.stored.records, **judged.stored.invalid}
    assert judged.problems == ("node host-n2: it reports on task t1, which Swarm runs on another node",)


def test_believed_report_lapses_once_its_task_moves(mesh: Mesh) -> None:
    first, other = Agent(N1), Agent(N2)
    mesh.say(first.signed(first.record()), other.signed(other.record()), other.signed(other.report("t1")))
    assert keyspace.report(N2, "t1") in mesh.settle().stored.records
    mesh.run("t1", N1)
    assert keyspace.report(N2, "t1") not in mesh.settle().stored.records


def test_restored_earlier_report_is_unknown(mesh: Mesh, agent: Agent) -> None:
    """Also when it is of the same key, and the newer one is gone from the store."""
    first = agent.signed(agent.report("t1", wired=False))
    before = wired_with(mesh, agent)
    mesh.say(first)
    judged = mesh.settle()
    assert "was seen" in judged.stored.invalid[keyspace.report(N1, "t1")]
    assert mesh.endpoint("t1") == before
    del mesh.values[keyspace.report(N1, "t1")]
    mesh.judge()
    mesh.say(first)
    assert keyspace.report(N1, "t1") in mesh.judge().stored.invalid


def test_reports_of_unproven_nodes_are_unknown(mesh: Mesh, agent: Agent) -> None:
    """The store was wiped in part, and the node's certificate has ended: nothing is concluded."""
    before = wired_with(mesh, agent)
    mesh.members = Members()
    del mesh.values[keyspace.member(N1)]
    lapse(mesh, agent, "expired")
    judged = mesh.settle()
    assert keyspace.report(N1, "t1") in judged.stored.invalid
    assert keyspace.node(N1) in judged.stored.invalid
    assert mesh.endpoint("t1") == before


def test_a_node_that_falls_silent_is_silent(mesh: Mesh, agent: Agent) -> None:
    wired_with(mesh, agent)
    mesh.wire(Agent(N2), "t2")
    del mesh.values[keyspace.node(N1)]
    mesh.settle()
    silent = mesh.endpoint("t1")
    assert silent is not None
    assert silent.suspect


def test_unsigned_incomplete_and_foreign_stores_are_disbelieved(mesh: Mesh, agent: Agent) -> None:
    mesh.put(agent.record())  # no signature came with it
    assert mesh.judge().members == {}
    mesh.say(agent.signed(agent.record()))
    assert mesh.judge().members
    assert mesh.members.judge(mesh.swarm, replace(mesh.stored, complete=False), NOW).members == {}
    judged = mesh.members.judge(replace(mesh.swarm, cluster="another"), mesh.stored, NOW)
    assert (judged.members, judged.steps) == ({}, ())


# -- cost ------------------------------------------------------------------------------------------------


def test_nothing_is_verified_twice(mesh: Mesh, agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []

    def unwrap(keyring: Keyring, key: str, value: bytes) -> Opened:
        checked.append(key)
        return signed_envelope.unwrap(keyring, key, value)

    def verify(of: NodeProof, statement: NodeStatement, roots: tuple[bytes, ...], now: datetime) -> Identity:
        checked.append("proof")
        return attestation.verify(of, statement, roots, now)

    monkeypatch.setattr("mesh.integrity.signature_cache.unwrap", unwrap)
    monkeypatch.setattr("controller.trust.snapshot_judgement.verify", verify)
    wired_with(mesh, agent)
    assert sorted(set(checked)) == ["nodes/n1", "proof", "tasks/n1/t1"]
    checked.clear()
    for _ in range(3):
        mesh.now += timedelta(seconds=5)
        mesh.judge()
    mesh.values = {key: replace(found) for key, found in mesh.values.items()}  # listed again: others, and equal
    mesh.judge()
    assert checked == []
    mesh.say(agent.signed(agent.report("t1")))
    mesh.judge()
    assert checked == ["tasks/n1/t1"]
