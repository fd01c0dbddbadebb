"""Rates of links, from two readings of the nodes' counters. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from compose_ext.observe.traffic.graph_text import badness
from compose_ext.swarm.link_states import Answer, Link

LEAST_S = 1.0
"""Between two readings that give a rate."""
OLD_S = 60.0
"""A reading that is older tells no rate of now: its node is silent."""
SORTS = ("rate", "received", "sent", "refused", "state", "name")


@dataclass(frozen=True, slots=True)
class Rate:
    """A link's traffic, as its consumers' nodes measured it."""

    consumer: str
    provider: str
    state: str
    """The worst of its pairs'."""
    pairs: int
    received: float | None
    """Bytes a second that the consumers receive; None: not measured (yet)."""
    sent: float | None
    refused: float | None
    """Packets a second that either end refused."""
    as_of: float | None
    """Seconds since the oldest reading that is in it."""

    @property
    def total(self) -> float:
        """Return the bytes a second in both directions, -1 where there is no rate."""
        return -1.0 if self.received is None or self.sent is None else self.received + self.sent


@dataclass(slots=True)
class _Counter:
    """A counter that only grows, read now and then."""

    at: float
    values: tuple[int, ...]
    rates: tuple[float, ...] | None = None

    def read(self, at: float, values: tuple[int, ...]) -> None:
        """Take a reading; one that is not newer is the same one again."""
        seconds = at - self.at
        if any(new < old for new, old in zip(values, self.values, strict=True)):
            self.at, self.values, self.rates = at, values, None  # another device, or another task
        elif seconds >= LEAST_S:
            self.rates = tuple((new - old) / seconds for new, old in zip(values, self.values, strict=True))
            self.at, self.values = at, values


@dataclass(slots=True)
class Meter:
    """Meter of all links, which remembers the readings before."""

    _counters: dict[tuple[str, ...], _Counter] = field(default_factory=dict)

    def measure(self, answer: Answer, at: float) -> tuple[Rate, ...]:
        """Return the rates since the reading before; none is measured at the first one.

        Args:
            answer: what the agent answers.
            at: when it did, in seconds of one clock.
        """
        counters: dict[tuple[str, ...], _Counter] = {}
        links: dict[tuple[str, str], list[tuple[Link, Mapping[str, Any]]]] = {}
        for link, raw in zip(answer.links, answer.raw["links"], strict=True):
            links.setdefault((link.consumer, link.provider), []).append((link, raw))
        rates = tuple(self._rate(ends, same, at, counters) for ends, same in sorted(links.items()))
        self._counters = counters
        return rates

    def _rate(
        self,
        ends: tuple[str, str],
        same: Iterable[tuple[Link, Mapping[str, Any]]],
        at: float,
        counters: dict[tuple[str, ...], _Counter],
    ) -> Rate:
        # Several links of a consumer to one provider have the same pairs of tasks, and the same counters.
        link, raw = next(iter(same))
        received: list[float] = []
        sent: list[float] = []
        ages = [pair.get("as_of") for pair in raw["pairs"]]
        for pair, age in zip(link.pairs, ages, strict=True):
            if not isinstance(age, int | float) or age > OLD_S:
                continue
            key = (*ends, pair.consumer_task, pair.provider_task)
            rates = self._read(key, at - age, (pair.received, pair.sent), counters)
            if rates is not None:
                received.append(rates[0])
                sent.append(rates[1])
        refused = None if link.refused is None else self._read(ends, at, (link.refused,), counters)
        return Rate(
            *ends,
            min((pair.state for pair in link.pairs), key=badness, default="no tasks")
            if link.allowed
            else "not allowed",
            len(link.pairs),
            sum(received) if received else None,
            sum(sent) if sent else None,
            refused[0] if refused else None,
            max((age for age in ages if isinstance(age, int | float)), default=None),
        )

    def _read(
        self,
        key: tuple[str, ...],
        at: float,
        values: tuple[int, ...],
        counters: dict[tuple[str, ...], _Counter],
    ) -> tuple[float, ...] | None:
        counter = counters[key] = self._counters.get(key) or _Counter(at, values)
        counter.read(at, values)
        return counter.rates


def ordered(rates: Iterable[Rate], sort: str) -> list[Rate]:
    """Order rates by one of SORTS, the largest or worst first."""
    listed = sorted(rates, key=lambda rate: (rate.consumer, rate.provider))
    match sort:
        case "name":
            return listed
        case "state":
            return sorted(listed, key=lambda rate: badness(rate.state))
        case "rate":
            return sorted(listed, key=lambda rate: -rate.total)
        case _:
            return sorted(
                listed, key=lambda rate: -(getattr(rate, sort) if getattr(rate, sort) is not None else -1.0)
            )
