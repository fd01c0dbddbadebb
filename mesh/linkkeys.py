"""Link keys, and the WireGuard preshared keys that follow from them for a pair of tasks. No I/O here.

A link key is one secret for all tasks on a link. It is stored nowhere: whoever has the seed of all link keys derives
it from the key's name and its epoch, by HKDF-SHA256 (RFC 5869), and the nodes on the link are given it sealed.

A pair of tasks gets a preshared key of its own, by HKDF-SHA256 too, in which both public keys stand, so that what one
pair uses opens nothing of another pair's. In WireGuard it is mixed into every handshake (Donenfeld, "WireGuard", NDSS
2017, sections 5.2 and 5.4.3): who steals a task's private key, or computes it some day from the public one, still
reads nothing that was recorded, without the link key.

WireGuard takes one preshared key for a pair of peers, and two services may be linked in both directions, with a link
key each. Then all link keys between the two services go into one: their secrets, in the order of their names, are the
input keying material, one after the other (as several secrets are joined in NIST SP 800-56C rev. 2, section 2, and
draft-ietf-tls-hybrid-design, section 3.3), and their names stand in `info`. Each secret has 32 bytes, so the joined
ones can be taken apart in one way only, and who lacks one of them lacks the key.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mesh.errors import Terminal
from mesh.framing import framed
from mesh.keys import PublicKey
from mesh.secret import Secret

_SALT = b"linkwire preshared key 1"
"""Not secret: with a salt of its own, no other use of HKDF on the same secret gives the same keys (RFC 5869, 3.1)."""
_SEED_SALT = b"linkwire link key 1"


class LinkSeed(Secret):
    """What all link keys of a cluster are derived from."""

    __slots__ = ()

    WHAT = "link key seed"


class LinkKey(Secret):
    """A link key's secret of one epoch: 32 bytes, the same for every task on its links."""

    __slots__ = ()

    WHAT = "link key"


class PresharedKey(Secret):
    """What WireGuard is given for one pair of peers."""

    __slots__ = ()

    WHAT = "preshared key"


def link_key(seed: LinkSeed, cluster: str, name: str, epoch: int) -> LinkKey:
    """The secret of a link key in an epoch; another name, epoch or cluster gives one that tells nothing of this one.

    Args:
        seed: of all link keys.
        cluster: Swarm's cluster id.
        name: the link key's (`mesh.labels.key_name`).
        epoch: which of its secrets.
    """
    info = framed("linkwire link key 1", cluster, name, epoch)
    return LinkKey(HKDF(SHA256(), LinkKey.SIZE, _SEED_SALT, info).derive(seed.raw))


def preshared_key(secret: LinkKey, one: PublicKey, other: PublicKey, link: str) -> PresharedKey:
    """The key of a pair of tasks on one link; the same on both sides.

    Args:
        secret: the link key's.
        one: one task's public key.
        other: the other's.
        link: the link key's name.

    Raises:
        Terminal: both public keys are the same.
    """
    return combined_key([(link, secret)], one, other)


def combined_key(keys: Iterable[tuple[str, LinkKey]], one: PublicKey, other: PublicKey) -> PresharedKey:
    """The key of a pair of tasks whose services share one or more link keys, whoever links to whom.

    Args:
        keys: name and secret of every link key between the two services, in any order; one that is named twice
            counts once.
        one: one task's public key.
        other: the other's.

    Raises:
        Terminal: there is no link key, one name has two secrets, or both public keys are the same.
    """
    by_name: dict[str, LinkKey] = {}
    for name, secret in keys:
        if by_name.setdefault(name, secret) != secret:
            raise Terminal(f"the link key {name!r} has two secrets")
    if not by_name:
        raise Terminal("no link key to derive a preshared key from")
    if one == other:
        raise Terminal("a preshared key is for two peers, and these are the same")
    names = sorted(by_name)
    first, second = sorted((one, other))
    info = framed("linkwire preshared key 1", first.raw, second.raw, len(names), *names)
    material = b"".join(by_name[name].raw for name in names)
    return PresharedKey(HKDF(SHA256(), PresharedKey.SIZE, _SALT, info).derive(material))


Derived = dict[PublicKey, dict[PublicKey, tuple[tuple[tuple[str, LinkKey], ...], PresharedKey]]]
"""Task -> peer -> what a preshared key was derived from, and that key."""


class LinkKeys:
    """The link keys that a node holds, and the preshared keys that follow, each derived once.

    The link keys of one value never change; what was derived is handed on to the next one (`with_secrets`).
    """

    def __init__(self, secrets: Mapping[str, LinkKey] = MappingProxyType({}), derived: Derived | None = None) -> None:
        self._secrets = MappingProxyType(dict(secrets))
        self._derived: Derived = {} if derived is None else derived

    def with_secrets(self, secrets: Mapping[str, LinkKey]) -> LinkKeys:
        """The same with other link keys."""
        return LinkKeys(secrets, self._derived)

    def between(self, own: PublicKey, other: PublicKey, names: tuple[str, ...]) -> PresharedKey | None:
        """What two tasks use whose services share some link keys; None as long as one of these is not here.

        Args:
            own: the public key of this node's task.
            other: its peer's.
            names: the link keys', sorted; at least one.

        Raises:
            Terminal: no names, or the same public key twice.
        """
        if any(name not in self._secrets for name in names):
            return None
        keys = tuple((name, self._secrets[name]) for name in names)
        derived = self._derived.setdefault(own, {})
        kept = derived.get(other)
        if kept is None or kept[0] != keys:
            kept = derived[other] = keys, combined_key(keys, own, other)
        return kept[1]

    def keep_only(self, own: PublicKey, others: Collection[PublicKey]) -> None:
        """Forget what was derived for other peers of a task than these."""
        derived = self._derived.get(own, {})
        if len(derived) > len(others):
            for gone in derived.keys() - others:
                del derived[gone]
        if not derived:
            self._derived.pop(own, None)
