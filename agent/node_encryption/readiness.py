"""Readiness of a node's peers: whether they answer, by the counters of its devices. Pure.

All of it goes by changes that were seen and by the monotonic clock: a wall clock that is set makes no peer unready.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agent.wireguard import peer_health
from agent.wireguard.peer_health import REJECT_AFTER_S, Health
from mesh.crypto.keys import PublicKey
from mesh.topology.wgtypes import Device, Peer


@dataclass(frozen=True, slots=True)
class Answering:
    """Knowledge of a peer after a reading.

    Attributes:
        health: whether what was sent to it is answered.
        since: time of its last handshake, by the monotonic clock; None for none.
    """

    health: Health
    since: float | None

    def is_ready(self, now: float) -> bool:
        """Tell whether packets reach the peer through the device: it has a session, and answers in it."""
        has_session = self.since is not None and now - self.since < REJECT_AFTER_S
        return has_session and self.health.broken_for is None


Readiness = Mapping[PublicKey, Answering]


def follow(before: Readiness, devices: Iterable[Device], now: float, wall: float) -> Readiness:
    """Return what is known of all peers after one more reading of the devices.

    Args:
        before: after the reading before; empty where there was none.
        devices: as read; no two have the same peer.
        now: by the monotonic clock.
        wall: by the clock that handshakes are dated by.
    """
    peers = (each for device in devices for each in device.peers.items())
    return {public: _follow(before.get(public), peer, now, wall) for public, peer in peers}


def _follow(before: Answering | None, peer: Peer, now: float, wall: float) -> Answering:
    handshake = peer.last_handshake or 0.0
    last = before.health if before is not None else None
    health = peer_health.follow(last, peer_health.Reading(now, peer.rx_bytes, peer.tx_bytes, handshake))
    if not handshake:
        since = None
    elif before is not None and last is not None and last.last.handshake == handshake:
        since = before.since
    else:
        # Seen for the first time: dated by the wall clock, which may have been set since.
        since = now - max(0.0, wall - handshake) if before is None else now
    return Answering(health, since)


def ready(readiness: Readiness, now: float) -> frozenset[PublicKey]:
    """Return the peers that answer."""
    return frozenset(public for public, answering in readiness.items() if answering.is_ready(now))
