"""Two ways of doing the same, measured in turns, and what came of it as numbers."""

from __future__ import annotations

import math
import operator
import re
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

_T = TypeVar("_T")

CERTAIN = 0.95
"""Of the interval in which a median lies."""
MIN_CPU_SECONDS = 0.05
"""A shorter piece of work is repeated until it took this much."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured.

    Attributes:
        rounds: turns of each way, after one that is not counted.
        turns: the same of one TCP stream, which scatters: many short ones.
        seconds: of one TCP stream, in one turn.
        trips: turns of messages there and back.
        exchanges: of them, in one turn.
        many: peers of a task with many.
        most: peers of the device that is set, read and changed.
        endpoints: records in the store.
        puts: records put one by one.
        tasks: of the small cluster; the others have 10 and 100 times as many.
    """

    rounds: int
    turns: int
    seconds: float
    trips: int
    exchanges: int
    many: int
    most: int
    endpoints: int
    puts: int
    tasks: int


FULL = Effort(
    rounds=7,
    turns=100,
    seconds=0.1,
    trips=400,
    exchanges=50,
    many=100,
    most=1000,
    endpoints=10_000,
    puts=100,
    tasks=100,
)
QUICK = Effort(
    rounds=2, turns=2, seconds=0.1, trips=4, exchanges=20, many=10, most=50, endpoints=200, puts=5, tasks=10
)


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle and the ends of some measurements."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


class NotHere(Exception):  # noqa: N818 - read as a sentence
    """A group cannot be measured on this machine, and the text says why; that is no failure."""


_COMPARE: Final = {"<=": operator.le, "<": operator.lt, ">=": operator.ge, ">": operator.gt}
_AIM: Final = re.compile(r"(<=|<|>=|>) (\d+(?:\.\d+)?)(?: (\S.*))?")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        key: its name for programs; it does not change with the effort.
        what: what is measured, for people.
        reference: what it is measured against, for people.
        unit: of the measurements.
        better: whether a lower or a higher figure is the better one.
        ours: Linkwire's measurements, in the order in which they were made.
        theirs: the reference's; the n-th was made right after our n-th.
        aim: what is to be reached: `<= 1.2` is about the ratio's median; with the row's unit, `<= 300 MiB`, about the
            median of our own figures; none if empty. Also `<`, `>=`, `>`.
        note: what a reader has to know to read the figures, for people.
        size: how large what was measured is (tasks, peers, devices), to plot the figures against; rows with sizes
            whose keys are alike but for a last `.ten`, `.hundred`, `.thousand` or `.123` are one curve.
        base: the size of the reference, where that is the same thing in another size.

    Raises:
        ValueError: The aim cannot be checked.
    """

    key: str
    what: str
    reference: str
    unit: str
    better: Literal["lower", "higher"]
    ours: list[float]
    theirs: list[float]
    aim: str = ""
    note: str = ""
    size: int | None = None
    base: int | None = None

    def __post_init__(self) -> None:
        found = _AIM.fullmatch(self.aim)
        if self.aim and (found is None or found[3] not in {None, self.unit}):
            raise ValueError(f"{self.key}: an aim is `<= 1.2` or `<= 1.2 {self.unit}`, not `{self.aim}`")

    @property
    def limit(self) -> float | None:
        """What the ratio is not to exceed, or fall short of; None where no aim is about the ratio."""
        found = _AIM.fullmatch(self.aim)
        return float(found[2]) if found is not None and found[3] is None else None

    @property
    def met(self) -> bool | None:
        """Whether the aim is reached, by the median; None where there is none."""
        found = _AIM.fullmatch(self.aim)
        if found is None:
            return None
        figure = statistics.median(self.ratios if found[3] is None else self.ours)
        return bool(_COMPARE[found[1]](figure, float(found[2])))

    @property
    def ratios(self) -> list[float]:
        """Ours to theirs, turn by turn: what else the machine did meanwhile falls on both."""
        return [ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=True)]

    @property
    def interval(self) -> tuple[float, float] | None:
        """Where the ratio's median lies, with 95 % certainty; None where there are too few turns to say."""
        return interval(self.ratios)


def interval(values: Iterable[float]) -> tuple[float, float] | None:
    """Return between which of the values their median lies, with a certainty of CERTAIN at least; None for too few.

    As many of them are below the median as of so many throws of a coin show its one side: nothing is assumed of how
    they scatter.
    """
    ordered = sorted(values)
    outside, count = 0, len(ordered)
    beyond = (1 - CERTAIN) / 2 * 2**count  # of the throws, at either end
    for rank in range(count // 2):
        outside += math.comb(count, rank)
        if outside > beyond:
            return (ordered[rank - 1], ordered[count - rank]) if rank else None
    return None


def alternate(rounds: int, ours: Callable[[], float], theirs: Callable[[], float]) -> tuple[list[float], list[float]]:
    """Call the two in turns. The first turn of each warms up and is not counted."""
    turns = [(ours(), theirs()) for _ in range(rounds + 1)][1:]
    return [mine for mine, _ in turns], [other for _, other in turns]


def crosswise(turns: int, ours: Callable[[], float], theirs: Callable[[], float]) -> tuple[list[float], list[float]]:
    """The same, each second turn theirs first (A B B A): what drifts, or is left for the next, falls on both."""
    mine, other = in_turns(turns, {"ours": ours, "theirs": theirs}).values()
    return mine, other


def in_turns(turns: int, ways: Mapping[str, Callable[[], _T]]) -> dict[str, list[_T]]:
    """The same with several: every second turn backwards, each as often the first as any (ABC ACB BCA BAC CAB CBA).

    Else what a way leaves for the next, as warm caches, would fall on the same one each time.
    """
    found: dict[str, list[_T]] = {name: [] for name in ways}
    names = [*ways]
    for turn in range(turns + 1):
        first = turn // 2 % len(names) if len(names) > 2 else 0
        order = names[first:] + names[:first]
        for name in order if turn % 2 else reversed(order):
            found[name].append(ways[name]())
    return {name: results[1:] for name, results in found.items()}


def timed(work: Callable[[], object]) -> float:
    """Milliseconds by the clock."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def cpu(work: Callable[[], object]) -> float:
    """Milliseconds of this thread's CPU for one call."""
    calls = 0
    began = time.thread_time()
    while True:
        work()
        calls += 1
        spent = time.thread_time() - began
        if spent >= MIN_CPU_SECONDS:
            return spent / calls * 1000
