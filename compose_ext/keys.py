"""The seeds that a Swarm's Linkwire signs and derives with: which there are, which are in use, new ones.

A seed is made in memory, goes to Docker through a pipe, and can never be read back but by the controllers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from compose_ext.errors import DockerError
from compose_ext.vault import CONFIG, SECRET, Held, Vault
from mesh.envelope import SigningKey, VerifyKey
from mesh.errors import Terminal
from mesh.keyfiles import verify_keys_text
from mesh.secret import Secret

SIGNING, LINK, VERIFY = "signing_seed", "link_seed", "verify_keys"
VERIFY_LABEL = "org.linkwire.verify-key"


@dataclass(frozen=True, slots=True)
class Seeds:
    """What controllers and agents are given, by the stack file's variables."""

    signing: Held
    link: Held
    verify_keys: Held

    def mounted(self) -> dict[str, str]:
        """Variable to Docker's name."""
        return {
            "LINKWIRE_SIGNING_SEED_NAME": self.signing.name,
            "LINKWIRE_LINK_SEED_NAME": self.link.name,
            "LINKWIRE_VERIFY_KEYS_NAME": self.verify_keys.name,
        }


def ensure(vault: Vault, cluster: str, in_use: frozenset[str]) -> Seeds:
    """Take what the controllers use, else what an install that was broken off has made, and make what is missing.

    Args:
        vault: of the Swarm.
        cluster: Swarm's id: a signature holds in one cluster.
        in_use: names that the running controllers mount.

    Raises:
        DockerError: Docker failed.
    """
    signing = _current(vault, SIGNING, in_use) or new_signing(vault)
    link = _current(vault, LINK, in_use) or _make(vault, LINK, Secret.generate(), {})
    return Seeds(signing, link, verify_keys(vault, cluster, [signing]))


def new_signing(vault: Vault) -> Held:
    """Make a signing key that nobody knows yet. Raises DockerError."""
    key = SigningKey.generate()
    return _make(vault, SIGNING, key, {VERIFY_LABEL: str(key.verify_key)})


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


def _current(vault: Vault, kind: str, in_use: frozenset[str]) -> Held | None:
    """What is in use; else the oldest, which is what others may have been told of already."""
    held = vault.all(kind)
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
