"""Layered layout of a graph: columns from consumers to providers, few crossings. Pure.

The steps are Sugiyama's: break circles, put each service one column right of its consumers, let long links pass
through empty places of the columns between, and order each column by the middle of its neighbours.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

SWEEPS = 6
"""Passes over all columns that reorder them; more hardly ever change anything."""

Slot = str | tuple[int, int]
"""A service, or for the link of that number the empty place in that column."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Places of services, and the way of each link through the columns."""

    columns: tuple[tuple[Slot, ...], ...]
    ways: tuple[tuple[Slot, ...], ...]
    """For each link its consumer, empty places, and its provider; from right to left where it closes a circle."""


def layout(services: Sequence[str], links: Sequence[tuple[str, str]]) -> Layout:
    """Lay out services and links, each a consumer and a provider; a link to itself stays in its place."""
    forward = _without_circles(services, links)
    column = _columns(services, [forward[index] for index in sorted(forward)])
    ways: list[tuple[Slot, ...]] = []
    places: defaultdict[int, list[Slot]] = defaultdict(list)
    for service in services:
        places[column[service]].append(service)
    for index, (consumer, provider) in enumerate(links):
        first, last = forward.get(index, (consumer, provider))
        between = [(index, each) for each in range(column[first] + 1, column[last])]
        for slot in between:
            places[slot[1]].append(slot)
        way: list[Slot] = [first, *between, last]
        ways.append(tuple(way if first == consumer else reversed(way)))
    columns = [places[index] for index in range(max(places, default=-1) + 1)]
    _order(columns, ways)
    return Layout(tuple(map(tuple, columns)), tuple(ways))


def _without_circles(services: Iterable[str], links: Sequence[tuple[str, str]]) -> dict[int, tuple[str, str]]:
    """Return the links by number, those that close a circle turned round, those from a service to itself left out."""
    leaving: defaultdict[str, list[int]] = defaultdict(list)
    for index, (consumer, provider) in enumerate(links):
        if consumer != provider:
            leaving[consumer].append(index)
    forward: dict[int, tuple[str, str]] = {}
    state: dict[str, bool] = {}  # False: on the way that is being walked; True: done
    called = {provider for consumer, provider in links if consumer != provider}
    for start in sorted(services, key=lambda service: (service in called, service)):
        if start in state:
            continue
        state[start] = False
        walk = [(start, iter(leaving[start]))]
        while walk:
            service, remaining = walk[-1]
            number = next(remaining, None)
            if number is None:
                state[service] = True
                walk.pop()
                continue
            provider = links[number][1]
            closes = state.get(provider) is False
            forward[number] = (provider, service) if closes else (service, provider)
            if provider not in state:
                state[provider] = False
                walk.append((provider, iter(leaving[provider])))
    return forward


def _columns(services: Iterable[str], links: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Put each service right of all that link to it; there are no circles."""
    waits: defaultdict[str, int] = defaultdict(int)
    leaving: defaultdict[str, list[str]] = defaultdict(list)
    for first, last in links:
        waits[last] += 1
        leaving[first].append(last)
    column = dict.fromkeys(services, 0)
    ready = [service for service in column if not waits[service]]
    while ready:
        service = ready.pop()
        for other in leaving[service]:
            column[other] = max(column[other], column[service] + 1)
            waits[other] -= 1
            if not waits[other]:
                ready.append(other)
    return column


def _order(columns: list[list[Slot]], ways: Iterable[tuple[Slot, ...]]) -> None:
    """Reorder each column by the middle of its neighbours in the column before, then in the one after."""
    beside: defaultdict[Slot, list[Slot]] = defaultdict(list)
    for way in ways:
        for one, other in pairwise(way):
            if one != other:
                beside[one].append(other)
                beside[other].append(one)
    place: dict[Slot, tuple[int, int]] = {}
    for number, column in enumerate(columns):
        place |= {slot: (number, row) for row, slot in enumerate(column)}
    for sweep in range(SWEEPS):
        step = -1 if sweep % 2 == 0 else 1
        for number in range(len(columns)) if step < 0 else reversed(range(len(columns))):
            middles = {slot: _middle(slot, beside[slot], place, number + step) for slot in columns[number]}
            columns[number].sort(key=middles.__getitem__)
            place |= {slot: (number, row) for row, slot in enumerate(columns[number])}


def _middle(slot: Slot, beside: Sequence[Slot], place: Mapping[Slot, tuple[int, int]], column: int) -> float:
    rows = [place[other][1] for other in beside if place[other][0] == column]
    return sum(rows) / len(rows) if rows else float(place[slot][1])
