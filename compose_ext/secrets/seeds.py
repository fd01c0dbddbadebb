"""Seeds for signing records and deriving link keys: list, current ones, new ones.

A seed is made in memory, goes to Docker through a pipe, and can never be read back but by the controllers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from compose_ext.diagnostics import DockerError
from compose_ext.secrets.docker_secrets import CONFIG, SECRET, DockerSecret, DockerSecrets
from mesh.crypto.secret import Secret
from mesh.crypto.signed_envelope import SigningKey, VerifyKey
from mesh.errors import Terminal
from mesh.identity.key_files import verify_keys_text

SIGNING, LINK, VERIFY = "signing_seed", "link_seed", "verify_keys"
VERIFY_LABEL = "org.linkwire.verify-key"
INSTALLATION_LABEL = "org.linkwire.installation"
"""Label of both seeds: the id of the installation that they are of, which is its first signing key's."""


@dataclass(frozen=True, slots=True)
class Seeds:
    """The secrets and configs with the seeds that controllers and agents mount."""

    signing: DockerSecret
    link: DockerSecret
    verify_keys: DockerSecret

    @property
    def installation(self) -> str:
        """Return the id of this installation: agents and etcd reject state of another one. Raises DockerError."""
        return installation_of(self.signing)

    def mounted(self) -> dict[str, str]:
        """Variable to Docker's name."""
        return {
            "LINKWIRE_SIGNING_SEED_NAME": self.signing.name,
            "LINKWIRE_LINK_SEED_NAME": self.link.name,
            "LINKWIRE_VERIFY_KEYS_NAME": self.verify_keys.name,
        }


def ensure(secrets: DockerSecrets, cluster: str, in_use: frozenset[str], say: Callable[[str], None]) -> Seeds:
    """Take the seeds in use, else those of an interrupted install, and make missing ones.

    The two seeds belong together: records signed with one hold boxes sealed with keys of the other. Where one is
    gone, both are replaced, and with them the installation.

    Args:
        secrets: of the Swarm.
        cluster: Swarm's id: a signature holds in one cluster.
        in_use: names that the running controllers mount.
        say: prints a line of progress.

    Raises:
        DockerError: Docker failed.
    """
    signing = _current(secrets, SIGNING, in_use)
    link = _current(secrets, LINK, in_use, installation_of(signing)) if signing else None
    if signing and link:
        return Seeds(signing, link, verify_keys(secrets, cluster, [signing]))
    useless = [
        secret for kind in (SIGNING, LINK, VERIFY) for secret in secrets.all(kind) if secret.name not in in_use
    ]
    if any(secret.kind in {SIGNING, LINK} for secret in useless):
        gone = "seed of the link keys" if signing else "signing seed"
        say(f"the {gone} is gone, and cannot be read back: all keys are replaced, and every link gets new ones")
    signing = new_signing(secrets)
    labels = {INSTALLATION_LABEL: installation_of(signing)}
    seeds = Seeds(
        signing,
        _make(secrets, LINK, Secret.generate(), labels),
        verify_keys(secrets, cluster, [signing]),
    )
    for secret in useless:
        secrets.remove(secret)
    return seeds


def installation_of(signing: DockerSecret) -> str:
    """Return the id of the installation that a signing seed belongs to. Raises DockerError."""
    return signing.labels.get(INSTALLATION_LABEL) or _public(signing).id.hex()


def new_signing(secrets: DockerSecrets, installation: str = "") -> DockerSecret:
    """Make a signing key that nobody knows yet.

    Args:
        secrets: of the Swarm.
        installation: id of the one that it is another key of; empty for the first key of a new one.

    Raises:
        DockerError: Docker failed.
    """
    key = SigningKey.generate()
    labels = {
        VERIFY_LABEL: str(key.verify_key),
        INSTALLATION_LABEL: installation or key.verify_key.id.hex(),
    }
    return _make(secrets, SIGNING, key, labels)


def new_link(secrets: DockerSecrets, seeds: Seeds) -> DockerSecret:
    """Return a link seed that is not in use yet: one of a renewal that was broken off, or else a new one.

    Raises:
        DockerError: Docker failed.
    """
    installation = seeds.installation
    known = [one for one in secrets.all(LINK) if one.labels.get(INSTALLATION_LABEL, installation) == installation]
    if known and known[-1].number > seeds.link.number:
        return known[-1]
    return _make(secrets, LINK, Secret.generate(), {INSTALLATION_LABEL: installation})


def verify_keys(secrets: DockerSecrets, cluster: str, signing: Sequence[DockerSecret]) -> DockerSecret:
    """The config with the public keys of some seeds; made if there is none with these and no other.

    Raises:
        DockerError: Docker failed, or a seed does not say what its public key is.
    """
    content = verify_keys_text(cluster, [_public(secret) for secret in signing]).encode()
    for secret in secrets.all(VERIFY):
        if secret.content == content:
            return secret
    return secrets.make(CONFIG, VERIFY, secrets.next_number(VERIFY), content)


def _current(
    secrets: DockerSecrets, kind: str, in_use: frozenset[str], installation: str = ""
) -> DockerSecret | None:
    """Return the seed in use; else the oldest, which others may know already.

    With `installation` only of that one; a seed from before they had ids is of any.
    """
    secret = secrets.all(kind)
    if installation:
        secret = [one for one in secret if one.labels.get(INSTALLATION_LABEL, installation) == installation]
    return next((one for one in secret if one.name in in_use), secret[0] if secret else None)


def _make(secrets: DockerSecrets, kind: str, secret: Secret, labels: dict[str, str]) -> DockerSecret:
    text = secret.raw.hex().encode() + b"\n"
    return secrets.make(SECRET, kind, secrets.next_number(kind), text, labels)


def _public(secret: DockerSecret) -> VerifyKey:
    try:
        return VerifyKey.parse(secret.labels.get(VERIFY_LABEL, ""))
    except Terminal:
        raise DockerError(
            f"the secret {secret.name} has no label {VERIFY_LABEL} with its public key: remove it, and everything is "
            "signed with a new one"
        ) from None
