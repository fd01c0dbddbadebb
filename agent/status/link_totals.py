"""Totals of links, and the worst of their pairs of tasks: an answer that does not grow with the pairs. Pure.

A thousand links of ten tasks at either end have a hundred thousand pairs. Nobody reads so many, and nearly all are
well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from mesh.model.device_readings import PeerReading

WELL = frozenset({"connected", "idle"})
"""States of pairs that nobody has to look at."""
MOST_OF_LINK, MOST = 3, 60
"""Pairs that are named of one link, and of all."""
_WORST_FIRST = ("broken", "unwired", "unknown")
_MOST_BYTES = 2**64 - 1
"""A reader takes no more, nor does JSON's writer; a node may say that it counted so much for each pair."""
_AGE, _RECEIVED, _SENT = attrgetter("handshake_age"), attrgetter("rx_bytes"), attrgetter("tx_bytes")


@dataclass(frozen=True, slots=True)
class IllPair:
    """A pair that is not well; its tasks by their places in `Plan.ends`."""

    state: str
    consumer: int
    provider: int
    peer: PeerReading | None
    lasting: float | None
    """Seconds for which it is broken."""
    error: str | None


@dataclass(slots=True)
class Totals:
    """Totals of one link's pairs, or of those whose consumers are on one node."""

    received: int = 0
    sent: int = 0
    handshake_age: float | None = None
    """Of the last handshake of any pair; None: there was none."""
    ill: list[IllPair] = field(default_factory=list)
    """The worst first, MOST_OF_LINK at most."""

    def count(self, seen: Sequence[PeerReading | None]) -> None:
        """Add readings of pairs; None for a pair without one."""
        peers = [peer for peer in seen if peer is not None]
        self.received += sum(map(_RECEIVED, peers))
        self.sent += sum(map(_SENT, peers))
        self._see(age for age in map(_AGE, peers) if age is not None)

    def name(self, ill: Iterable[IllPair]) -> None:
        """Take the worst of some pairs that are not well."""
        self.ill = sorted((*self.ill, *ill), key=_rank)[:MOST_OF_LINK]

    def add(self, other: Totals) -> None:
        """Add those of other pairs of the link."""
        self.received += other.received
        self.sent += other.sent
        self._see(() if other.handshake_age is None else (other.handshake_age,))
        if other.ill:
            self.name(other.ill)

    def _see(self, ages: Iterable[float]) -> None:
        last = min(ages, default=None)
        if last is not None and (self.handshake_age is None or last < self.handshake_age):
            self.handshake_age = last

    def described(self) -> dict[str, Any]:
        """Return them as JSON, without the pairs."""
        received, sent = min(self.received, _MOST_BYTES), min(self.sent, _MOST_BYTES)
        return {"rx": received, "tx": sent, "handshake_age": self.handshake_age}


def joined(links: int, measured: Iterable[Mapping[int, Totals]]) -> list[Totals]:
    """Return the totals of each link, by its place in the plan.

    Args:
        links: how many there are.
        measured: those of each node, by the link's place.
    """
    found = [Totals() for _ in range(links)]
    for of_node in measured:
        for number, totals in of_node.items():
            found[number].add(totals)
    return found


def named(totals: Iterable[Totals]) -> Iterator[Sequence[IllPair]]:
    """Yield the pairs to name of each link, MOST in all: of the links with the worst pairs."""
    listed = list(totals)
    ill = [number for number, one in enumerate(listed) if one.ill]
    order = sorted(ill, key=lambda number: _rank(listed[number].ill[0]))
    room, chosen = MOST, dict[int, Sequence[IllPair]]()
    for number in order:
        chosen[number] = listed[number].ill[:room]
        room -= len(chosen[number])
    return (chosen.get(number, ()) for number in range(len(listed)))


def _rank(pair: IllPair) -> int:
    return _WORST_FIRST.index(pair.state)
