"""Where etcd is and what is shown to it: endpoints, and the files of mutual TLS, read anew for every connection.

Promises that nothing is sent in clear to another machine unless the user has said so.
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

# gRPC's words, which differ from version to version: `make test-ranges` tries the oldest and the newest.
_BROKEN_OFF = re.compile("TSI_DATA_CORRUPTED|Socket closed|reset by peer|Unwrap failed")
_UNTRUSTED = re.compile("CERTIFICATE_VERIFY_FAILED|Hostname Verification|is not in peer certificate")
_BEGIN = b"-----BEGIN "


@dataclass(frozen=True, slots=True)
class Tls:
    """Files in PEM. Certificate and key may be one file.

    Attributes:
        ca: whose certificates the other end may show.
        cert: what we show.
        key: its private key.
        first: what is shown instead where it can be, and is accepted.
        setting: the one that says where the files are, where it is one.
    """

    ca: Path
    cert: Path
    key: Path
    preferred: Tls | None = None
    setting: str = ""

    def read(self) -> tuple[bytes, bytes, bytes]:
        """The authorities' certificates, our own one, our private key: each without what else its file holds.

        Raises:
            Terminal: a file cannot be read, or lacks what it should hold; without a word of its content.
        """
        return (
            blocks(self.ca, b"CERTIFICATE", self._setting("CA")),
            blocks(self.cert, b"CERTIFICATE", self._setting("CERT")),
            plain_key(blocks(self.key, b"PRIVATE KEY", self._setting("KEY")), f"{self._setting('KEY')}: {self.key}"),
        )

    def choices(self) -> tuple[Tls, ...]:
        """What to show, in this order. Looked at anew each time: Swarm renews a node's key, and may encrypt it."""
        if self.preferred is None:
            return (self,)
        try:
            usable = not self.preferred.problem()
        except Terminal:
            usable = False
        return (self.preferred, self) if usable else (self,)

    def explain(self, reason: str) -> str:
        """Say more of a connection that failed, by what gRPC says of it."""
        if _UNTRUSTED.search(reason):
            return f"{reason}: it shows no certificate that {self.ca} (LINKWIRE_ETCD_CA) stands for, at this address"
        if not _BROKEN_OFF.search(reason):
            return reason
        # With TLS 1.3 a client is done before the server says whether it takes its certificate (RFC 8446, section 2).
        doubt = f"so it does where it does not accept our certificate: {self.cert} ({self._setting('CERT')})"
        try:
            return f"{reason}: {self.problem() or doubt}"
        except Terminal as error:
            return f"{reason}: {error}"

    def problem(self, now: dt.datetime | None = None) -> str:
        """What is wrong with our own certificate, in words; "" if nothing is. Raises Terminal as `read`."""
        _, cert, key = self.read()
        return pair_problem(cert, key, f"our certificate {self.cert} ({self._setting('CERT')})", str(self.key), now)

    def _setting(self, what: str) -> str:
        return self.setting or f"LINKWIRE_ETCD_{what}"


def may_be_refused(reason: str) -> bool:
    """Whether a connection may have failed because of what we showed, by what gRPC says of it."""
    return "PERMISSION_DENIED" in reason or _BROKEN_OFF.search(reason) is not None


def with_node(tls: Tls, certificates: Path) -> Tls:
    """The same, with the node's own certificate shown first: from the folder in which Swarm keeps it."""
    own = Tls(tls.ca, certificates / "swarm-node.crt", certificates / "swarm-node.key", None, "LINKWIRE_CERTIFICATES")
    return replace(tls, preferred=own)


def pair_problem(cert: bytes, key: bytes, name: str, key_name: str, now: dt.datetime | None = None) -> str:
    """What is wrong with a certificate and its private key, in words; "" if nothing is.

    Args:
        cert: in PEM, the certificate itself first.
        key: in PEM, as `plain_key` gives it.
        name: the certificate's, for people.
        key_name: the key's.
        now: the time; None: what the clock says.
    """
    now = now or dt.datetime.now(dt.UTC)
    try:
        own = x509.load_pem_x509_certificates(cert)[0]
        public = own.public_key()
    except (ValueError, IndexError, UnsupportedAlgorithm):
        return f"{name} holds no certificate that can be read"
    if load_pem_private_key(key, None).public_key() != public:
        return f"{key_name} holds the key of another certificate than {name}"
    if now > own.not_valid_after_utc:
        return f"{name} expired at {own.not_valid_after_utc:%Y-%m-%d %H:%M} UTC: renew it"
    if now < own.not_valid_before_utc:
        return f"{name} is not valid before {own.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
    return ""


def plain_key(pem: bytes, name: str) -> bytes:
    """A private key in PEM and nothing else: in Swarm's headers there is another secret, and gRPC takes none.

    Raises:
        Terminal: there is none that can be read, or it is encrypted; without a word of its content.
    """
    try:
        key = load_pem_private_key(pem, None)
    except TypeError:
        raise Terminal(
            f"{name}: the private key is encrypted, and nobody is there to be asked for its password"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise Terminal(f"{name} holds no private key that can be read") from None
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def choose(
    endpoints: Sequence[str], files: tuple[Path | None, Path | None, Path | None], *, insecure: bool
) -> Tls | None:
    """Decide how to speak with some endpoints.

    Args:
        endpoints: `https://host:port`, `http://host:port` or `host:port`, which is http.
        files: CA, certificate and key.
        insecure: the user says that etcd is to be spoken to in clear.

    Raises:
        ValueError: files are missing, or a connection in clear would leave this machine; in the user's words.
    """
    secure = {endpoint.startswith("https://") for endpoint in endpoints}
    if secure == {True, False}:
        raise ValueError("some etcd endpoints are https:// and some are not: all of them, or none")
    if secure == {True}:
        ca, cert, key = files
        if not (ca and cert and key):
            raise ValueError("https:// endpoints need LINKWIRE_ETCD_CA, LINKWIRE_ETCD_CERT and LINKWIRE_ETCD_KEY")
        return Tls(ca, cert, key)
    for endpoint in endpoints:
        if not insecure and not _is_here(endpoint):
            raise ValueError(
                f"{endpoint} would be spoken to in clear, and whoever is on the way reads and writes along: use "
                "https://, or say LINKWIRE_ETCD_INSECURE=1"
            )
    return None


def _is_here(endpoint: str) -> bool:
    host = endpoint.rpartition("://")[2].rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def blocks(path: Path, kind: bytes, setting: str) -> bytes:
    """The blocks of one kind in a file: gRPC takes none that holds others as well.

    Args:
        path: of a file in PEM.
        kind: how the blocks' names end, `CERTIFICATE` or `PRIVATE KEY`.
        setting: that names the file.

    Raises:
        Terminal: it cannot be read, or there is none.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise Terminal(f"{setting}: {path}: {error.strerror}") from None
    found = [_BEGIN + part for part in text.split(_BEGIN)[1:] if part.partition(b"-----")[0].endswith(kind)]
    if not found:
        raise Terminal(f"{setting}: there is no {kind.decode().lower()} in {path}")
    return b"".join(found)
