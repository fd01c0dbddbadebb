"""From what was meant before to what is meant now: what the peers of one interface need, by the two alone. Pure.

An interface that was read back as it was meant before needs no second reading to know what a change of a record means
for its device: it is the difference of the two. It equals what `agent.diff` finds on such a device, and does no harm
on another: a peer whose record is the same is not named at all, wherever it has roamed to; one that has gone is not
made half (`update_only`); one is only ever removed by its own key.
"""

from __future__ import annotations

from dataclasses import replace

from agent.diff import upsert
from mesh.wgtypes import InterfaceConfig, PeerChange, PeerConfig


def advance(before: InterfaceConfig, after: InterfaceConfig) -> tuple[PeerChange, ...] | None:
    """The changes of peers that turn a device that is as `before` into one as `after`, which rests on everything.

    Returns:
        None where the two do not tell: something other than peers, rules and names differs, or whether a peer is
        there depends on a preshared key that is not known.
    """
    if replace(before, peers=after.peers, policy=after.policy, hosts=after.hosts, answers=after.answers) != after:
        return None
    # By object: of thousands of peers nearly all are the very same ones, and a look at each costs more than all else.
    old, new = set(map(id, before.peers)), set(map(id, after.peers))
    gone = {peer.public_key: peer for peer in before.peers if id(peer) not in new}
    pairs = [(gone.pop(peer.public_key, None), peer) for peer in after.peers if id(peer) not in old]
    pairs = [(was, peer) for was, peer in pairs if was != peer]
    if any(peer.preshared_key is None for pair in pairs for peer in pair if peer is not None):
        return None
    removed = (PeerChange(public, remove=True) for public in sorted(gone))
    return *removed, *(upsert(peer) if was is None else _changed(was, peer) for was, peer in pairs)


def _changed(was: PeerConfig, peer: PeerConfig) -> PeerChange:
    surplus = bool(was.allowed_ips - peer.allowed_ips)
    return PeerChange(
        public_key=peer.public_key,
        endpoint=peer.endpoint if peer.endpoint != was.endpoint else None,
        allowed_ips=peer.allowed_ips if surplus or peer.allowed_ips - was.allowed_ips else None,
        replace_allowed_ips=surplus,
        preshared_key=peer.preshared_key if peer.preshared_key != was.preshared_key else None,
        keepalive=peer.keepalive if peer.keepalive != was.keepalive else None,
        update_only=True,
    )
