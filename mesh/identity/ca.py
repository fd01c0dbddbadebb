"""In-memory certificate authority for TLS to etcd. No file I/O.

Its key is never stored: nobody can issue another certificate afterwards, and a renewal makes a new authority.
ECDSA on P-256 with SHA-256, which etcd's Go and gRPC's BoringSSL both accept (the latter no Ed25519).
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Iterable

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAYS = 365
EARLY = dt.timedelta(hours=1)
"""Certificates are valid from so long ago, since nodes' clocks differ."""


class CertificateAuthority:
    """Certificate authority that exists only as this object."""

    def __init__(self, name: str, days: float = DAYS, now: dt.datetime | None = None) -> None:
        """Create an authority with a new key.

        Args:
            name: shown to people.
            days: until its certificates, and its own, expire.
            now: the time; None for the clock's.
        """
        now = now or dt.datetime.now(dt.UTC)
        self._from = now - EARLY
        self.expires = (now + dt.timedelta(days=days)).replace(microsecond=0)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(self._name, self._key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(authority=True), critical=True)
        self._certificate = builder.sign(self._key, hashes.SHA256())

    @property
    def pem(self) -> bytes:
        """Its own certificate."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def server(self, addresses: Iterable[str]) -> bytes:
        """Issue a server's new key and certificate, in PEM, for some IP addresses or host names.

        It has no common name: etcd would read that as a user.
        """
        names = [_general_name(address) for address in addresses]
        alternative = x509.SubjectAlternativeName(names)
        return self._issue(x509.Name([]), [ExtendedKeyUsageOID.SERVER_AUTH], alternative)

    def member(self, name: str, addresses: Iterable[str]) -> bytes:
        """Issue a new key and certificate for members of a cluster, in PEM: each is server and client of the others.

        Args:
            name: its common name, by which a member knows others.
            addresses: IP addresses or host names of all of them.
        """
        purposes = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
        alternative = x509.SubjectAlternativeName([_general_name(address) for address in addresses])
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        return self._issue(subject, purposes, alternative)

    def client(self, user: str) -> bytes:
        """Issue a client's new key and certificate, in PEM; etcd reads the common name as its user."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, user)])
        return self._issue(name, [ExtendedKeyUsageOID.CLIENT_AUTH], None)

    def _issue(
        self,
        name: x509.Name,
        purposes: Iterable[x509.ObjectIdentifier],
        alternative: x509.SubjectAlternativeName | None,
    ) -> bytes:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(name, key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(authority=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        if alternative is not None:
            # RFC 5280, 4.2.1.6: critical where there is no subject.
            builder = builder.add_extension(alternative, critical=not list(name))
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return pem + builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _builder(self, name: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder(
            self._name, name, key, x509.random_serial_number(), self._from, self.expires
        )
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return builder.add_extension(issuer, critical=False)


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        return x509.DNSName(address)
