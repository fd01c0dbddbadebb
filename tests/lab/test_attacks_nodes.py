"""Attacks on whose word counts: forged reports, rogue agents, earlier proofs, removed nodes; on a real Swarm.

Every attacker here has all of etcd. The forged report is also made with the key that the defence rests on, stolen
from the node's disk, and then it succeeds: it is the defence that refuses it, and not the attack that fails.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.state.node_identity import REPORT_KEY_FILE
from mesh.crypto.hpke import NodeKey
from mesh.crypto.signed_envelope import Signer, SigningKey
from mesh.identity.attestation import verify
from mesh.identity.key_files import parse_verify_keys
from mesh.integrity.record_signing import RecordSigner
from mesh.model import keyspace
from mesh.model.records import Endpoint, Member, Node, SealedKey, TaskReport
from mesh.model.snapshot import Op, Put, Snapshot
from mesh.store.client import Store
from tests.lab import process
from tests.lab.deployment import Deployment
from tests.lab.node import Node as LabNode
from tests.support.attacks import Attempts

STACK = """
version: "3.8"
x-wireguard: {{}}
services:
  web:
    image: {image}
    command: [nginx, -g, "daemon off;"]
    deploy: {{placement: {{constraints: [node.hostname == n2]}}}}
  client:
    image: {image}
    command: [sleep, "86400"]
    stop_grace_period: 1s
    links: [web]
    deploy: {{replicas: {clients}, placement: {{constraints: [node.hostname == {on}]}}}}
"""
PRESS_S = 5.0


@dataclass(frozen=True)
class Replayer(RecordSigner):
    """Writes `old` values as they were, by key, instead of signing."""

    old: dict[str, bytes] = field(default_factory=dict)

    def sign(self, key: str, generation: int, body: bytes) -> bytes:
        return self.old.get(key) or super().sign(key, generation, body)


@dataclass
class Etcd:
    """All of etcd, with a key to sign with and values to put back as they were.

    Attributes:
        deployment: whose etcd it is.
        key: what its owner signs with.
        old: values to write as they are, by key, instead of what would be signed.
    """

    deployment: Deployment
    key: SigningKey = field(default_factory=SigningKey.generate)
    old: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        agent = self.deployment.agent(self.deployment.lab.manager)
        assert agent is not None
        shown = self.deployment.lab.manager.docker("exec", agent, "cat", "/run/linkwire/verify-keys").stdout
        self.keyring = parse_verify_keys(shown, "the lab's")
        replayer = Replayer(self.keyring, {"agent": Signer(self.keyring.cluster, self.key)}, self.old)
        self.store = Store([f"http://{self.deployment.lab.etcd_endpoint}"], replayer)

    def all(self) -> Snapshot:
        return self.store.load(("",))

    def raw(self, key: str) -> bytes:
        raw = self.all().records[key].raw
        assert raw is not None
        return raw

    def endpoint(self, service: str) -> Endpoint:
        """The one of a service's only task."""
        named = self.deployment.lab.manager.docker(
            "service", "inspect", "--format", "{{.ID}}", service
        ).stdout.strip()
        (found,) = (endpoint for endpoint in self.all().all(Endpoint) if endpoint.service == named)
        return found


@pytest.fixture
def etcd(stacks: Deployment) -> Iterator[Callable[..., Etcd]]:
    made: list[Etcd] = []

    def make(key: SigningKey | None = None) -> Etcd:
        made.append(Etcd(stacks, key or SigningKey.generate()))
        return made[-1]

    yield make
    for each in made:
        each.store.close()


def deploy(deployment: Deployment, clients: int = 1, on: str = "n3") -> None:
    deployment.deploy("shop", STACK.format(image=deployment.images.demo, clients=clients, on=on))
    deployment.wait_running("shop_client", clients)
    deployment.wait_connected("shop")


def node_id(node: LabNode) -> str:
    return str(node.get("/info")["Swarm"]["NodeID"])


def volume(node: LabNode) -> Path:
    """Where the agent's own files lie: what root on that node reads."""
    return node.folder / "data" / "volumes" / "linkwire_agent" / "_data"


def stolen(node: LabNode) -> SigningKey:
    return SigningKey((volume(node) / REPORT_KEY_FILE).read_bytes()[-SigningKey.SIZE :])


def press(
    etcd: Etcd, ops: Callable[[], list[Op]], watched: Callable[[Snapshot], bool], seconds: float = PRESS_S
) -> bool:
    """Write again and again, against the agent that puts it right; whether what was watched for ever came about."""
    seen: list[bool] = []
    follower = etcd.store.follow(("endpoints/", "keys/", "members/"), lambda: seen.append(watched(follower.snapshot)))
    try:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not any(seen):
            made, stored = ops(), etcd.all().records
            # Above what lies there, and no higher: the agent must be able to go on above it.
            there = (stored[op.key].generation for op in made if op.key in stored)
            etcd.store.commit(made, max(there, default=0) + 1)
            time.sleep(0.05)
    finally:
        follower.stop()
    return any(seen)


def made_unready(etcd: Etcd, target: Endpoint) -> bool:
    """Whether reports that a task is not wired take it out of service."""
    report = TaskReport(target.task, target.service, target.node, "running", False, "forged", None, ())

    def unready(snapshot: Snapshot) -> bool:
        found = snapshot.get(keyspace.endpoint(target.service, target.task), Endpoint)
        return found is not None and not found.ready

    return press(etcd, lambda: [Put(report, None)], unready)


def ready(etcd: Etcd, service: str) -> bool:
    with contextlib.suppress(ValueError):
        return etcd.endpoint(service).ready
    return False


def said(deployment: Deployment, text: str) -> bool:
    return text in deployment.logged("linkwire_controller")


def test_every_node_of_a_swarm_is_proven(stacks: Deployment) -> None:
    shown = stacks.linkwire("node", "ls")
    rows = [line.split() for line in shown.splitlines()[1:]]
    assert {row[1]: row[2] for row in rows} == {"n1": "proven", "n2": "proven", "n3": "proven"}, shown


def test_forged_report_is_refused_before_and_after_wipe(
    stacks: Deployment, etcd: Callable[..., Etcd], attempt: Attempts
) -> None:
    tried = attempt("etcd's owner, on a running mesh: a forged report takes a task out of service")
    deploy(stacks)
    stranger, thief = etcd(), etcd(stolen(stacks.lab.node("n2")))
    process.wait_for("web to be ready", lambda: ready(stranger, "shop_web"), seconds=30)
    tried.works(made_unready(thief, thief.endpoint("shop_web")), "with the node's own key")
    process.wait_for("the agent to put it right", lambda: ready(stranger, "shop_web"), seconds=30)
    assert not made_unready(stranger, stranger.endpoint("shop_web"))
    assert said(stacks, "signed by a key that may not sign this")

    stacks.lab.wipe_etcd()
    node = node_id(stacks.lab.node("n2"))
    own = NodeKey.generate().public
    process.wait_for(
        "the agents to speak", lambda: keyspace.node(node) in stranger.all().records, seconds=30, every=0.05
    )
    speaks = stranger.all().get(keyspace.node(node), Node)
    assert speaks is not None
    forged = replace(speaks, sealing_key=own, report_key=stranger.key.verify_key, counter=2**31 - 1)

    def taken(snapshot: Snapshot) -> bool:
        sealed = any(key.sealed_to == own.fingerprint for key in snapshot.all(SealedKey))
        return sealed or any(member.sealing_key == own for member in snapshot.all(Member))

    assert not press(stranger, lambda: [Put(forged, None)], taken)
    process.wait_for("web to be ready again", lambda: ready(stranger, "shop_web"), seconds=60, every=0.5)
    tried.stopped(not made_unready(stranger, stranger.endpoint("shop_web")))
    stacks.wait_connected("shop")


def test_a_rogue_agent_gets_no_other_nodes_task(stacks: Deployment, etcd: Callable[..., Etcd]) -> None:
    """Root on n3, with n3's own keys, says that n2's task is its own, and that n2's keys are its own."""
    deploy(stacks)
    n2, n3 = stacks.lab.node("n2"), stacks.lab.node("n3")
    rogue = etcd(stolen(n3))
    process.wait_for("web to be ready", lambda: ready(rogue, "shop_web"), seconds=30)
    before = rogue.endpoint("shop_web")
    claim = TaskReport(before.task, before.service, node_id(n3), "running", True, None, before.underlay.port, ())
    (mine, theirs) = (rogue.all().get(keyspace.node(node_id(node)), Node) for node in (n3, n2))
    assert mine is not None
    assert theirs is not None
    posing = replace(mine, id=theirs.id, counter=theirs.counter + 9)

    def changed(snapshot: Snapshot) -> bool:
        found = snapshot.get(keyspace.endpoint(before.service, before.task), Endpoint)
        sealed = snapshot.get(keyspace.sealed_key(mine.id, before.task), SealedKey)
        member = snapshot.get(keyspace.member(theirs.id), Member)
        return found != before or sealed is not None or (member is not None and member.report_key == mine.report_key)

    assert not press(rogue, lambda: [Put(claim, None), Put(posing, None)], changed)
    assert said(stacks, f"it reports on task {before.task}, which Swarm runs on another node")
    assert said(stacks, "its proof does not hold")
    process.wait_for("n2 to be proven", lambda: "unproven" not in stacks.linkwire("node", "ls"), seconds=30)


def restart_agent(deployment: Deployment, node: LabNode) -> None:
    before = deployment.agent(node)
    assert before is not None
    node.docker("kill", before)
    process.wait_for(
        f"another agent on {node.name}",
        lambda: deployment.agent(node) not in (None, before) and deployment.agents_ready(),
        seconds=60,
        every=0.5,
    )


def test_an_earlier_proof_is_refused(stacks: Deployment, etcd: Callable[..., Etcd]) -> None:
    """n3's volume is stolen, and it gets new keys; the thief has the old ones, and a proof that holds for them."""
    deploy(stacks)
    n3 = stacks.lab.node("n3")
    node = node_id(n3)
    thief = etcd(stolen(n3))
    earlier = thief.all().get(keyspace.node(node), Node)
    assert earlier is not None
    raw = thief.raw(keyspace.node(node))
    for path in volume(n3).iterdir():
        path.unlink()
    restart_agent(stacks, n3)

    def renewed() -> bool:
        member = thief.all().get(keyspace.member(node), Member)
        return member is not None and member.sealing_key != earlier.sealing_key

    process.wait_for("the new keys to be accepted", renewed, seconds=30)
    root = stacks.lab.manager.get("/swarm")["TLSInfo"]["TrustRoot"].encode()
    assert earlier.proof is not None
    assert verify(earlier.proof, earlier.statement(thief.keyring.cluster), [root], datetime.now(UTC)).node == node
    process.wait_for(
        "every key to be sealed anew",
        lambda: not any(k.sealed_to == earlier.sealing_key.fingerprint for k in thief.all().all(SealedKey)),
        seconds=30,
    )

    def taken(snapshot: Snapshot) -> bool:
        sealed = any(key.sealed_to == earlier.sealing_key.fingerprint for key in snapshot.all(SealedKey))
        return sealed or any(member.sealing_key == earlier.sealing_key for member in snapshot.all(Member))

    thief.old[keyspace.node(node)] = raw
    stacks.lab.manager.docker("service", "scale", "--detach", "shop_client=3")
    assert not press(thief, lambda: [Put(earlier, None)], taken, seconds=10)
    assert said(stacks, "an earlier statement about its keys")
    stacks.wait_running("shop_client", 3)
    stacks.wait_connected("shop")


def test_the_root_is_rotated_while_the_mesh_runs(stacks: Deployment, etcd: Callable[..., Etcd]) -> None:
    deploy(stacks)
    lab, reader = stacks.lab, etcd()
    before = reader.endpoint("shop_web")
    root = lab.manager.get("/swarm")["TLSInfo"]["TrustRoot"]
    lab.manager.docker("swarm", "ca", "--rotate", "--detach")
    process.wait_for(
        "the rotation to end",
        lambda: (
            lab.manager.get("/swarm")["TLSInfo"]["TrustRoot"] != root
            and not lab.manager.get("/swarm").get("RootRotationInProgress")
        ),
        seconds=120,
        every=0.5,
    )
    process.wait_for(
        "all to be proven by the new root",
        lambda: stacks.linkwire("node", "ls").count(" proven ") == 3,
        seconds=60,
        every=0.5,
    )
    assert reader.endpoint("shop_web") == before
    deploy(stacks, clients=2)


def key_of_manager(deployment: Deployment) -> str:
    return (deployment.lab.manager.folder / "data/swarm/certificates/swarm-node.key").read_text()


def test_locked_swarm_manager_is_approved_by_hand(stacks: Deployment, etcd: Callable[..., Etcd]) -> None:
    deploy(stacks, on="n1")
    lab, reader = stacks.lab, etcd()
    before = reader.endpoint("shop_client")
    try:
        lab.manager.docker("swarm", "update", "--autolock=true")
        process.wait_for("the key to be encrypted", lambda: "ENCRYPTED" in key_of_manager(stacks), seconds=30)
        restart_agent(stacks, lab.manager)
        shown = stacks.linkwire("node", "ls")
        assert "n1: its Swarm key is encrypted (autolock). What it has stays, and nothing new is sealed" in shown
        assert reader.endpoint("shop_client") == before
        lab.manager.docker("service", "scale", "--detach", "shop_client=2")
        process.wait_for(
            "a task that waits",
            lambda: said(stacks, "its node n1 has not shown its keys, so it is not wired"),
            seconds=30,
        )
        agent = stacks.agent(lab.manager)
        assert agent is not None
        done = lab.manager.docker("logs", agent)
        logged = done.stdout + done.stderr
        told = next(line for line in map(json.loads, logged.splitlines()) if line["event"] == "node keys not proven")
        assert "PRIVATE KEY" not in logged
        assert "raft-dek" not in logged
        wrong = stacks.try_linkwire("node", "approve", "n1")
        assert wrong.returncode == 2, "nobody is there to be asked"
        stacks.linkwire("node", "approve", "n1", "--fingerprint", "0" * 64)
        assert "the label linkwire.key approves other keys" in stacks.linkwire("node", "ls")
        stacks.linkwire("node", "approve", "n1", "--fingerprint", told["fingerprint"])
        process.wait_for(
            "n1 to be approved", lambda: " approved " in stacks.linkwire("node", "ls"), seconds=30, every=0.5
        )
        stacks.wait_running("shop_client", 2)
        stacks.wait_connected("shop")
        assert told["command"].startswith("docker linkwire node approve ")
    finally:
        lab.manager.docker("swarm", "update", "--autolock=false")
        lab.manager.docker("node", "update", "--label-rm", "linkwire.key", "n1", check=False)
    process.wait_for(
        "all to be proven", lambda: stacks.linkwire("node", "ls").count(" proven ") == 3, seconds=60, every=0.5
    )


def test_removed_node_stays_out_whatever_it_proves(stacks: Deployment, etcd: Callable[..., Etcd]) -> None:
    """The last of these: n3 joins again, as a new node."""
    lab, n3 = stacks.lab, stacks.lab.node("n3")
    gone = node_id(n3)
    thief = etcd(stolen(n3))
    said_before = thief.all().get(keyspace.node(gone), Node)
    assert said_before is not None
    thief.old[keyspace.node(gone)] = thief.raw(keyspace.node(gone))
    process.wait_for("it to be a member", lambda: keyspace.member(gone) in thief.all().records, seconds=30)
    n3.docker("swarm", "leave")
    try:
        process.wait_for(
            "n3 to be down",
            lambda: any(n["ID"] == gone and n["Status"]["State"] == "down" for n in lab.manager.get("/nodes")),
            seconds=60,
            every=0.5,
        )
        lab.manager.docker("node", "rm", "--force", gone)
        process.wait_for(
            "it to be none", lambda: keyspace.member(gone) not in thief.all().records, seconds=30, every=0.2
        )
        assert not press(
            thief, lambda: [Put(said_before, None)], lambda s: s.get(keyspace.member(gone), Member) is not None
        )
        assert said(stacks, f"node {gone}: an agent speaks for it, and it is not in this Swarm")
    finally:
        lab.up()
    process.wait_for("agents everywhere", stacks.agents_ready, seconds=90, every=0.5)
    process.wait_for(
        "all to be proven", lambda: stacks.linkwire("node", "ls").count(" proven ") == 3, seconds=60, every=0.5
    )
    stacks.linkwire("gate", "install")  # a node that is new has no label yet
