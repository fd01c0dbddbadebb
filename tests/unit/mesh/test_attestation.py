"""A node's proof: taken from the node itself, under Swarm's own CA, for its very statement, and from nobody else."""

import dataclasses
import re
import traceback
from datetime import datetime, timedelta, timezone

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mesh.crypto.hpke import NodeKey
from mesh.crypto.signed_envelope import SigningKey
from mesh.errors import InvalidRecordError, Retryable, Terminal
from mesh.identity import attestation as module
from mesh.identity.attestation import (
    MAX_CERTIFICATE,
    MAX_CERTIFICATES,
    CertificateExpiredError,
    Identity,
    InvalidProofError,
    KeyLockedError,
    NodeProof,
    NodeStatement,
    make_proof,
    verify,
)
from tests.support.swarm_ca import CLUSTER, MADE, NODE, RAFT_DEK, Authority, Key, Leaf, key_file, p256, pem, usage

ROOT = Authority.root()
NEXT = Authority.root()
BRIDGE = NEXT.cross_signed_by(ROOT)
NOW = MADE + timedelta(days=1)
STATEMENT = NodeStatement(CLUSTER, NODE, NodeKey(bytes(32)).public, SigningKey(bytes(32)).verify_key, 3)
LEAF = Leaf.of()
PROOF = make_proof(pem(LEAF.signed_by(ROOT)), key_file(LEAF.key), STATEMENT)


def proof_of(
    leaf: Leaf, authority: Authority, *more: x509.Certificate, statement: NodeStatement = STATEMENT
) -> NodeProof:
    return make_proof(pem(leaf.signed_by(authority), *more), key_file(leaf.key), statement)


def refusal(
    proof: NodeProof,
    statement: NodeStatement = STATEMENT,
    roots: tuple[bytes, ...] = (ROOT.pem,),
    now: datetime = NOW,
) -> str:
    with pytest.raises(InvalidProofError) as caught:
        verify(proof, statement, roots, now)
    return str(caught.value)


@pytest.mark.parametrize(("unit", "role"), [("swarm-manager", "manager"), ("swarm-worker", "worker")])
def test_a_node_proves_itself(unit: str, role: str) -> None:
    identity = verify(proof_of(Leaf.of(unit), ROOT), STATEMENT, [ROOT.pem], NOW)
    assert identity == Identity(NODE, role, MADE + timedelta(days=90))  # type: ignore[arg-type]  # a Role


def test_a_promoted_node_is_the_same_node() -> None:
    """Its new certificate has a new key, too."""
    before, after = proof_of(Leaf.of("swarm-worker"), ROOT), proof_of(Leaf.of("swarm-manager"), ROOT)
    assert [verify(each, STATEMENT, [ROOT.pem], NOW).role for each in (before, after)] == ["worker", "manager"]


# -- the statement ---------------------------------------------------------------------------------------

OTHERS = [
    dataclasses.replace(STATEMENT, cluster="another"),
    dataclasses.replace(STATEMENT, cluster=CLUSTER + NODE[:1], node=NODE[1:]),
    dataclasses.replace(STATEMENT, node="another"),
    dataclasses.replace(STATEMENT, sealing_key=NodeKey(b"k" * 32).public),
    dataclasses.replace(STATEMENT, verify_key=SigningKey(b"k" * 32).verify_key),
    dataclasses.replace(STATEMENT, counter=4),
    dataclasses.replace(STATEMENT, counter=2),
    dataclasses.replace(STATEMENT, counter=-1),
    dataclasses.replace(STATEMENT, counter=2**64),
]


@pytest.mark.parametrize("other", OTHERS)
def test_every_part_of_the_statement_is_signed(other: NodeStatement) -> None:
    assert verify(PROOF, STATEMENT, [ROOT.pem], NOW)
    assert re.match("the signature does not hold|the counter is no number", refusal(PROOF, other))


def test_nothing_signed_in_tls_is_a_statement() -> None:
    """64 bytes of our own, where a TLS 1.2 signature begins with what two sides chose and one of 1.3 with spaces."""
    message = STATEMENT.message()
    fixed = dataclasses.replace(OTHERS[3], cluster="x", node="y", counter=9).message()
    assert message[:64] == fixed[:64] == module._DOMAIN
    assert len(set(message[:64])) > 10
    assert message[0] not in b" \x00\x01\x30"


def test_statement_of_another_node_signed_by_this_one() -> None:
    """A node that owns only itself says: this key is the other node's."""
    other = dataclasses.replace(STATEMENT, node="another")
    assert refusal(proof_of(LEAF, ROOT, statement=other), other) == "the certificate is another node's"


def test_a_statement_about_another_cluster() -> None:
    other = dataclasses.replace(STATEMENT, cluster="another")
    assert refusal(proof_of(LEAF, ROOT, statement=other), other) == "the certificate is of another cluster"


def test_a_proof_with_another_nodes_certificate() -> None:
    """Certificates are no secret: whoever reads the store has them all."""
    mixed = NodeProof(proof_of(Leaf.of(node="another"), ROOT).certificates, PROOF.signature)
    assert "the signature does not hold" in refusal(mixed)
    assert "the signature does not hold" in refusal(mixed, dataclasses.replace(STATEMENT, node="another"))


# -- the certificate ---------------------------------------------------------------------------------------


def test_another_ca_with_the_same_name() -> None:
    assert "was not issued to a node by this Swarm's CA" in refusal(proof_of(LEAF, Authority.root()))
    stranger = Authority.root()
    assert "was not issued to a node" in refusal(proof_of(LEAF, stranger, stranger.certificate))


def test_a_node_is_no_ca() -> None:
    """A node signs a certificate for another node with its own."""
    own = Leaf.of(node="rogue")
    rogue = Authority(own.key, own.signed_by(ROOT))
    assert "was not issued to a node" in refusal(proof_of(LEAF, rogue, rogue.certificate))


@pytest.mark.parametrize(
    ("leaf", "reason"),
    [
        (LEAF.but(ca=True), "it is a CA's own"),
        (LEAF.but(key_usage=usage("key_encipherment")), "its key may not sign"),
        (LEAF.but(key_usage=None), "was not issued to a node by this Swarm's CA"),
        (Leaf.of("swarm-ca"), "neither a manager's nor a worker's"),
        (Leaf.of("Swarm-Manager"), "neither a manager's nor a worker's"),
        (Leaf.of("swarm-manager "), "neither a manager's nor a worker's"),
        (Leaf.of(cluster="another"), "of another cluster"),
        (Leaf.of(node=NODE.upper()), "another node's"),
        (LEAF.but(subject=[*LEAF.subject, (NameOID.COMMON_NAME, "another")]), "each once"),
        (LEAF.but(subject=[(NameOID.COMMON_NAME, "another"), *LEAF.subject]), "each once"),
        (LEAF.but(subject=[*LEAF.subject, (NameOID.ORGANIZATIONAL_UNIT_NAME, "swarm-manager")]), "each once"),
        (LEAF.but(subject=[*LEAF.subject, (NameOID.ORGANIZATION_NAME, CLUSTER)]), "each once"),
        (LEAF.but(subject=LEAF.subject[1:]), "each once"),
        (LEAF.but(subject=LEAF.subject[:2]), "each once"),
        (LEAF.but(subject=LEAF.subject[::2]), "each once"),
    ],
)
def test_a_certificate_that_swarm_gives_to_no_node(leaf: Leaf, reason: str) -> None:
    assert reason in refusal(proof_of(leaf, ROOT))


def test_the_root_itself_is_no_node() -> None:
    assert refusal(make_proof(ROOT.pem, key_file(ROOT.key), STATEMENT))


def test_the_time_in_a_certificate() -> None:
    hour, day = timedelta(hours=1), timedelta(days=1)
    begins, ends = LEAF.begins, LEAF.ends
    proof = proof_of(LEAF.but(begins=begins), ROOT)
    # The root begins a little later than its leaves, and its beginning counts as well.
    for now in (MADE, NOW, ends - hour, ends, ends + hour):
        assert verify(proof, STATEMENT, [ROOT.pem], now).expires == ends
    later = proof_of(LEAF.but(begins=MADE + day), ROOT)
    assert verify(later, STATEMENT, [ROOT.pem], MADE + day - hour)
    assert refusal(later, now=MADE + day - hour - timedelta(seconds=1)).startswith("the node's certificate begins at")
    with pytest.raises(CertificateExpiredError, match=r"^the node's certificate ended at 2027-02-20 15:55 UTC$"):
        verify(proof, STATEMENT, [ROOT.pem], ends + hour + timedelta(seconds=1))
    with pytest.raises(CertificateExpiredError):
        verify(proof, STATEMENT, [ROOT.pem], ends + timedelta(seconds=1), tolerance=timedelta(0))
    assert "was not issued to a node" in refusal(
        proof_of(LEAF.but(ends=MADE + 9000 * day), ROOT), now=MADE + 8000 * day
    )


def test_the_zone_does_not_matter() -> None:
    elsewhere = (LEAF.ends + timedelta(minutes=90)).astimezone(timezone(timedelta(hours=-8)))
    with pytest.raises(CertificateExpiredError):
        verify(PROOF, STATEMENT, [ROOT.pem], elsewhere)


# -- a rotated root ---------------------------------------------------------------------------------------


def test_while_and_after_the_root_is_rotated() -> None:
    old, new = PROOF, proof_of(LEAF, NEXT, BRIDGE)
    for roots in ([ROOT.pem], [ROOT.pem, NEXT.pem], [NEXT.pem, ROOT.pem], [ROOT.pem + NEXT.pem]):
        assert verify(old, STATEMENT, roots, NOW).node == NODE
        assert verify(new, STATEMENT, roots, NOW).node == NODE
    assert verify(new, STATEMENT, [NEXT.pem], NOW).node == NODE
    assert "was not issued to a node" in refusal(old, roots=(NEXT.pem,))
    assert "was not issued to a node" in refusal(proof_of(LEAF, NEXT), roots=(ROOT.pem,)), (
        "the bridge is what leads to the old"
    )


def test_an_intermediate_that_may_not_certify() -> None:
    """Each signed by the old root, with the new one's name and key, but one of them."""
    named = LEAF.but(subject=[(NameOID.COMMON_NAME, "swarm-ca")], key=NEXT.key)
    certifies = usage("key_cert_sign")
    assert verify(
        proof_of(LEAF, NEXT, named.but(ca=True, key_usage=certifies).signed_by(ROOT)), STATEMENT, [ROOT.pem], NOW
    )
    for unfit in (
        named.but(ca=False, key_usage=certifies).signed_by(ROOT),
        named.but(ca=None, key_usage=certifies).signed_by(ROOT),
        named.but(ca=True, key_usage=usage("digital_signature")).signed_by(ROOT),
        named.but(ca=True, key_usage=certifies, ends=MADE).signed_by(ROOT),
        NEXT.cross_signed_by(Authority.root()),
    ):
        assert "was not issued to a node" in refusal(proof_of(LEAF, NEXT, unfit))
        assert verify(proof_of(LEAF, NEXT, unfit, BRIDGE), STATEMENT, [ROOT.pem], NOW)


# -- other keys, other roots ---------------------------------------------------------------------------------------

RSA = rsa.generate_private_key(65537, 2048)
P384 = ec.generate_private_key(ec.SECP384R1())


@pytest.mark.parametrize("root", [RSA, P384, p256()])
@pytest.mark.parametrize("leaf", [RSA, P384, p256()])
def test_a_root_of_the_users_own(root: Key, leaf: Key) -> None:
    """`docker swarm ca --rotate --ca-cert`: openssl's default has no key usage."""
    own = Authority.root(root, key_usage=None)
    proof = proof_of(LEAF.but(key=leaf), own)
    assert verify(proof, STATEMENT, [own.pem], NOW).node == NODE
    assert refusal(proof, OTHERS[-1])
    assert refusal(proof, OTHERS[3])
    assert refusal(proof)


def test_a_root_that_may_not_certify() -> None:
    own = Authority.root(key_usage=usage("digital_signature"))
    assert "the issuer may not sign certificates" in refusal(proof_of(LEAF, own), roots=(own.pem,))


def test_a_key_that_cannot_sign_here() -> None:
    leaf = LEAF.but(key=ed25519.Ed25519PrivateKey.generate())
    with pytest.raises(Terminal, match="is neither ECDSA nor RSA"):
        proof_of(leaf, ROOT)
    signature = leaf.key.sign(STATEMENT.message())  # type: ignore[call-arg]  # Ed25519's
    assert "the signature does not hold" in refusal(
        NodeProof((leaf.signed_by(ROOT).public_bytes(Encoding.DER),), signature)
    )


# -- the node's files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("manager", [True, False])
@pytest.mark.parametrize("traditional", [True, False])
def test_the_key_file_as_swarm_writes_it(manager: bool, traditional: bool) -> None:
    content = key_file(LEAF.key, manager=manager, traditional=traditional)
    assert b"kek-version: 0" in content
    assert (b"raft-dek: " in content) == manager
    assert verify(make_proof(pem(LEAF.signed_by(ROOT)), content, STATEMENT), STATEMENT, [ROOT.pem], NOW)


def said(error: Exception) -> str:
    """All that a log could show of it."""
    return "".join(traceback.format_exception(error))


@pytest.mark.parametrize("traditional", [True, False])
def test_key_of_a_locked_swarms_manager(traditional: bool) -> None:
    content = key_file(LEAF.key, locked=True, traditional=traditional)
    assert b"ENCRYPTED" in content
    with pytest.raises(KeyLockedError, match="docker linkwire node approve") as caught:
        make_proof(pem(LEAF.signed_by(ROOT)), content, STATEMENT)
    assert RAFT_DEK not in said(caught.value)


@pytest.mark.parametrize("cut", [0, 1, 40, 120, 200])
def test_unreadable_key_file_is_not_quoted(cut: int) -> None:
    content = key_file(LEAF.key)
    with pytest.raises(Terminal, match=r"^the node's Swarm key cannot be read$") as caught:
        make_proof(pem(LEAF.signed_by(ROOT)), content[:cut], STATEMENT)
    body = content.decode().splitlines()
    assert not [line for line in body if len(line) > 20 and line in said(caught.value) and "-----" not in line]


@pytest.mark.parametrize("content", [b"", b"x", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_certificate_file_that_cannot_be_read(content: bytes) -> None:
    with pytest.raises(Terminal, match=r"^the node's Swarm certificate cannot be read$"):
        make_proof(content, key_file(LEAF.key), STATEMENT)


def test_between_the_two_writes_of_a_renewal() -> None:
    with pytest.raises(Retryable, match="do not match"):
        make_proof(pem(LEAF.signed_by(ROOT)), key_file(p256()), STATEMENT)


# -- what a stranger may write ---------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@settings(max_examples=300)
@given(st.integers(0, 8 * len(PROOF.certificates[0]) - 1))
def test_every_bit_of_the_certificate_counts(bit: int) -> None:
    changed = bytearray(PROOF.certificates[0])
    changed[bit // 8] ^= 1 << bit % 8
    refusal(NodeProof((bytes(changed),), PROOF.signature))


def test_every_bit_of_the_signature_counts() -> None:
    for bit in range(8 * len(PROOF.signature)):
        changed = bytearray(PROOF.signature)
        changed[bit // 8] ^= 1 << bit % 8
        refusal(NodeProof(PROOF.certificates, bytes(changed)))
    for signature in (b"", PROOF.signature[:-1], PROOF.signature + b"\0", bytes(10_000)):
        assert "the signature does not hold" in refusal(NodeProof(PROOF.certificates, signature))


def test_signature_with_unused_bits_is_refused() -> None:
    """The same certificate in other bytes, where the last bit of its signature is 0: half of them."""
    leaf = next(made for made in (LEAF.signed_by(NEXT) for _ in range(99)) if made.signature[-1] % 2 == 0)
    bridge = BRIDGE.public_bytes(Encoding.DER)
    signature = proof_of(LEAF, NEXT).signature
    written = bytearray(leaf.public_bytes(Encoding.DER))
    written[-len(leaf.signature) - 1] = 1
    assert x509.load_der_x509_certificate(bytes(written)).signature == leaf.signature
    assert "unused bits" in refusal(NodeProof((bytes(written), bridge), signature))


@given(certificates=st.lists(st.binary(max_size=100), max_size=7), signature=st.binary(max_size=100))
@example([], b"")
@example([b""], b"")
@example([PROOF.certificates[0]] * (MAX_CERTIFICATES + 1), PROOF.signature)
@example([PROOF.certificates[0], b"x"], PROOF.signature)
@example([PROOF.certificates[0] + b"\0"], PROOF.signature)
@example([PROOF.certificates[0] + bytes(MAX_CERTIFICATE)], PROOF.signature)
def test_any_bytes_are_refused_by_name(certificates: list[bytes], signature: bytes) -> None:
    refusal(NodeProof(tuple(certificates), signature))


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@settings(max_examples=300)
@given(st.data())
def test_a_mutated_intermediate_leads_nowhere(data: st.DataObject) -> None:
    changed = bytearray(BRIDGE.public_bytes(Encoding.DER))
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    leaf = LEAF.signed_by(NEXT).public_bytes(Encoding.DER)
    signature = proof_of(LEAF, NEXT).signature
    if bytes(changed) != BRIDGE.public_bytes(Encoding.DER):
        refusal(NodeProof((leaf, bytes(changed)), signature))


def test_oversized_certificate_chains_are_not_read() -> None:
    many = NodeProof(PROOF.certificates * (MAX_CERTIFICATES + 1), PROOF.signature)
    assert refusal(many) == "6 certificates, where there are 1 to 5"
    large = NodeProof((*PROOF.certificates, bytes(MAX_CERTIFICATE + 1)), PROOF.signature)
    assert refusal(large) == "a certificate of more than 16384 bytes"
    assert refusal(NodeProof((), b"")) == "0 certificates, where there are 1 to 5"


@pytest.mark.parametrize("roots", [(), (b"",), (b"x",), (ROOT.pem, b"x")])
def test_roots_that_cannot_be_read_prove_nothing(roots: tuple[bytes, ...]) -> None:
    with pytest.raises(Terminal, match="root certificate"):
        verify(PROOF, STATEMENT, roots, NOW)


def test_the_errors_are_what_the_store_knows() -> None:
    assert issubclass(CertificateExpiredError, InvalidProofError)
    assert issubclass(InvalidProofError, InvalidRecordError)
    assert issubclass(KeyLockedError, Terminal)
