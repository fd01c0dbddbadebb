"""The seeds that a Swarm's Linkwire signs and derives with: which there are, which are in use, new ones.

A seed is made in memory, goes to Docker through a pipe, and can never be read back but by the controllers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from compose_ext.diagnostics import DockerError
from compose_ext.secrets.docker_secrets import CONFIG, SECRET, Held, Vault
from mesh.envelope import SigningKey, VerifyKey
from mesh.errors import Terminal
from mesh.keyfiles import verify_keys_text
from mesh.secret import Secret

SIGNING, LINK, VERIFY = "signing_seed", "link_seed", "verify_keys"
VERIFY_LABEL = "org.linkwire.verify-key"
INSTALLATION_LABEL = "org.linkwire.installation"
"""Label of both seeds: the id of the installation that they are of, which is its first signing key's."""


@dataclass(frozen=True, slots=True)
class Seeds:
    """What controllers and agents are given, by the stack file's variables."""

    signing: Held
    link: Held
    verify_keys: Held

    @property
    def installation(self) -> str:
        """The id of this installation: agents and etcd hold to no state of another one. Raises DockerError."""
        return installation_of(self.signing)

    def mounted(self) -> dict[str, str]:
        """Variable to Docker's name."""
        return {
            "LINKWIRE_SIGNING_SEED_NAME": self.signing.name,
            "LINKWIRE_LINK_SEED_NAME": self.link.name,
            "LINKWIRE_VERIFY_KEYS_NAME": self.verify_keys.name,
        }


def ensure(vault: Vault, cluster: str, in_use: frozenset[str], say: Callable[[str], None]) -> Seeds:
    """Take what the controllers use, else what an install that was broken off has made, and make what is missing.

    The two seeds belong together: what one has signed was sealed with keys of the other. Where one is gone, both are
    made anew, and with them a new installation.

    Args:
        vault: of the Swarm.
        cluster: Swarm's id: a signature holds in one cluster.
        in_use: names that the running controllers mount.
        say: told what the user should know.

    Raises:
        DockerError: Docker failed.
    """
    signing = _current(vault, SIGNING, in_use)
    link = _current(vault, LINK, in_use, installation_of(signing)) if signing else None
    if signing and link:
        return Seeds(signing, link, verify_keys(vault, cluster, [signing]))
    useless = [held for kind in (SIGNING, LINK, VERIFY) for held in vault.all(kind) if held.name not in in_use]
    if any(held.kind in {SIGNING, LINK} for held in useless):
        gone = "seed of the link keys" if signing else "signing seed"
        say(f"the {gone} is gone, and Docker gives none back: all keys are made anew, and every link gets new ones")
    signing = new_signing(vault)
    labels = {INSTALLATION_LABEL: installation_of(signing)}
    seeds = Seeds(
        signing,
        _make(vault, LINK, Secret.generate(), labels),
        verify_keys(vault, cluster, [signing]),
    )
    for held in useless:
        vault.remove(held)
    return seeds


def installation_of(signing: Held) -> str:
    """The id of the installation that a signing seed is of. Raises DockerError."""
    return signing.labels.get(INSTALLATION_LABEL) or _public(signing).id.hex()


def new_signing(vault: Vault, installation: str = "") -> Held:
    """Make a signing key that nobody knows yet.

    Args:
        vault: of the Swarm.
        installation: id of the one that it is another key of; empty for the first key of a new one.

    Raises:
        DockerError: Docker failed.
    """
    key = SigningKey.generate()
    labels = {
        VERIFY_LABEL: str(key.verify_key),
        INSTALLATION_LABEL: installation or key.verify_key.id.hex(),
    }
    return _make(vault, SIGNING, key, labels)


def verify_keys(vault: Vault, cluster: str, signing: Sequence[Held]) -> Held:
    """The config with the public keys of some seeds; made if there is none with these and no other.

    Raises:
        DockerError: Docker failed, or a seed does not say what its public key is.
    """
    content = verify_keys_text(cluster, [_public(held) for held in signing]).encode()
    for held in vault.all(VERIFY):
        if held.content == content:
            return held
    return vault.make(CONFIG, VERIFY, vault.next_number(VERIFY), content)


def _current(vault: Vault, kind: str, in_use: frozenset[str], installation: str = "") -> Held | None:
    """What is in use; else the oldest, which is what others may have been told of already.

    With `installation` only of that one; a seed from before they had ids is of any.
    """
    held = vault.all(kind)
    if installation:
        held = [one for one in held if one.labels.get(INSTALLATION_LABEL, installation) == installation]
    return next((one for one in held if one.name in in_use), held[0] if held else None)


def _make(vault: Vault, kind: str, secret: Secret, labels: dict[str, str]) -> Held:
    text = secret.raw.hex().encode() + b"\n"
    return vault.make(SECRET, kind, vault.next_number(kind), text, labels)


def _public(held: Held) -> VerifyKey:
    try:
        return VerifyKey.parse(held.labels.get(VERIFY_LABEL, ""))
    except Terminal:
        raise DockerError(
            f"the secret {held.name} has no label {VERIFY_LABEL} with its public key: remove it, and everything is "
            "signed with a new one"
        ) from None
