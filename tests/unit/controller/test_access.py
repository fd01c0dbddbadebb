"""Who the controller says is a user of etcd."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address
from types import MappingProxyType

from controller.etcd.access import access, made_by_swarm, problems, steps
from controller.swarm.model import Swarm, SwarmNode
from mesh.crypto.envelope import SigningKey
from mesh.crypto.hpke import NodeKey
from mesh.model import keyspace
from mesh.model.records import Access, Node, Record, Versioned
from mesh.model.snapshot import Put, Snapshot
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


def test_an_agent_that_says_it_is_its_nodes_user_is_written_for_by_nobody_else() -> None:
    own = replace(SAID, own_user=True)
    assert access(swarm("n1", "n2"), holding(own)).shared == ("n2",)
    assert access(swarm("n1", "n2"), holding(own, replace(own, id="n2"))).shared == ()


def test_who_has_not_said_so_or_not_shown_that_he_did_shares() -> None:
    assert access(swarm("n1"), holding(SAID)).shared == ("n1",)
    assert access(swarm("n1"), holding(invalid=("nodes/n1",))).shared == ("n1",), "its signature did not hold"
    assert access(swarm("n1", "n2"), holding()).shared == ("n1", "n2")


def test_nobody_writes_for_a_node_that_is_down_and_silent() -> None:
    assert access(swarm("n1", "n2", down=("n1",)), holding()).shared == ("n2",)
    assert access(swarm("n1", down=("n1",)), holding(SAID)).shared == ("n1",), "it speaks, whatever Swarm says"


def test_who_is_not_in_the_swarm_is_no_user() -> None:
    left = replace(SAID, id="n9")
    assert access(swarm("n1"), holding(left, SAID)) == Access(("n1",), ("n1",), (ROOT.pem.decode(),))


def test_only_a_root_that_swarm_made_is_told_of_and_another_is_a_problem() -> None:
    assert access(swarm("n1", roots=(COMPANY.pem,)), holding()).roots == ()
    assert list(problems(swarm("n1"))) == []
    (told,) = problems(swarm("n1", roots=(COMPANY.pem,)))
    assert "was not made by Swarm" in told
    assert list(made_by_swarm([ROOT.pem + COMPANY.pem, b"junk"])) == [ROOT.pem.decode()]


def test_it_is_written_when_it_is_another_and_only_then() -> None:
    (step,) = steps(swarm("n1"), holding(SAID))
    (put,) = step.ops
    assert isinstance(put, Put)
    assert put.revision == 0
    assert list(steps(swarm("n1"), holding(SAID, put.record))) == []
    (again,) = steps(swarm("n1", "n2"), holding(SAID, put.record))
    assert [op.revision for op in again.ops if isinstance(op, Put)] == [2]
