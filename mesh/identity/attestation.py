"""Node attestation: a statement of a node's keys, signed with the identity that Swarm issued to the node. No I/O.

Every node of a Swarm has a certificate from Swarm's own CA, renewed by Swarm. Seen with engine 20.10.24, and in
swarmkit's ca/certificates.go; `tests/lab/test_proof.py` looks again:

swarm-node.crt      The leaf: P-256, ecdsa-with-SHA256. Subject O = cluster id, OU = swarm-manager or swarm-worker,
                    CN = node id, in this order. Critical: KeyUsage digitalSignature and keyEncipherment, CA:FALSE.
                    Then EKU server and client, SKI, AKI, SAN (the role, the node id, on managers `swarm-ca`). From
                    one hour before it was made, for 90 days; renewed after half to four fifths of it, with a **new
                    key** each time. After it, since the last `docker swarm ca --rotate`, the intermediate: the new
                    root's name and key, signed by the old root, of the same name CN = swarm-ca.
swarm-node.key      PKCS #8, `BEGIN PRIVATE KEY`, with RFC 1421 headers in it: `kek-version`, and on managers
                    `raft-dek`, which is **a secret in itself** as long as the Swarm is not locked. On managers of a
                    locked Swarm `BEGIN ENCRYPTED PRIVATE KEY`, also after a renewal; a worker's never is, and a
                    demoted manager's is plain again, with a new leaf that says swarm-worker, in under 5 s.
swarm-root-ca.crt   CN = swarm-ca, 20 years, critical KeyUsage keyCertSign and cRLSign, critical CA:TRUE. During a
                    rotation, which waits for every node and so may last, it is the old one, as is TrustRoot in
                    `GET /swarm` and `GET /nodes`; all leaves renewed meanwhile verify through the intermediate. At
                    its end it is the new one alone: the same leaves verify directly, those not renewed no more.

So a proof is valid for as long as the leaf, and a node makes a new one whenever its leaf changes. It does not show
that the node is still in the Swarm: Swarm revokes no certificate, and only its managers know.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    Policy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from mesh.crypto.framing import framed
from mesh.crypto.hpke import NodePublicKey
from mesh.crypto.signed_envelope import VerifyKey
from mesh.errors import InvalidRecordError, Retryable, Terminal

Role = Literal["manager", "worker"]

TOLERANCE = timedelta(hours=1)
"""Allowed difference of clocks: the time by which Swarm backdates its certificates (swarmkit CertBackdate)."""
MAX_CERTIFICATES = 5
MAX_CERTIFICATE = 16_384  # bytes; Swarm's have about 600

# The TLS key also signs TLS handshakes, of which others choose the first 32 bytes (RFC 5246, section 7.4.3) or
# none (RFC 8446, section 4.4.3: 64 spaces come first, for this reason). So no handshake signs these 64 bytes.
_DOMAIN = b"linkwire: these are the keys of a node of this Swarm, format 1".ljust(64, b"\n")
_UNIT = NameOID.ORGANIZATIONAL_UNIT_NAME
_ROLES: dict[str, Role] = {"swarm-manager": "manager", "swarm-worker": "worker"}


class InvalidProofError(InvalidRecordError):
    """The proof does not prove its statement; the text names the check that failed."""


class CertificateExpiredError(InvalidProofError):
    """The proof's certificate has expired: the node has to make another proof."""


class KeyLockedError(Terminal):
    """The node's key is encrypted because the Swarm is locked (autolock): an operator has to approve the node."""


@dataclass(frozen=True, slots=True)
class NodeStatement:
    """A node's statement of its keys.

    Attributes:
        cluster: Swarm's cluster id.
        node: Swarm's node id.
        sealing_key: secrets for this node are sealed to it.
        verify_key: verifies the signatures of its agent's records.
        counter: from 0, higher than in every earlier statement of the node, so that a replayed one is recognised.
    """

    cluster: str
    node: str
    sealing_key: NodePublicKey
    verify_key: VerifyKey
    counter: int

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all but the counter, in hexadecimal: approved by an operator where there is no proof."""
        keys = (self.sealing_key.raw, self.verify_key.raw)
        return hashlib.sha256(framed("linkwire node statement", self.cluster, self.node, *keys)).hexdigest()

    def message(self) -> bytes:
        """Return the bytes to sign.

        Raises:
            OverflowError: the counter is negative or has more than 64 bits.
        """
        keys = (self.sealing_key.raw, self.verify_key.raw)
        return _DOMAIN + framed(self.cluster, self.node, *keys, self.counter)


@dataclass(frozen=True, slots=True)
class NodeProof:
    """A statement's signature and its signer's certificates.

    Attributes:
        certificates: in DER, the node's own first, then its intermediates.
        signature: over `NodeStatement.message`.
    """

    certificates: tuple[bytes, ...]
    signature: bytes


@dataclass(frozen=True, slots=True)
class Identity:
    """Identity of a proof's maker.

    Attributes:
        node: Swarm's node id.
        role: at the time its certificate was issued.
        expires: the end of its certificate, and so of the proof.
    """

    node: str
    role: Role
    expires: datetime


def make_proof(certificates: bytes, key: bytes, statement: NodeStatement) -> NodeProof:
    """Sign a statement with the node's identity.

    Args:
        certificates: swarm-node.crt.
        key: swarm-node.key. No error quotes it or its headers.
        statement: the one to sign.

    Raises:
        KeyLockedError: the key is encrypted.
        Retryable: key and certificate do not match, as between the two writes of a renewal.
        Terminal: the files are malformed, or the key is of an unsupported kind.
    """
    try:
        chain = x509.load_pem_x509_certificates(certificates)
        public = chain[0].public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise Terminal("the node's Swarm certificate cannot be read") from None
    try:
        private = load_pem_private_key(key, password=None)
    except TypeError:
        raise KeyLockedError(
            "the node's Swarm key is encrypted, since this Swarm is locked (autolock): "
            "approve the node by hand with `docker linkwire node approve`"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise Terminal("the node's Swarm key cannot be read") from None
    if private.public_key() != public:
        raise Retryable("the node's Swarm key and certificate do not match: perhaps Swarm is renewing them")
    message = statement.message()
    if isinstance(private, ec.EllipticCurvePrivateKey):
        signature = private.sign(message, ec.ECDSA(hashes.SHA256()))
    elif isinstance(private, rsa.RSAPrivateKey):
        signature = private.sign(message, _pss(), hashes.SHA256())
    else:
        raise Terminal("the node's Swarm key is neither ECDSA nor RSA")
    return NodeProof(tuple(each.public_bytes(Encoding.DER) for each in chain), signature)


def verify(
    proof: NodeProof,
    statement: NodeStatement,
    roots: Sequence[bytes],
    now: datetime,
    tolerance: timedelta = TOLERANCE,
) -> Identity:
    """Verify that a statement is its node's own.

    Args:
        proof: the node's.
        statement: the one to prove.
        roots: Swarm's root certificates in PEM, from its managers; each may hold several.
        now: the time, with its zone.
        tolerance: time before its beginning and after its end for which a certificate is still accepted.

    Returns:
        The node's identity. The caller checks whether that node is in the Swarm, in which role, and whether the
        counter is higher than the last one.

    Raises:
        CertificateExpiredError, InvalidProofError: the statement is not proven.
        Terminal: the roots cannot be read.
    """
    trusted = _roots(roots)
    leaf, rest = _chain(proof)
    if not _holds(leaf, proof.signature, _message(statement)):
        raise InvalidProofError("the signature does not hold: the statement was changed, or another node signed it")
    _check_chain(leaf, rest, trusted, _moment(leaf, now, tolerance))
    return _identity(leaf, statement)


def _roots(roots: Sequence[bytes]) -> list[x509.Certificate]:
    try:
        certificates = [each for pem in roots for each in x509.load_pem_x509_certificates(pem)]
    except ValueError:
        raise Terminal("Swarm's root certificate cannot be read") from None
    if not certificates:
        raise Terminal("no root certificate of Swarm to verify a proof with")
    return certificates


def _chain(proof: NodeProof) -> tuple[x509.Certificate, list[x509.Certificate]]:
    if not 1 <= len(proof.certificates) <= MAX_CERTIFICATES:
        raise InvalidProofError(f"{len(proof.certificates)} certificates, where there are 1 to {MAX_CERTIFICATES}")
    if any(len(each) > MAX_CERTIFICATE for each in proof.certificates):
        raise InvalidProofError(f"a certificate of more than {MAX_CERTIFICATE} bytes")
    try:
        leaf, *rest = (x509.load_der_x509_certificate(each) for each in proof.certificates)
    except (ValueError, x509.InvalidVersion):
        raise InvalidProofError("a certificate cannot be read") from None
    for one, der in zip((leaf, *rest), proof.certificates, strict=True):
        # The bit string at the end (RFC 5280, section 4.1.1.3) may say that some of its last bits are unused: another
        # encoding of the same certificate, which OpenSSL and this library take.
        if not der.endswith(b"\0" + one.signature):
            raise InvalidProofError("a certificate's signature has unused bits")
    return leaf, rest


def _message(statement: NodeStatement) -> bytes:
    try:
        return statement.message()
    except OverflowError:
        raise InvalidProofError("the counter is no number that a node states") from None


def _holds(leaf: x509.Certificate, signature: bytes, message: bytes) -> bool:
    try:
        key = leaf.public_key()
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, message, _pss(), hashes.SHA256())
        else:
            return False
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False
    return True


def _pss() -> padding.PSS:
    return padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)  # RFC 8017, section 9.1


def _moment(leaf: x509.Certificate, now: datetime, tolerance: timedelta) -> datetime:
    """Return the time to verify the chain at: now, or the nearest end of the validity within the tolerance."""
    try:
        begins, ends = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    except ValueError:
        raise InvalidProofError("a certificate has no readable validity") from None
    if now > ends + tolerance:
        raise CertificateExpiredError(f"the node's certificate ended at {ends:%Y-%m-%d %H:%M} UTC")
    if now < begins - tolerance:
        raise InvalidProofError(f"the node's certificate begins at {begins:%Y-%m-%d %H:%M} UTC")
    return min(max(now, begins), ends)


def _check_chain(
    leaf: x509.Certificate, rest: list[x509.Certificate], roots: list[x509.Certificate], moment: datetime
) -> None:
    authority = ExtensionPolicy.permit_all()
    authority = authority.require_present(x509.BasicConstraints, Criticality.AGNOSTIC, None)  # and it must be a CA's
    authority = authority.may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _may_certify)
    end = ExtensionPolicy.permit_all()
    end = end.may_be_present(x509.BasicConstraints, Criticality.AGNOSTIC, _is_no_authority)
    end = end.require_present(x509.KeyUsage, Criticality.AGNOSTIC, _may_sign)
    builder = PolicyBuilder().store(Store(roots)).time(moment).max_chain_depth(MAX_CERTIFICATES)
    try:
        verifier = builder.extension_policies(ca_policy=authority, ee_policy=end).build_client_verifier()
        verifier.verify(leaf, rest)
    except (VerificationError, ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise InvalidProofError(f"the certificate was not issued to a node by this Swarm's CA: {error}") from None


def _may_certify(_policy: Policy, _certificate: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    # A root of the user's own (`docker swarm ca --rotate --ca-cert`) may have no key usage: openssl's default.
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("the issuer may not sign certificates")


def _is_no_authority(_policy: Policy, _certificate: x509.Certificate, basic: x509.BasicConstraints | None) -> None:
    if basic is not None and basic.ca:
        raise ValueError("it is a CA's own")


def _may_sign(_policy: Policy, _certificate: x509.Certificate, usage: x509.KeyUsage) -> None:
    if not usage.digital_signature:
        raise ValueError("its key may not sign")


def _identity(leaf: x509.Certificate, statement: NodeStatement) -> Identity:
    node, unit, cluster = (_subject(leaf, oid) for oid in (NameOID.COMMON_NAME, _UNIT, NameOID.ORGANIZATION_NAME))
    if node != statement.node:
        raise InvalidProofError("the certificate is another node's")
    if cluster != statement.cluster:
        raise InvalidProofError("the certificate is of another cluster")
    role = _ROLES.get(unit)
    if role is None:
        raise InvalidProofError("the certificate is neither a manager's nor a worker's")
    return Identity(node, role, leaf.not_valid_after_utc)


def _subject(leaf: x509.Certificate, oid: x509.ObjectIdentifier) -> str:
    try:
        values = [each.value for each in leaf.subject.get_attributes_for_oid(oid)]
    except ValueError:
        values = []
    if len(values) != 1 or not isinstance(values[0], str):
        raise InvalidProofError("the certificate's subject is not O, OU and CN, each once")
    return values[0]
