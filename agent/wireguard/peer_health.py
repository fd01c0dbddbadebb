"""Health of a peer, judged from two readings of its counters: whether what was sent to it is answered. Pure.

WireGuard has no state "connected": a session is made when there is something to send. So silence alone says nothing,
and only what has to be answered tells. Data is answered within KEEPALIVE_TIMEOUT_S, by data or by a keepalive, also
where it goes in one direction only; a handshake's initiation at once. A keepalive is not answered.

An initiation of the other end is no answer: it comes in as well where nothing gets out. It is told from all else by
its size. A response makes a handshake, and the time of the last handshake is that of a completed one. Nor is one
keepalive of a peer that is broken already: it may be the persistent one, which comes every 25 s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PeerState = Literal["connected", "idle", "broken"]

# WireGuard paper, section 6.5, and drivers/net/wireguard/messages.h, in seconds
REKEY_AFTER_S = 120
"""A session of this age is renewed when something is sent (REKEY_AFTER_TIME)."""
REJECT_AFTER_S = 180
"""A session of this age is dead (REJECT_AFTER_TIME)."""
REKEY_TIMEOUT_S = 5
"""An initiation without an answer is sent again (REKEY_TIMEOUT)."""
REKEY_ATTEMPT_S = 90
"""Initiations are given up, until there is something to send again (REKEY_ATTEMPT_TIME)."""
KEEPALIVE_TIMEOUT_S = 10
"""Whoever has received data, and sent nothing since, sends a keepalive (KEEPALIVE_TIMEOUT)."""
KEEPALIVE_BYTES = 32
"""A keepalive: the header of 16 bytes, and a tag of 16 (messages.h, message_data). The smallest datum has 16 more."""
INITIATION_BYTES = 148
"""A handshake's initiation (messages.h, message_handshake_initiation)."""
_ONLY_INITIATIONS = frozenset(INITIATION_BYTES * count for count in (1, 2, 3))
"""No data are of these sizes: they are multiples of 16, as four initiations are, but for packets of the device's MTU,
which are larger. Four take 15 s."""
_ONE_KEEPALIVE = frozenset(KEEPALIVE_BYTES + INITIATION_BYTES * count for count in (0, 1, 2))
"""One keepalive, alone or beside initiations."""
ANSWERS_APART_S = 2 * KEEPALIVE_TIMEOUT_S
"""Two keepalives within this time are answers: persistent ones are further apart (peer_cache.KEEPALIVE)."""

MARGIN_S = 0.5
"""Beyond KEEPALIVE_TIMEOUT_S for the way there and back, and the kernel's timers, which are 0.25 s late at most."""
ANSWER_S = KEEPALIVE_TIMEOUT_S + MARGIN_S
"""Seconds in which whatever has to be answered is answered."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A peer's counters at one moment.

    Attributes:
        at: by the monotonic clock.
        rx_bytes: received from it, handshakes included.
        tx_bytes: sent to it, likewise.
        handshake: time of the last one, by any clock; 0 for none.
    """

    at: float
    rx_bytes: int
    tx_bytes: int
    handshake: float


@dataclass(frozen=True, slots=True)
class Health:
    """Knowledge of a peer after a reading.

    Attributes:
        last: the reading.
        sent_at: the last reading that showed something sent which has to be answered; None for none so far.
        unanswered_since: the first reading that showed something sent, none of which was answered since; None where
            nothing is awaited.
        kept_at: while it is broken, the last reading that showed one keepalive; else None.
    """

    last: Reading
    sent_at: float | None = None
    unanswered_since: float | None = None
    kept_at: float | None = None

    @property
    def broken_for(self) -> float | None:
        """Seconds since something was sent to which an answer is overdue; None where none is."""
        if self.unanswered_since is None or self.last.at - self.unanswered_since < ANSWER_S:
            return None
        return self.last.at - self.unanswered_since


def follow(before: Health | None, reading: Reading) -> Health:
    """Return what is known of a peer after one more reading.

    Args:
        before: after the reading before; None for a peer that was not read before.
        reading: later than that one.
    """
    last = before.last if before is not None else None
    if before is None or last is None or _began_anew(last, reading):
        # What was sent before the first reading may have been answered before it, unless nothing ever came.
        answered = reading.handshake or reading.rx_bytes % INITIATION_BYTES
        sent = reading.tx_bytes > KEEPALIVE_BYTES and not answered
        return Health(reading, reading.at if sent else None, reading.at if sent else None)
    received, kept_at = reading.rx_bytes - last.rx_bytes, before.kept_at
    heard = reading.handshake > last.handshake or (received > 0 and received not in _ONLY_INITIATIONS)
    if before.broken_for is not None and reading.handshake <= last.handshake and received in _ONE_KEEPALIVE:
        heard = kept_at is not None and reading.at - kept_at < ANSWERS_APART_S
        kept_at = reading.at
    # One keepalive may be sent in each KEEPALIVE_TIMEOUT_S, and readings of a busy node may lie further apart.
    keepalives = KEEPALIVE_BYTES * (1 + int((reading.at - last.at) // KEEPALIVE_TIMEOUT_S))
    sent = reading.tx_bytes - last.tx_bytes > keepalives
    sent_at = reading.at if sent else before.sent_at
    if heard:
        return Health(reading, sent_at)
    unanswered_since = before.unanswered_since
    if sent and unanswered_since is None:
        unanswered_since = reading.at
    if sent_at is not None and reading.at - sent_at > REKEY_ATTEMPT_S:
        unanswered_since = None  # nobody tries any more: nothing is awaited
    return Health(reading, sent_at, unanswered_since, kept_at if unanswered_since is not None else None)


def state(handshake_age: float | None, broken_for: float | None) -> PeerState:
    """Name a peer's state.

    Args:
        handshake_age: seconds since the last handshake, None for none.
        broken_for: as in Health.

    Returns:
        `broken` where answers are overdue; else `connected` while there is a session, and `idle` where there is none,
        since nobody sends anything.
    """
    if broken_for is not None:
        return "broken"
    return "connected" if handshake_age is not None and handshake_age < REJECT_AFTER_S else "idle"


def _began_anew(last: Reading, reading: Reading) -> bool:
    """Tell whether the peer was made again in between: its counters began anew."""
    return reading.rx_bytes < last.rx_bytes or reading.tx_bytes < last.tx_bytes
