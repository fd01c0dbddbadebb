"""TLS to etcd: the files of mutual TLS, read again for every connection, and the check of the endpoints.

It promises that nothing is sent in plain text to another machine unless the user has allowed it.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from mesh.errors import Terminal

# gRPC's messages, which differ between versions: `make test-ranges` tries the oldest and the newest.
_BROKEN_OFF = re.compile("TSI_DATA_CORRUPTED|Socket closed|reset by peer|Unwrap failed")
_UNTRUSTED = re.compile("CERTIFICATE_VERIFY_FAILED|Hostname Verification|is not in peer certificate")
_NOT_NOW = re.compile("certificate has expired|certificate is not yet valid")
_BEGIN = b"-----BEGIN "


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files of a connection. Certificate and key may be one file.

    Attributes:
        ca: CA bundle that etcd's certificate must chain to.
        cert: client certificate.
        key: its private key.
        preferred: files to use instead where they are usable and etcd accepts them.
        setting: the setting that names the files, where it is a single one.
    """

    ca: Path
    cert: Path
    key: Path
    preferred: Tls | None = None
    setting: str = ""

    def read(self) -> tuple[bytes, bytes, bytes]:
        """Return the CA bundle, the certificate and the private key, each without other blocks of its file.

        Raises:
            Terminal: a file cannot be read or lacks its block; the error quotes no content.
        """
        return (
            blocks(self.ca, b"CERTIFICATE", self._setting("CA")),
            blocks(self.cert, b"CERTIFICATE", self._setting("CERT")),
            plain_key(blocks(self.key, b"PRIVATE KEY", self._setting("KEY")), f"{self._setting('KEY')}: {self.key}"),
        )

    def choices(self) -> tuple[Tls, ...]:
        """Return the files to try, in order. Read again each time: Swarm renews a node's key, and may encrypt it."""
        if self.preferred is None:
            return (self,)
        try:
            usable = not self.preferred.problem()
        except Terminal:
            usable = False
        return (self.preferred, self) if usable else (self,)

    def explain(self, reason: str) -> str:
        """Add the likely cause to gRPC's reason of a failed connection."""
        if _NOT_NOW.search(reason):
            now = dt.datetime.now(dt.UTC)
            return f"{reason}, by this node's clock, {now:%Y-%m-%d %H:%M} UTC: set it right, or renew the certificate"
        if _UNTRUSTED.search(reason):
            return f"{reason}: its certificate is not for this address, or not from {self.ca} (LINKWIRE_ETCD_CA)"
        if not _BROKEN_OFF.search(reason):
            return reason
        # In TLS 1.3 the client finishes before the server has accepted its certificate (RFC 8446, section 2).
        doubt = f"perhaps it does not accept our certificate {self.cert} ({self._setting('CERT')})"
        try:
            return f"{reason}: {self.problem() or doubt}"
        except Terminal as error:
            return f"{reason}: {error}"

    def problem(self, now: dt.datetime | None = None) -> str:
        """Return why our certificate is unusable; empty if it is usable. Raises Terminal as `read`."""
        _, cert, key = self.read()
        return pair_problem(cert, key, f"our certificate {self.cert} ({self._setting('CERT')})", str(self.key), now)

    def _setting(self, what: str) -> str:
        return self.setting or f"LINKWIRE_ETCD_{what}"


def may_be_refused(reason: str) -> bool:
    """Return whether, by gRPC's reason, a connection may have failed because of our certificate."""
    return "PERMISSION_DENIED" in reason or _BROKEN_OFF.search(reason) is not None


def with_node(tls: Tls, certificates: Path) -> Tls:
    """Return the same with the node's own certificate preferred, from Swarm's folder."""
    own = Tls(tls.ca, certificates / "swarm-node.crt", certificates / "swarm-node.key", None, "LINKWIRE_CERTIFICATES")
    return replace(tls, preferred=own)


def pair_problem(cert: bytes, key: bytes, name: str, key_name: str, now: dt.datetime | None = None) -> str:
    """Return why a certificate and its private key are unusable; empty if they are usable.

    Args:
        cert: in PEM, the certificate itself first.
        key: in PEM, as `plain_key` returns it.
        name: what an error calls the certificate.
        key_name: what an error calls the key.
        now: the time; None for the clock's.
    """
    now = now or dt.datetime.now(dt.UTC)
    try:
        own = x509.load_pem_x509_certificates(cert)[0]
        public = own.public_key()
    except (ValueError, IndexError, UnsupportedAlgorithm):
        return f"{name} holds no readable certificate"
    if load_pem_private_key(key, None).public_key() != public:
        return f"{key_name} holds the key of another certificate than {name}"
    if now > own.not_valid_after_utc:
        return f"{name} expired at {own.not_valid_after_utc:%Y-%m-%d %H:%M} UTC: renew it"
    if now < own.not_valid_before_utc:
        return f"{name} is not valid before {own.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
    return ""


def expiry(path: Path) -> dt.datetime:
    """Return the end of a certificate, the first of a PEM file.

    Raises:
        Terminal: the file cannot be read or holds no certificate.
    """
    try:
        return x509.load_pem_x509_certificates(blocks(path, b"CERTIFICATE", str(path)))[0].not_valid_after_utc
    except (ValueError, IndexError, UnsupportedAlgorithm):
        raise Terminal(f"{path} holds no readable certificate") from None


def plain_key(pem: bytes, name: str) -> bytes:
    """Return a private key in PEM without headers: Swarm's hold another secret, and gRPC accepts none.

    Raises:
        Terminal: the key cannot be read or is encrypted; the error quotes no content.
    """
    try:
        key = load_pem_private_key(pem, None)
    except TypeError:
        raise Terminal(f"{name}: the private key is encrypted: give one without a password") from None
    except (ValueError, UnsupportedAlgorithm):
        raise Terminal(f"{name} holds no readable private key") from None
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def choose(
    endpoints: Sequence[str], files: tuple[Path | None, Path | None, Path | None], *, insecure: bool
) -> Tls | None:
    """Return the TLS files for some endpoints; None for plain text.

    Args:
        endpoints: `https://host:port`, `http://host:port` or `host:port`, which is http.
        files: CA, certificate and key.
        insecure: whether plain text to other hosts is allowed.

    Raises:
        ValueError: files are missing, or plain text to another host is not allowed; in the user's words.
    """
    secure = {endpoint.startswith("https://") for endpoint in endpoints}
    if secure == {True, False}:
        raise ValueError("some etcd endpoints are https:// and some are not: make all of them https://, or none")
    if secure == {True}:
        ca, cert, key = files
        if not (ca and cert and key):
            raise ValueError("https:// endpoints need LINKWIRE_ETCD_CA, LINKWIRE_ETCD_CERT and LINKWIRE_ETCD_KEY")
        return Tls(ca, cert, key)
    for endpoint in endpoints:
        if not insecure and not _is_here(endpoint):
            raise ValueError(
                f"{endpoint}: plaintext to another host: anyone on the path can read and modify it: use https://, or "
                "allow it with LINKWIRE_ETCD_INSECURE=1"
            )
    return None


def _is_here(endpoint: str) -> bool:
    host = endpoint.rpartition("://")[2].rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def blocks(path: Path, kind: bytes, setting: str) -> bytes:
    """Return the blocks of one kind in a file: gRPC accepts no file that has others too.

    Args:
        path: of a PEM file.
        kind: the end of the blocks' names, `CERTIFICATE` or `PRIVATE KEY`.
        setting: the setting that names the file.

    Raises:
        Terminal: the file cannot be read, or has no such block.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise Terminal(f"{setting}: {path}: {error.strerror}") from None
    parts = [_BEGIN + part for part in text.split(_BEGIN)[1:] if part.partition(b"-----")[0].endswith(kind)]
    if not parts:
        noun = kind.decode().lower()
        raise Terminal(f"{setting}: {path} holds no {noun}")
    return b"".join(parts)
