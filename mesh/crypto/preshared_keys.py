"""Link keys, and the WireGuard preshared keys derived from them for pairs of tasks. No I/O here.

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

from mesh.crypto.framing import framed
from mesh.crypto.keys import PublicKey
from mesh.crypto.secret import Secret
from mesh.errors import Terminal

_SALT = b"linkwire preshared key 1"
"""Not secret: with a salt of its own, no other use of HKDF on the same secret gives the same keys (RFC 5869, 3.1)."""
_SEED_SALT = b"linkwire link key 1"


class LinkSeed(Secret):
    """Seed that all link keys of a cluster are derived from."""

    __slots__ = ()

    WHAT = "link key seed"


class LinkKey(Secret):
    """Secret of a link key in one epoch: 32 bytes, the same for every task on its links."""

    __slots__ = ()

    WHAT = "link key"


class PresharedKey(Secret):
    """WireGuard preshared key of one pair of peers."""

    __slots__ = ()

    WHAT = "preshared key"


def link_key(seed: LinkSeed, cluster: str, name: str, epoch: int) -> LinkKey:
    """Derive the secret of a link key in an epoch; that of another name, epoch or cluster reveals nothing about it.

    Args:
        seed: the cluster's.
        cluster: Swarm's cluster id.
        name: the link key's (`mesh.model.labels.link_labels.key_name`).
        epoch: the number of the secret.
    """
    info = framed("linkwire link key 1", cluster, name, epoch)
    return LinkKey(HKDF(SHA256(), LinkKey.SIZE, _SEED_SALT, info).derive(seed.raw))


def preshared_key(keys: Iterable[tuple[str, LinkKey]], one: PublicKey, other: PublicKey) -> PresharedKey:
    """Derive the key of a pair of tasks whose services share one or more link keys, in either direction.

    Args:
        keys: name and secret of every link key between the two services, in any order; a repeated one
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
        raise Terminal("a preshared key needs two peers, and these are the same")
    names = sorted(by_name)
    first, second = sorted((one, other))
    info = framed("linkwire preshared key 1", first.raw, second.raw, len(names), *names)
    material = b"".join(by_name[name].raw for name in names)
    return PresharedKey(HKDF(SHA256(), PresharedKey.SIZE, _SALT, info).derive(material))


Derived = dict[PublicKey, dict[PublicKey, tuple[tuple[tuple[str, LinkKey], ...], PresharedKey]]]
"""Task -> peer -> the link keys that a preshared key was derived from, and that key."""


class LinkKeys:
    """Link keys that a node holds, and the preshared keys of its tasks, each derived once.

    The link keys of an instance never change; the next one (`with_secrets`) shares the derived keys.
    """

    def __init__(self, secrets: Mapping[str, LinkKey] = MappingProxyType({}), derived: Derived | None = None) -> None:
        self._secrets = MappingProxyType(dict(secrets))
        self._derived: Derived = {} if derived is None else derived

    def with_secrets(self, secrets: Mapping[str, LinkKey]) -> LinkKeys:
        """Return an instance with other link keys and the same derived keys."""
        return LinkKeys(secrets, self._derived)

    def between(self, own: PublicKey, other: PublicKey, names: tuple[str, ...]) -> PresharedKey | None:
        """Return the preshared key of two tasks; None while this node lacks one of their link keys.

        Args:
            own: public key of this node's task.
            other: public key of its peer.
            names: of the link keys that their services share, sorted; at least one.

        Raises:
            Terminal: no names, or the same public key twice.
        """
        if any(name not in self._secrets for name in names):
            return None
        keys = tuple((name, self._secrets[name]) for name in names)
        derived = self._derived.setdefault(own, {})
        cached = derived.get(other)
        if cached is None or cached[0] != keys:
            cached = derived[other] = keys, preshared_key(keys, own, other)
        return cached[1]

    def drop_stale(self, own: PublicKey, peers: Collection[PublicKey]) -> None:
        """Forget the keys derived for all peers of a task but these."""
        derived = self._derived.get(own, {})
        if len(derived) > len(peers):
            for gone in derived.keys() - peers:
                del derived[gone]
        if not derived:
            self._derived.pop(own, None)
