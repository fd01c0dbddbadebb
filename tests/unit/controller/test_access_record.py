"""Who the controller says is a user of etcd."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address
from types import MappingProxyType

from controller.etcd.access_record import access, made_by_swarm, problems, steps
from controller.swarm.model import Swarm, SwarmNode
from mesh.crypto.hpke import NodeKey
from mesh.crypto.signed_envelope import SigningKey
from mesh.model import keyspace
from mesh.model.records import Access, Node, Record
from mesh.model.snapshot import Put, Snapshot, Versioned
from tests.support.swarm_ca import Authority

ROOT = Authority.root()
COMPANY = Authority.root(called="Company CA")
KEY = NodeKey(bytes(32)).public
SAID = Node(
    *("n1", "host1", KEY, SigningKey.generate().verify_key, 1, None, None, IPv4Address("10.0.0.1")),
    *(51820, 51821, "kernel", "1"),
)


def swarm(*nodes: str, down: tuple[str, ...] = (), roots: tuple[bytes, ...] = (ROOT.pem,)) -> Swarm:
    found = {node: SwarmNode(node, f"host-{node}", node in down, None) for node in nodes}
    return Swarm("cluster", {}, {}, found, roots)


def holding(*records: Record, invalid: tuple[str, ...] = ()) -> Snapshot:
    found = {keyspace.key_of(record): Versioned(record, n) for n, record in enumerate(records, 1)}
    return Snapshot(
        revision=9,
        complete=True,
        records=MappingProxyType(found),
        invalid=MappingProxyType(dict.fromkeys(invalid, "forged")),
    )


def test_agent_declaring_its_own_user_writes_alone() -> None:
    own = replace(SAID, own_user=True)
    assert access(swarm("n1", "n2"), holding(own)).shared == ("n2",)
    assert access(swarm("n1", "n2"), holding(own, replace(own, id="n2"))).shared == ()


def test_undeclared_or_unproven_agents_share_the_user() -> None:
    assert access(swarm("n1"), holding(SAID)).shared == ("n1",)
    assert access(swarm("n1"), holding(invalid=("nodes/n1",))).shared == ("n1",), "its signature did not hold"
    assert access(swarm("n1", "n2"), holding()).shared == ("n1", "n2")


def test_nobody_writes_for_a_down_silent_node() -> None:
    assert access(swarm("n1", "n2", down=("n1",)), holding()).shared == ("n2",)
    assert access(swarm("n1", down=("n1",)), holding(SAID)).shared == ("n1",), "it speaks, whatever Swarm says"


def test_node_outside_the_swarm_is_no_user() -> None:
    left = replace(SAID, id="n9")
    assert access(swarm("n1"), holding(left, SAID)) == Access(("n1",), ("n1",), (ROOT.pem.decode(),))


def test_only_swarms_roots_are_passed_on_others_reported() -> None:
    assert access(swarm("n1", roots=(COMPANY.pem,)), holding()).roots == ()
    assert list(problems(swarm("n1"))) == []
    (told,) = problems(swarm("n1", roots=(COMPANY.pem,)))
    assert "was not made by Swarm" in told
    assert list(made_by_swarm([ROOT.pem + COMPANY.pem, b"junk"])) == [ROOT.pem.decode()]


def test_access_is_written_only_when_it_changes() -> None:
    (step,) = steps(swarm("n1"), holding(SAID))
    (put,) = step.ops
    assert isinstance(put, Put)
    assert put.revision == 0
    assert list(steps(swarm("n1"), holding(SAID, put.record))) == []
    (again,) = steps(swarm("n1", "n2"), holding(SAID, put.record))
    assert [op.revision for op in again.ops if isinstance(op, Put)] == [2]


def test_revoked_node_is_no_user_and_named() -> None:
    found = swarm("n1", "n2")
    revoked = replace(found, nodes={**found.nodes, "n1": replace(found.nodes["n1"], revoked="noon")})
    wanted = access(revoked, holding(SAID, replace(SAID, id="n2")))
    assert (wanted.nodes, wanted.shared, wanted.revoked) == (("n2",), ("n2",), ("n1@noon",))
