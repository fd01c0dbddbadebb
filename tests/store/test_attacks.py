"""Attacks on whose word counts and who reads what, on a real etcd with real certificates and stolen keys.

Each is made twice: on the controller as it is, and on one that trusts where it should not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from controller.swarm.model import Swarm, SwarmNode, SwarmTask
from controller.trust.node_judgement import Judged, Members
from mesh.crypto.hpke import NodeKey
from mesh.crypto.signed_envelope import SigningKey
from mesh.errors import LinkwireError
from mesh.identity.attestation import TOLERANCE
from mesh.integrity.record_signing import RecordSigner
from mesh.integrity.sealed_keys import open_key, open_link_key
from mesh.model import keyspace
from mesh.model.records import Node, SealedKey, SealedLinkKey, TaskReport
from mesh.model.snapshot import Delete, Put, Snapshot
from mesh.store.client import Store
from tests.store import small_mesh
from tests.store.etcd_server import EtcdServer
from tests.store.small_mesh import SmallMesh, settled
from tests.store.test_members import KEY, KEYRING, NODE, NOW, REPORT, ROOT, Party, started, stop
from tests.store.waiting import until
from tests.support.attacks import Attempts
from tests.support.signing import CLUSTER as SMALL
from tests.support.signing import KEYRING as SMALL_KEYRING
from tests.support.swarm_ca import CLUSTER, Authority, Leaf

OTHER = "n2"
NODES = {name: SwarmNode(name, f"host-{name}", down=False, address=None) for name in (NODE, OTHER)}


@pytest.fixture
def party(etcd: EtcdServer, root: str, tmp_path: Path) -> Iterator[Party]:
    """n1, whose t1 it is."""
    one = started(etcd, root, tmp_path / NODE, Members())
    until(one.accepted)
    until(lambda: one.believed() == REPORT)
    yield one
    stop(one)


@pytest.fixture
def rogue(etcd: EtcdServer, root: str, tmp_path: Path, party: Party) -> Iterator[Party]:
    """n2, with a good proof, which says that t1 is its own."""
    one = started(etcd, root, tmp_path / OTHER, party.members, OTHER)
    until(lambda: keyspace.report(OTHER, "t1") in everything(one).records)
    yield one
    stop(one)


def everything(party: Party) -> Snapshot:
    return party.controller.load(("",))


def judged(
    stored: Snapshot,
    members: Members,
    *,
    runs: str = NODE,
    nodes: Mapping[str, SwarmNode] = NODES,
    roots: tuple[bytes, ...] = (ROOT.pem,),
    now: datetime = NOW,
) -> Judged:
    """What a controller believes of that."""
    tasks = {"t1": SwarmTask("t1", "s", 1, runs, "running", "running")}
    return members.judge(Swarm(CLUSTER, {}, tasks, nodes, roots), stored, now)


def forgetful(stored: Snapshot) -> Snapshot:
    """As it would be with no record of what was accepted before."""
    kept = {key: found for key, found in stored.records.items() if not key.startswith(keyspace.MEMBERS)}
    return replace(stored, records=kept)


@pytest.mark.parametrize("when", ["before", "after"])
def test_report_is_forged_with_attackers_key(
    party: Party, etcd: EtcdServer, root: str, when: str, attempt: Attempts
) -> None:
    tried = attempt(f"etcd's owner: a node's keys and report are forged with keys of his own, {when} a wipe")
    sealing, key = NodeKey.generate().public, SigningKey.generate()
    mallory = Store([etcd.endpoint], RecordSigner.agent(KEYRING, key), root=root)
    forged = replace(REPORT, wired=False, error="forged")
    posing = replace(party.record, sealing_key=sealing, report_key=key.verify_key, counter=2**31 - 1)
    members, shown, believed = party.members, [], []
    if when == "after":  # and a controller that remembers nothing
        party.controller.commit([Delete(key, None) for key in everything(party).records])
        members = Members()

    def press() -> bool:
        mallory.commit([Put(posing, None), Put(forged, None)], 2**62)
        stored = everything(party)
        shown.append(stored.get(KEY, TaskReport) == forged and stored.get(keyspace.node(NODE), Node) == posing)
        found = judged(stored, members)
        believed.append(found.stored.get(KEY, TaskReport) == forged or found.members.get(NODE) == sealing)
        return any(shown)

    until(press)
    for _ in range(20):
        press()
    tried.works(any(shown), "to a controller that takes what lies there")
    until(lambda: judged(everything(party), members).stored.get(KEY, TaskReport) == REPORT)
    tried.stopped(not any(believed))
    mallory.close()


def test_an_agent_claims_another_nodes_task(party: Party, rogue: Party, attempt: Attempts) -> None:
    tried = attempt("a node's root: its agent claims another node's task")
    claim = keyspace.report(OTHER, "t1")
    stored = everything(rogue)
    taken = judged(stored, Members(), runs=OTHER)
    tried.works(claim in taken.stored.records, "to a controller that has it from the agents who runs what")
    found = judged(stored, party.members)
    assert set(found.members) == {NODE, OTHER}, "both prove their keys"
    assert any("it reports on task t1, which Swarm runs on another node" in said for said in found.problems)
    tried.stopped(claim not in {**found.stored.records, **found.stored.invalid})


def test_an_agent_poses_as_another_node(party: Party, rogue: Party, attempt: Attempts) -> None:
    tried = attempt("a node's root: its keys are stated in another node's name")
    posing = replace(rogue.record, id=NODE, counter=9)
    hers = rogue.record.sealing_key
    party.reporter.stop()  # or the other node's agent puts it right at once
    rogue.store.commit([Put(posing, None)], 2**62)
    stored = everything(rogue)
    approving = {**NODES, NODE: replace(NODES[NODE], approved=posing.statement(CLUSTER).fingerprint)}
    fooled = judged(forgetful(stored), Members(), nodes=approving)
    tried.works(fooled.members.get(NODE) == hers, "where a manager approves it")
    found = judged(stored, party.members)
    tried.stopped(NODE not in found.members and found.members.get(OTHER) == hers)


@pytest.mark.parametrize("how", ["its certificate has ended", "the root was rotated away", "it was removed"])
def test_a_proof_that_is_stale_gets_nothing(party: Party, how: str, attempt: Attempts) -> None:
    tried = attempt(f"a node's root: goes on with its proof after {how}")
    stored = everything(party)
    tried.works(NODE in judged(stored, Members()).members, "as long as it holds")
    match how:
        case "its certificate has ended":
            late = Leaf.of(node=NODE).ends + TOLERANCE + timedelta(seconds=1)
            found = judged(stored, Members(), now=late)
        case "the root was rotated away":
            found = judged(stored, Members(), roots=(Authority.root().pem,))
        case _:
            found = judged(stored, Members(), nodes={OTHER: NODES[OTHER]})
    tried.stopped(NODE not in found.members)


def test_an_earlier_proof_is_put_back(
    party: Party, etcd: EtcdServer, root: str, tmp_path: Path, attempt: Attempts
) -> None:
    """Whose keys the thief has; the node has lost its volume, and has new ones."""
    tried = attempt("etcd's owner: a node's earlier proof is put back, whose keys he has")
    earlier, raw = party.record, etcd.keys(root)[root + keyspace.node(NODE)]
    party.reporter.stop()
    for path in (tmp_path / NODE / "state").iterdir():
        path.unlink()
    again = started(etcd, root, tmp_path / NODE, party.members)
    try:
        until(lambda: keyspace.member(NODE) in again.follower.snapshot.records)
        again.look()
        until(lambda: again.accepted() and party.members.accepted[NODE].report_key != earlier.report_key)
        again.reporter.stop()
        etcd.put_bytes(f"{root}{keyspace.node(NODE)}".encode(), raw)
        stored = everything(again)
        fooled = judged(forgetful(stored), Members())
        tried.works(fooled.members.get(NODE) == earlier.sealing_key, "to who remembers nothing")
        for members in (party.members, Members()):  # the latter has what is kept in the store
            found = judged(stored, members)
            assert "an earlier statement about its keys" in found.stored.invalid[keyspace.node(NODE)]
            assert NODE not in found.members
        tried.stopped()
    finally:
        stop(again)


# -- who reads what -------------------------------------------------------------------------------------


@pytest.fixture
def mesh(etcd: EtcdServer, root: str, tmp_path: Path) -> SmallMesh:
    return SmallMesh(etcd.endpoint, root, tmp_path)


def opens(sealed: SealedKey | SealedLinkKey, key: NodeKey) -> bool:
    with suppress(LinkwireError):
        open_key(sealed, key) if isinstance(sealed, SealedKey) else open_link_key(sealed, key)
        return True
    return False


def test_a_worker_reads_another_nodes_keys(mesh: SmallMesh, attempt: Attempts) -> None:
    tried = attempt("a node's root: another node's keys are read")
    with mesh.reader("n1") as one, mesh.reader("n2") as two, mesh.controller():
        settled(one, two)
        stored = one.store.load([""])
    boxes: list[SealedKey | SealedLinkKey] = [*stored.all(SealedKey), *stored.all(SealedLinkKey)]
    theirs = [box for box in boxes if box.node == "n2"]
    assert len(theirs) > 3
    mine, stolen = small_mesh.keys("n1")[0], small_mesh.keys("n2")[0]
    tried.works(all(opens(box, stolen) for box in theirs), "with that node's key")
    tried.stopped(not any(opens(box, mine) for box in theirs))


def test_attackers_sealing_key_replaces_a_nodes(mesh: SmallMesh, attempt: Attempts) -> None:
    tried = attempt("etcd's owner: his own sealing key in a node's place, to be given its tasks' private keys")
    his, key = NodeKey.generate(), SigningKey.generate()
    posing = replace(small_mesh.record("n2"), sealing_key=his.public, report_key=key.verify_key, counter=99)
    mallory = Store([mesh.endpoint], RecordSigner.agent(SMALL_KEYRING, key), root=mesh.root)

    def sealed() -> list[SealedKey]:
        found = mallory.load([""]).all(SealedKey)
        return [one for one in found if one.sealed_to == his.public.fingerprint]

    with mesh.reader("n1") as one, mesh.reader("n2") as two, mesh.controller() as controller:
        settled(one, two)
        two.hush()
        mallory.commit([Put(posing, None)], 2**62)
        until(lambda: any("approves other keys" in said for said in controller._decider.problems.open), 20)
        for _ in range(2):  # one of them on n2
            mesh.swarm.start("web")
        mesh.wake()
        until(lambda: any("n2 has not shown its keys" in said for said in controller._decider.problems.open), 20)
        tried.stopped(not sealed())
        mesh.swarm.approved["n2"] = posing.statement(SMALL).fingerprint
        mesh.wake()
        until(lambda: bool(sealed()), 20)
        tried.works(all(opens(box, his) for box in sealed()), "where a manager approves it")
    mallory.close()
