"""Places of services in the graph: a block a stack, consumers left of their providers. Pure.

A layout by forces takes a browser seconds for a thousand services, and moves everything when one is added. This one
gives the same places for the same services, whatever their states.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

COLUMN, ROW = 190, 64
"""Distances of two services."""
GAP = 110
"""Between two blocks; the stack's name stands in it."""
_TALLEST = 10
"""Services in a column; more stand in a second one beside it."""
_WIDE = 1.5
"""Width of the whole by its height, about that of a screen."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a service stands."""

    stack: str
    x: int
    y: int


@dataclass(frozen=True, slots=True)
class Places:
    """Places of all services, and the upper left corner of each stack's block."""

    services: dict[str, Place]
    stacks: dict[str, tuple[int, int]]


def stack_of(service: str) -> str:
    """Return the part of a service's name that `docker stack deploy` puts before it; empty where there is none."""
    return service.partition("_")[0] if "_" in service else ""


def placed(services: Sequence[str], links: Iterable[tuple[str, str]]) -> Places:
    """Give each service its place.

    Args:
        services: names, sorted.
        links: consumer and provider.
    """
    members: dict[str, list[str]] = defaultdict(list)
    for name in services:
        members[stack_of(name)].append(name)
    inner: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for consumer, provider in links:
        if stack_of(consumer) == stack_of(provider):
            inner[stack_of(consumer)].append((consumer, provider))
    blocks = {stack: list(_block(names, inner[stack])) for stack, names in members.items()}
    found: dict[str, Place] = {}
    corners = dict(_shelves({stack: _size(block) for stack, block in blocks.items()}))
    for stack, block in blocks.items():
        left, top = corners[stack]
        for name, column, row in block:
            found[name] = Place(stack, left + column * COLUMN, top + row * ROW)
    return Places(found, {stack: corner for stack, corner in sorted(corners.items()) if stack})


def _block(names: Sequence[str], links: Sequence[tuple[str, str]]) -> Iterator[tuple[str, int, int]]:
    """Yield each service of a stack with its column and row."""
    ranks = _ranks(names, links)
    columns: dict[int, list[str]] = defaultdict(list)
    for name in names:
        columns[ranks[name]].append(name)
    consumers: dict[str, list[str]] = defaultdict(list)
    for consumer, provider in links:
        consumers[provider].append(consumer)
    rows: dict[str, int] = {}
    column = 0
    for rank in sorted(columns):
        # Beside its consumers, so that few lines cross.
        ordered = sorted(columns[rank], key=lambda name: (_middle(rows, consumers[name]), name))
        for start in range(0, len(ordered), _TALLEST):
            for row, name in enumerate(ordered[start : start + _TALLEST]):
                rows[name] = row
                yield name, column, row
            column += 1


def _middle(rows: dict[str, int], names: Sequence[str]) -> float:
    known = [rows[name] for name in names if name in rows]
    return sum(known) / len(known) if known else 0.0


def _ranks(names: Sequence[str], links: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Return how many links lead to each service at most; of a circle the first by name counts as its beginning."""
    providers: dict[str, set[str]] = defaultdict(set)
    waiting = dict.fromkeys(names, 0)
    for consumer, provider in set(links):
        if consumer != provider:
            providers[consumer].add(provider)
            waiting[provider] += 1
    ranks = dict.fromkeys(names, 0)
    ready = [name for name in names if not waiting[name]]
    left = dict.fromkeys(name for name in names if waiting[name])
    while ready or left:
        if not ready:
            first = next(iter(left))
            del left[first]
            ready = [first]
        name = ready.pop()
        for provider in sorted(providers[name]):
            if provider in left:
                ranks[provider] = max(ranks[provider], ranks[name] + 1)
                waiting[provider] -= 1
                if not waiting[provider]:
                    del left[provider]
                    ready.append(provider)
    return ranks


def _size(block: Sequence[tuple[str, int, int]]) -> tuple[int, int]:
    width = max(column for _, column, _ in block) + 1
    height = max(row for _, _, row in block) + 1
    return width * COLUMN + GAP, height * ROW + GAP


def _shelves(sizes: dict[str, tuple[int, int]]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield each block's corner: the tallest first, from left to right, in lines."""
    widest = max((width for width, _ in sizes.values()), default=0)
    across = max(widest, math.sqrt(_WIDE * sum(width * height for width, height in sizes.values())))
    left = top = tallest = 0
    for stack, (width, height) in sorted(sizes.items(), key=lambda item: (-item[1][1], item[0])):
        if left and left + width > across:
            left, top, tallest = 0, top + tallest, 0
        yield stack, (left, top)
        left, tallest = left + width, max(tallest, height)
