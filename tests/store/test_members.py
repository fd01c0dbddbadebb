"""An agent that writes into a real etcd, the controller's judgement of it, and somebody who can write there too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from agent.reporting.reporter import Reporter
from agent.state.node_identity import Identity
from agent.state.verified_state import followed
from controller.swarm.model import Swarm, SwarmNode, SwarmTask
from controller.trust.node_judgement import Judged, Members
from mesh.crypto.hpke import NodeKey
from mesh.crypto.keys import PublicKey
from mesh.crypto.signed_envelope import Keyring, SigningKey
from mesh.integrity.record_signing import RecordSigner
from mesh.model import device_readings, keyspace
from mesh.model.records import DeviceStatus, Node, PeerStatus, Status, TaskReport, View
from mesh.model.snapshot import Delete, Put, Snapshot
from mesh.store.client import Follower, Store
from tests.store.etcd_server import EtcdServer
from tests.store.waiting import until
from tests.support.attacks import Attempts
from tests.support.swarm_ca import CLUSTER, MADE, Authority, Leaf, key_file, pem

ROOT = Authority.root()
NODE = "n1"
NOW = MADE + timedelta(days=1)
SIGNING_KEY = SigningKey.generate()
KEYRING = Keyring(CLUSTER, (SIGNING_KEY.verify_key,))
REPORT = TaskReport("t1", "s", NODE, "running", wired=True, error=None, port_taken=None, elsewhere=())
KEY = keyspace.key_of(REPORT)


@dataclass
class Party:
    """An agent with its certificate, and the controller's side of the same etcd."""

    store: Store
    follower: Follower
    identity: Identity
    reporter: Reporter
    record: Node
    controller: Store
    members: Members
    folder: Path

    def judge(self) -> Judged:
        nodes = {NODE: SwarmNode(NODE, "host-1", down=False, address=None)}
        tasks = {"t1": SwarmTask("t1", "s", 1, NODE, "running", "running")}
        return self.members.judge(Swarm(CLUSTER, {}, tasks, nodes, (ROOT.pem,)), self.controller.load(("",)), NOW)

    def accepted(self) -> bool:
        """Judge, and write what was accepted."""
        judged = self.judge()
        for step in judged.steps:
            self.controller.commit(step.ops)  # type: ignore[union-attr]  # members plans Changes alone
        return NODE in judged.members

    def believed(self) -> TaskReport | None:
        return self.judge().stored.get(KEY, TaskReport)

    def look(self) -> None:
        """What the agent's loop does every few seconds."""
        accepted = self.follower.snapshot.get(keyspace.member(NODE), keyspace.KINDS["members"])
        if (accepted is not None and self.identity.catch_up(accepted)) or self.identity.look():  # type: ignore[arg-type]
            self.record = replace(self.record, counter=self.identity.counter, proof=self.identity.proof)
            self.reporter.node(self.record)


def started(etcd: EtcdServer, root: str, folder: Path, members: Members, node: str = NODE) -> Party:
    """One that says it runs t1."""
    certificates = folder / "certificates"
    if not certificates.exists():
        certificates.mkdir(parents=True)
        leaf = Leaf.of(node=node)
        (certificates / "swarm-node.key").write_bytes(key_file(leaf.key))
        (certificates / "swarm-node.crt").write_bytes(pem(leaf.signed_by(ROOT)))
    sealing_key = NodeKey(node.encode().ljust(32)).public
    identity = Identity(folder / "state", certificates, CLUSTER, node, sealing_key)
    record = Node(
        id=node,
        hostname="host-1",
        sealing_key=sealing_key,
        report_key=identity.key.verify_key,
        counter=identity.counter,
        proof=identity.proof,
        unproven=None,
        address=IPv4Address("192.0.2.1"),
        first_port=1,
        last_port=9,
        backend="kernel",
        version="0.1.0",
    )
    store = Store([etcd.endpoint], RecordSigner.agent(KEYRING, identity.key), root=root)
    reporters: list[Reporter] = []

    def changed() -> None:
        for each in reporters:
            each.wake()

    follower = store.follow(followed(node), changed)
    reporters.append(Reporter(store, follower, record, identity))
    reporters[0].tasks({"t1": replace(REPORT, node=node)})
    controller = Store([etcd.endpoint], RecordSigner.controller(KEYRING, SIGNING_KEY), root=root)
    return Party(store, follower, identity, reporters[0], record, controller, members, folder)


def stop(party: Party) -> None:
    party.reporter.stop()
    party.store.close()
    party.controller.close()


@pytest.fixture
def party(etcd: EtcdServer, root: str, tmp_path: Path) -> Iterator[Party]:
    one = started(etcd, root, tmp_path, Members())
    yield one
    stop(one)


@pytest.fixture
def stranger(etcd: EtcdServer, root: str) -> Iterator[Store]:
    """Who can write all of etcd, and has no key but his own."""
    own = Store([etcd.endpoint], RecordSigner.agent(KEYRING, SigningKey.generate()), root=root)
    yield own
    own.close()


def test_agents_records_are_believed_after_its_proof(party: Party) -> None:
    until(party.accepted)
    until(lambda: party.believed() == REPORT)


def test_forged_report_is_disbelieved_and_agent_restores_own(party: Party, stranger: Store) -> None:
    until(party.accepted)
    until(lambda: party.believed() == REPORT)
    forged = replace(REPORT, wired=False, error="forged")
    seen = []
    for generation in (1, 2**62):
        stranger.commit([Put(forged, None)], generation)
        until(lambda: seen.append(party.believed()) or seen[-1] == REPORT)  # type: ignore[func-returns-value]  # collects
    assert set(seen) <= {None, REPORT}


def test_same_content_with_other_signature_is_replaced(party: Party, stranger: Store) -> None:
    until(party.accepted)
    until(lambda: party.believed() == REPORT)
    revision = stranger.commit([Put(REPORT, None), Put(party.record, None)], 2**62)
    assert revision is not None
    until(lambda: party.believed() == REPORT and party.accepted())
    assert party.controller.load(("",)).revision_of(KEY) > revision


def test_after_a_wipe_all_is_said_again(party: Party) -> None:
    until(party.accepted)
    until(lambda: party.believed() == REPORT)
    party.controller.commit([Delete(key, None) for key in party.controller.load(("",)).records])
    until(lambda: party.believed() == REPORT and party.accepted())


def test_restarted_agent_signs_its_reports_anew(party: Party, etcd: EtcdServer, root: str, tmp_path: Path) -> None:
    """Somebody has put its report of before back meanwhile, which the controller knows to be an earlier one."""
    until(party.accepted)
    until(lambda: party.believed() == REPORT)
    before = party.controller.load(("",)).records[KEY].generation
    party.reporter.stop()
    again = started(etcd, root, tmp_path, party.members)
    try:
        until(lambda: again.controller.load(("",)).records[KEY].generation > before)
        until(lambda: again.accepted() and again.believed() == REPORT)
        assert again.identity.counter > party.identity.counter
    finally:
        stop(again)


def test_stolen_report_key_pushed_ahead_is_given_up(
    party: Party, etcd: EtcdServer, root: str, tmp_path: Path, attempt: Attempts
) -> None:
    """The controller takes what it signs for the latest, so that the node itself is not heard any more."""
    tried = attempt("a node's stolen report key is pushed ahead, so that the node is not heard any more")
    until(party.accepted)
    until(lambda: party.believed() == REPORT)
    assert not party.reporter.key_is_stolen
    thief = Store([etcd.endpoint], RecordSigner.agent(KEYRING, party.identity.key), root=root)
    forged = replace(REPORT, wired=False, error="forged")
    believed: list[TaskReport | None] = []

    def press() -> bool:
        thief.commit([Put(forged, None)], 2**62)
        believed.append(party.believed())
        return forged in believed

    until(press)
    until(lambda: party.reporter.key_is_stolen)
    until(lambda: party.controller.load(("",)).get(KEY, TaskReport) == REPORT)
    tried.works(party.believed() is None, "with the key that it had")
    party.reporter.stop()
    party.identity.disown()
    again = started(etcd, root, tmp_path, party.members)
    try:
        until(lambda: again.accepted() and again.believed() == REPORT)
        thief.commit([Put(forged, None)], 2**62 + 1)
        until(lambda: again.believed() == REPORT)
        tried.stopped(not again.reporter.key_is_stolen, "the old key is nobody's")
    finally:
        thief.close()
        stop(again)


def test_agent_with_lost_volume_gets_new_keys_accepted(
    party: Party, etcd: EtcdServer, root: str, tmp_path: Path
) -> None:
    for _ in range(5):  # it was started often
        party.identity._looked = None
        party.look()
    until(party.accepted)
    until(lambda: party.accepted() and party.members.accepted[NODE].counter == party.identity.counter)
    party.reporter.stop()
    for path in (tmp_path / "state").iterdir():
        path.unlink()
    again = started(etcd, root, tmp_path, party.members)
    try:
        until(lambda: "an earlier statement" in again.judge().stored.invalid.get(keyspace.node(NODE), ""))
        until(lambda: keyspace.member(NODE) in again.follower.snapshot.records)
        again.look()
        until(again.accepted)
        until(lambda: again.believed() == REPORT)
        assert (
            again.members.accepted[NODE].report_key == again.identity.key.verify_key != party.identity.key.verify_key
        )
    finally:
        stop(again)


def test_oversized_record_is_named_and_blocks_nothing(party: Party) -> None:
    node = party.record.id
    huge = TaskReport("t0", "s", node, "running", wired=False, error="x" * 1_100_000, port_taken=None, elsewhere=())
    others = [replace(REPORT, node=node, task=f"t{n}") for n in range(1, 4)]
    peers = tuple(
        PeerStatus(PublicKey(n.to_bytes(32, "little")), 1.0, 1, 1, None) for n in range(2 * device_readings.PEERS)
    )
    devices = (DeviceStatus("t1", None, peers, ()),)
    party.reporter.tasks({report.task: report for report in [huge, *others]})
    party.reporter.status(Status(node, 5.0, devices))

    def held() -> Snapshot:
        return party.controller.load(("",))

    until(lambda: len(list(held().all(TaskReport))) == len(others))
    until(lambda: held().get(keyspace.view(node, 1), View) is not None)
    readings, _ = device_readings.readings(held())
    assert readings[node].devices == tuple(map(device_readings.reading, devices))
    party.reporter.status(Status(node, 6.0, devices))
    until(lambda: "tasks/" in getattr(held().get(keyspace.status(node), Status), "unwritten", ""))
    party.reporter.tasks({report.task: report for report in others})

    def is_named() -> bool:
        party.reporter.status(Status(node, 7.0, devices))  # as an agent does every few seconds
        status = held().get(keyspace.status(node), Status)
        return status is None or status.unwritten != ""

    until(lambda: not is_named())
