"""Certificates as Swarm's CA makes them (mesh.identity.attestation tells what was seen), and as it never would."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

MADE = datetime(2026, 11, 22, 15, 55, tzinfo=UTC)
CLUSTER = "p8ti9dt1n1jn17j99w38xk95z"
NODE = "hklespxux9tqmbm0lswmsdrce"
RAFT_DEK = base64.b64encode(b"the raft log's key, a secret").decode()


def p256() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def usage(*names: str) -> x509.KeyUsage:
    known = "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign"
    return x509.KeyUsage(
        **{name: name in names for name in (*known.split(), "crl_sign", "encipher_only", "decipher_only")}
    )


def name(*parts: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in parts])


@dataclass(frozen=True)
class Authority:
    """A CA: its key, and its certificate if it is a root."""

    key: Key
    certificate: x509.Certificate

    @classmethod
    def root(
        cls,
        key: Key | None = None,
        key_usage: x509.KeyUsage | str | None = "swarm",
        made: datetime = MADE,
        called: str = "swarm-ca",
    ) -> Authority:
        """A root as Swarm makes it; `key_usage` None: without that extension."""
        key = key or p256()
        ku = usage("key_cert_sign", "crl_sign") if key_usage == "swarm" else key_usage
        assert not isinstance(ku, str)
        return cls(key, _ca_certificate(key, key, ku, made, called))

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def cross_signed_by(self, old: Authority) -> x509.Certificate:
        """What a rotation puts beside every leaf: this root's name and key, signed by the old one."""
        return _ca_certificate(self.key, old.key, usage("key_cert_sign", "crl_sign"))


@dataclass(frozen=True)
class Leaf:
    """What to put into a node's certificate; by default what Swarm does."""

    subject: Sequence[tuple[x509.ObjectIdentifier, str]]
    key: Key = field(default_factory=p256)
    ca: bool | None = False
    key_usage: x509.KeyUsage | None = field(default_factory=lambda: usage("digital_signature", "key_encipherment"))
    begins: datetime = MADE - timedelta(hours=1)
    ends: datetime = MADE + timedelta(days=90)

    @classmethod
    def of(cls, role: str = "swarm-worker", node: str = NODE, cluster: str = CLUSTER) -> Leaf:
        unit, common = NameOID.ORGANIZATIONAL_UNIT_NAME, NameOID.COMMON_NAME
        return cls(((NameOID.ORGANIZATION_NAME, cluster), (unit, role), (common, node)))

    def but(self, **fields: object) -> Leaf:
        return replace(self, **fields)  # type: ignore[arg-type]  # a test names them right

    def signed_by(self, authority: Authority) -> x509.Certificate:
        alternative = [x509.DNSName(value) for _, value in self.subject[1:]]
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(*self.subject))
            .issuer_name(authority.certificate.subject)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.begins)
            .not_valid_after(self.ends)
            .add_extension(x509.SubjectAlternativeName(alternative or [x509.DNSName("x")]), critical=False)
        )
        if self.key_usage is not None:
            builder = builder.add_extension(self.key_usage, critical=True)
        eku = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = builder.add_extension(eku, critical=False)
        if self.ca is not None:
            builder = builder.add_extension(x509.BasicConstraints(ca=self.ca, path_length=None), critical=True)
        ski = x509.SubjectKeyIdentifier.from_public_key(self.key.public_key())
        aki = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
        builder = builder.add_extension(ski, critical=False).add_extension(aki, critical=False)
        return builder.sign(authority.key, _digest(authority.key))


def key_file(key: Key, *, locked: bool = False, manager: bool = True, traditional: bool = False) -> bytes:
    """A swarm-node.key; `traditional`: `EC PRIVATE KEY`, as engines wrote it before they knew PKCS #8."""
    form = PrivateFormat.TraditionalOpenSSL if traditional else PrivateFormat.PKCS8
    cipher: KeySerializationEncryption = BestAvailableEncryption(b"SWMKEY-1-x") if locked else NoEncryption()
    first, *rest = key.private_bytes(Encoding.PEM, form, cipher).decode().splitlines()
    headers = ["kek-version: 33" if locked else "kek-version: 0"]
    if manager:
        headers.append(f"raft-dek: {RAFT_DEK}")
    if traditional and locked:  # its own headers stand there already
        return "\n".join([first, *rest, ""]).encode()
    return "\n".join([first, *headers, "", *rest, ""]).encode()


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def _ca_certificate(
    key: Key, signer: Key, ku: x509.KeyUsage | None, made: datetime = MADE, called: str = "swarm-ca"
) -> x509.Certificate:
    swarm_ca = name((NameOID.COMMON_NAME, called))
    builder = (
        x509.CertificateBuilder()
        .subject_name(swarm_ca)
        .issuer_name(swarm_ca)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(made - timedelta(minutes=5))
        .not_valid_after(made + timedelta(days=7300))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if ku is not None:
        builder = builder.add_extension(ku, critical=True)
    return builder.sign(signer, _digest(signer))


def _digest(key: Key) -> SHA256 | SHA384 | None:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return None
    return SHA384() if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.key_size > 256 else SHA256()
