"""A node's proof on a real Swarm: promoted, demoted, locked, under a rotated root, removed.

It works on a lab of another name than the other tests, whose Swarm's CA it may rotate.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mesh.crypto.hpke import NodeKey
from mesh.crypto.signed_envelope import SigningKey
from mesh.errors import Retryable
from mesh.identity.attestation import (
    Identity,
    InvalidProofError,
    KeyLockedError,
    NodeProof,
    NodeStatement,
    make_proof,
    verify,
)
from tests.lab import Lab
from tests.lab.fixtures import lab_name
from tests.lab.node import Node
from tests.lab.process import wait_for

NAME = lab_name("a")
STRANGER = SigningKey(bytes(32)).verify_key


@pytest.fixture(scope="module")
def own() -> Iterator[Lab]:
    """A new Swarm, whatever an earlier run left of its CA."""
    with Lab(NAME, nodes=3).anew() as one:
        yield one


def certificates(node: Node) -> Path:
    """What an agent has mounted: /var/lib/docker/swarm/certificates."""
    return node.folder / "data" / "swarm" / "certificates"


def chain(node: Node) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates((certificates(node) / "swarm-node.crt").read_bytes())


def n3(own: Lab) -> dict[str, Any]:
    (found,) = (member for member in own.manager.get("/nodes") if member["Description"]["Hostname"] == "n3")
    return dict(found)


def files(node: Node) -> tuple[bytes, bytes]:
    return (certificates(node) / "swarm-node.crt").read_bytes(), (certificates(node) / "swarm-node.key").read_bytes()


def swarm(own: Lab) -> dict[str, Any]:
    found: dict[str, Any] = own.manager.get("/swarm")
    return found


def root(own: Lab) -> bytes:
    """As a controller learns it."""
    pem: str = swarm(own)["TLSInfo"]["TrustRoot"]
    return pem.encode()


def statement(own: Lab, node: Node) -> NodeStatement:
    identity = node.get("/info")["Swarm"]["NodeID"]
    return NodeStatement(swarm(own)["ID"], identity, NodeKey(bytes(32)).public, STRANGER, 0)


def prove(own: Lab, node: Node) -> tuple[NodeProof, NodeStatement]:
    """As an agent would: again, while Swarm is writing its two files."""
    said = statement(own, node)
    made: list[NodeProof] = []

    def ready() -> bool:
        try:
            made[:] = [make_proof(*files(node), said)]
        except Retryable:
            return False
        return True

    wait_for("a certificate and its key", ready, seconds=10)
    return made[0], said


def check(proof: tuple[NodeProof, NodeStatement], roots: bytes) -> Identity:
    return verify(*proof, [roots], datetime.now(UTC))


def role(node: Node) -> str:
    return str(chain(node)[0].subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)[0].value)


def renewed(own: Lab, node: Node, act: Callable[[], object], to: str | None = None) -> None:
    """Do something that makes Swarm give the node a new certificate, and wait for that one."""
    before = chain(node)[0]
    act()
    wait_for(
        f"a new certificate for {node.name}",
        lambda: chain(node)[0] != before and (to is None or role(node) == to),
        seconds=60,
        every=0.2,
    )
    wait_for(f"{own.manager.name} to answer", lambda: bool(own.manager.get("/nodes")), seconds=30)


def change_role(own: Lab, node: Node, verb: str, to: str) -> None:
    renewed(own, node, lambda: own.manager.docker("node", verb, node.name), to)


def test_every_node_proves_itself_with_swarms_certificate(own: Lab) -> None:
    trusted = root(own)
    for node in own.nodes:
        proof = prove(own, node)
        expected = "manager" if node is own.manager else "worker"
        identity = check(proof, trusted)
        assert (identity.node, identity.role) == (proof[1].node, expected)
        assert (certificates(node) / "swarm-root-ca.crt").read_bytes() == trusted
        # One that another node signed in this one's name is that other node's.
        other = own.nodes[1 if node is own.nodes[0] else 0]
        with pytest.raises(InvalidProofError):
            check((prove(own, other)[0], proof[1]), trusted)


def test_the_files_are_what_the_module_says(own: Lab) -> None:
    for node in own.nodes:
        leaf, *rest = chain(node)
        assert not rest
        assert isinstance(leaf.public_key(), ec.EllipticCurvePublicKey)
        info, unit = node.get("/info")["Swarm"], "swarm-manager" if node is own.manager else "swarm-worker"
        assert [part.value for part in leaf.subject] == [swarm(own)["ID"], unit, info["NodeID"]]
        assert leaf.extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature
        assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        assert (leaf.not_valid_after_utc - leaf.not_valid_before_utc).days == 90
        key = (certificates(node) / "swarm-node.key").read_text()
        assert key.startswith("-----BEGIN PRIVATE KEY-----\nkek-version: ")
        assert ("raft-dek: " in key) == (node is own.manager)


def test_promoted_and_demoted_node_keeps_its_identity(own: Lab) -> None:
    node, trusted = own.node("n2"), root(own)
    first = prove(own, node)
    key = chain(node)[0].public_key()
    change_role(own, node, "promote", "swarm-manager")
    second = prove(own, node)
    assert check(second, trusted).role == "manager"
    assert chain(node)[0].public_key() != key
    change_role(own, node, "demote", "swarm-worker")
    third = prove(own, node)
    assert check(third, trusted).role == "worker"
    # What was proven before still is: which role a node has is for Swarm's managers to say.
    assert [check(proof, trusted).role for proof in (first, second)] == ["worker", "manager"]
    assert first[1] == second[1] == third[1]


def locked(own: Lab, node: Node) -> bool:
    try:
        prove(own, node)
    except KeyLockedError:
        return True
    return False


def test_locked_managers_cannot_prove_and_workers_can(own: Lab) -> None:
    node = own.node("n2")
    own.manager.docker("swarm", "update", "--autolock=true")
    try:
        wait_for("the manager's key to be encrypted", lambda: locked(own, own.manager), seconds=30, every=0.2)
        assert check(prove(own, node), root(own)).role == "worker"
        change_role(own, node, "promote", "swarm-manager")
        assert locked(own, node)
        change_role(own, node, "demote", "swarm-worker")
        wait_for("the demoted node's key to be plain", lambda: not locked(own, node), seconds=30, every=0.2)
        assert check(prove(own, node), root(own)).role == "worker"
    finally:
        own.manager.docker("swarm", "update", "--autolock=false")
    wait_for("the manager's key to be plain", lambda: not locked(own, own.manager), seconds=30, every=0.2)
    assert check(prove(own, own.manager), root(own)).role == "manager"


def rotate(own: Lab) -> None:
    own.manager.docker("swarm", "ca", "--rotate", "--detach")


def test_while_the_root_is_rotated_and_afterwards(own: Lab) -> None:
    """A node that is away keeps the rotation from ending, so its middle can be looked at."""
    old = root(own)
    before = {node.name: prove(own, node) for node in own.nodes}
    own.stop_node("n3")
    renewed(own, own.node("n2"), lambda: renewed(own, own.manager, lambda: rotate(own)))
    assert swarm(own)["RootRotationInProgress"]
    assert root(own) == old
    during = {name: prove(own, own.node(name)) for name in ("n1", "n2")}
    for proof in (*before.values(), *during.values()):
        check(proof, old)
    assert all(len(proof[0].certificates) == 2 for proof in during.values())

    own.start_node("n3")
    wait_for("the rotation to end", lambda: not swarm(own)["RootRotationInProgress"], seconds=90, every=0.5)
    new = root(own)
    assert new != old
    wait_for("n3's new certificate", lambda: len(chain(own.node("n3"))) == 2, seconds=30, every=0.2)
    after = {node.name: prove(own, node) for node in own.nodes}
    for proof in (*during.values(), *after.values()):
        check(proof, new)
        check(proof, old)  # a controller that has not heard of it yet
    for proof in before.values():
        with pytest.raises(InvalidProofError):
            check(proof, new)


def test_removed_nodes_proof_holds_and_only_swarm_knows(own: Lab) -> None:
    node = own.node("n3")
    proof = prove(own, node)
    trusted = root(own)
    node.docker("swarm", "leave")
    wait_for("n3 to be down", lambda: n3(own)["Status"]["State"] == "down", seconds=60, every=0.5)
    own.manager.docker("node", "rm", "--force", proof[1].node)
    assert check(proof, trusted).node == proof[1].node
    assert proof[1].node not in {member["ID"] for member in own.manager.get("/nodes")}
    own.up()  # it joins again, as a new node
    fresh = prove(own, node)
    assert check(fresh, trusted).node == fresh[1].node != proof[1].node
    with pytest.raises(InvalidProofError, match="another node's"):
        check((make_proof(*files(node), proof[1]), proof[1]), trusted)


def test_a_root_of_the_users_own(own: Lab, tmp_path: Path) -> None:
    """As openssl makes it: RSA, and with no word about what its key is for."""
    key, certificate = tmp_path / "ca.key", tmp_path / "ca.crt"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=example", "-days", "3650"]
    subprocess.run([*make, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    old = root(own)
    command = ("swarm", "ca", "--rotate", "--detach", "--ca-cert", str(certificate), "--ca-key", str(key))
    renewed(own, own.node("n2"), lambda: own.manager.docker(*command))
    wait_for("the rotation to end", lambda: not swarm(own)["RootRotationInProgress"], seconds=90, every=0.5)
    assert root(own).strip() == certificate.read_bytes().strip() != old.strip()
    for node in own.nodes:
        proof = prove(own, node)
        assert check(proof, root(own)).node == proof[1].node
