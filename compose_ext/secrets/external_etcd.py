"""Certificates for an external etcd: read from the user's files, validated, kept as Docker secrets and configs.

Docker never gives a secret back. So a later install without the files takes the stored ones; with the files it
compares fingerprints, kept as a label, to see whether they are stored already.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from compose_ext.diagnostics import UsageError
from compose_ext.secrets.docker_secrets import CONFIG, SECRET, DockerSecret, DockerSecrets
from compose_ext.secrets.etcd_certificates import EXPIRES
from mesh.errors import Terminal
from mesh.identity.tls import blocks, pair_problem, plain_key

CA, CONTROLLER_KEY, AGENT_KEY = "own_etcd_ca", "own_etcd_controller", "own_etcd_agent"
FINGERPRINT = "org.linkwire.certificate"
"""Label: SHA-256 of the certificate."""
ETCD_FILES = ("etcd_ca", "etcd_cert", "etcd_key", "etcd_agent_cert", "etcd_agent_key")
"""Files for etcds of the user's own, whose content becomes Docker secrets: no later install needs to find them."""
KINDS = (CA, CONTROLLER_KEY, AGENT_KEY)


@dataclass(frozen=True, slots=True)
class Pair:
    """A client's certificate with what came with it, and its key, in PEM."""

    certificate: x509.Certificate
    pem: bytes

    def labels(self) -> dict[str, str]:
        """Return the labels to keep with the secret."""
        digest = hashlib.sha256(self.certificate.public_bytes(Encoding.DER)).hexdigest()
        return {EXPIRES: self.certificate.not_valid_after_utc.isoformat(), FINGERPRINT: digest}


@dataclass(frozen=True, slots=True)
class ExternalEtcd:
    """The secrets and configs of an external etcd that controllers and agents mount."""

    ca: DockerSecret
    controller: DockerSecret
    agent: DockerSecret

    def mounted(self) -> dict[str, str]:
        """Variable of the stack file to Docker's name."""
        return {
            "LINKWIRE_ETCD_CLIENT_TRUST_NAME": self.ca.name,
            "LINKWIRE_ETCD_CONTROLLER_NAME": self.controller.name,
            "LINKWIRE_ETCD_AGENT_NAME": self.agent.name,
        }


def are_given(given: Mapping[str, str]) -> bool:
    """Whether the user names any file."""
    return any(given.get(name) for name in ETCD_FILES)


def ensure(
    secrets: DockerSecrets, given: Mapping[str, str], in_use: frozenset[str], say: Callable[[str], None]
) -> ExternalEtcd:
    """Take the given files, and for the others the stored ones: mounted, or made by an earlier install.

    Args:
        secrets: of the Swarm.
        given: `ETCD_FILES` with their paths, as far as the user names them.
        in_use: names that the services mount.
        say: prints a line of progress.

    Raises:
        UsageError: a file will not do, or is missing.
        DockerError: Docker failed.
    """
    ca, controller = _authorities(given), _pair(given, "etcd_cert", "etcd_key")
    agent = _pair(given, "etcd_agent_cert", "etcd_agent_key")
    if not ((ca or secrets.all(CA)) and (controller or secrets.all(CONTROLLER_KEY))):
        raise UsageError(
            "an etcd of your own over https:// needs --etcd-ca, --etcd-cert and --etcd-key: files in PEM with whose "
            "certificates etcd may show, and what controllers show to it"
        )
    shown = (
        _stored_secret(secrets, CONTROLLER_KEY, controller)
        if controller
        else _current(secrets, CONTROLLER_KEY, in_use)
    )
    agents = shown
    if agent:
        agents = _stored_secret(secrets, AGENT_KEY, agent)
    elif secrets.all(AGENT_KEY):
        agents = _current(secrets, AGENT_KEY, in_use)
    else:
        say(
            "agents show the controllers' certificate: root on any node can write to etcd what controllers write. "
            "Nobody believes it, but give --etcd-agent-cert and --etcd-agent-key, of a user who may do less"
        )
    return ExternalEtcd(_stored_config(secrets, ca) if ca else _current(secrets, CA, in_use), shown, agents)


def _authorities(given: Mapping[str, str]) -> bytes:
    path = given.get("etcd_ca")
    if not path:
        return b""
    found = _blocks(path, "--etcd-ca", b"CERTIFICATE")
    try:
        x509.load_pem_x509_certificates(found)
    except ValueError:
        raise UsageError(f"--etcd-ca: {path} holds no certificate that can be read") from None
    return found


def _pair(given: Mapping[str, str], cert_name: str, key_name: str) -> Pair | None:
    cert_path, key_path = given.get(cert_name), given.get(key_name)
    cert_flag, key_flag = (f"--{name.replace('_', '-')}" for name in (cert_name, key_name))
    if not cert_path and not key_path:
        return None
    if not (cert_path and key_path):
        raise UsageError(f"{cert_flag} and {key_flag} go together; they may name one file")
    cert = _blocks(cert_path, cert_flag, b"CERTIFICATE")
    try:
        key = plain_key(_blocks(key_path, key_flag, b"PRIVATE KEY"), f"{key_flag}: {key_path}")
    except Terminal as error:
        raise UsageError(str(error)) from None
    name = f"{cert_flag}: {cert_path}"
    if problem := pair_problem(cert, key, name, f"{key_flag}: {key_path}") or _no_client(cert, name):
        raise UsageError(problem)
    return Pair(x509.load_pem_x509_certificate(cert), key + cert)


def _no_client(cert: bytes, name: str) -> str:
    extensions = x509.load_pem_x509_certificate(cert).extensions
    try:
        uses = set(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return ""
    if uses & {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}:
        return ""
    return f"{name} is not for clients (its extended key usage lacks TLS client authentication): etcd would refuse it"


def _blocks(path: str, flag: str, kind: bytes) -> bytes:
    try:
        return blocks(Path(path), kind, flag)
    except Terminal as error:
        raise UsageError(str(error)) from None


def _stored_config(secrets: DockerSecrets, content: bytes) -> DockerSecret:
    same = (secret for secret in secrets.all(CA) if secret.content == content)
    return next(same, None) or secrets.make(CONFIG, CA, secrets.next_number(CA), content)


def _stored_secret(secrets: DockerSecrets, kind: str, pair: Pair) -> DockerSecret:
    labels = pair.labels()
    same = (secret for secret in secrets.all(kind) if secret.labels.get(FINGERPRINT) == labels[FINGERPRINT])
    return next(same, None) or secrets.make(SECRET, kind, secrets.next_number(kind), pair.pem, labels)


def _current(secrets: DockerSecrets, kind: str, in_use: frozenset[str]) -> DockerSecret:
    """Return the mounted one; else the newest, made by an interrupted install."""
    secret = secrets.all(kind)
    return next((one for one in secret if one.name in in_use), secret[-1])
