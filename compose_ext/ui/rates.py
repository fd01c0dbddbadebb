"""Bytes a second of each pair, from the counters of two readings. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from compose_ext.swarm.link_states import Answer, Pair
from mesh.process.gc_tuning import gc_paused

_SAME_S = 0.5
"""Two readings that were written so close are one and the same status: the agent rounds its age to tenths."""


class Rate(NamedTuple):
    """One pair's counters, and how fast they grew."""

    written: float = 0.0
    """Seconds since 1970 when the node read the counters."""
    total_received: int = 0
    total_sent: int = 0
    received: float | None = None
    """Bytes a second; None: not known yet, or the counters began anew."""
    sent: float | None = None


_NOTHING = Rate()


@dataclass(frozen=True, slots=True)
class Rates:
    """The rates of all pairs."""

    pairs: Mapping[tuple[str, str], Rate] = field(default_factory=dict)

    def of(self, pair: Pair) -> Rate:
        """Return a pair's rate."""
        return self.pairs.get((pair.consumer_task, pair.provider_task), _NOTHING)

    @gc_paused()
    def after(self, answer: Answer, at: float) -> Rates:
        """Return the rates that follow from these and a newer answer.

        Args:
            answer: of the agent.
            at: seconds since 1970 when it was asked for.
        """
        found = {}
        for link, raw in zip(answer.links, answer.raw.get("links", ()), strict=True):
            for pair, raw_pair in zip(link.pairs, raw["pairs"], strict=True):
                age = raw_pair.get("as_of")
                written = at - age if isinstance(age, int | float) else at
                found[pair.consumer_task, pair.provider_task] = _next(self.of(pair), pair, written)
        return Rates(found)


def _next(before: Rate, pair: Pair, written: float) -> Rate:
    elapsed = written - before.written
    if before.written and elapsed < _SAME_S:
        return before
    if not before.written or pair.received < before.total_received or pair.sent < before.total_sent:
        return Rate(written, pair.received, pair.sent)
    received = round((pair.received - before.total_received) / elapsed, 1)
    sent = round((pair.sent - before.total_sent) / elapsed, 1)
    return Rate(written, pair.received, pair.sent, received, sent)
