"""A walk over all calls of a program and the faults that each may have: which are made, and what came of them."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.support.effort import LONG
from tests.support.faults import logs
from tests.support.faults.fork_server import Supervised
from tests.support.faults.injection import KILLED, Fault
from tests.support.patience import slowness

SEED = int(os.environ.get("LINKWIRE_CHAOS_SEED") or 1)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Size of the short form.

    Attributes:
        error_runs: runs with faults that do not end the process.
        together: so many of them in one run.
        kill_runs: runs in each of which one call is the last.
    """

    error_runs: int
    together: int
    kill_runs: int


def until_nothing(left: Callable[[], list[str]], each: Callable[[], None], seconds: float) -> float:
    """Wait until a check names nothing; return the seconds that it took.

    Args:
        left: the check.
        each: called after each that named something.
        seconds: at most, more on a busy machine.
    """
    began = time.monotonic()
    while found := left():
        each()
        waited = time.monotonic() - began
        assert waited < seconds * slowness(), f"after {waited:.0f} s still: {', '.join(found)}"
        time.sleep(0.03)
    return time.monotonic() - began


class Walk:
    """All faults of one program's calls.

    Args:
        program: its name.
        recorded: its calls in a run without faults, each with the kinds of faults that it may have.

    Attributes:
        wrong: what went wrong.
        made: faults that were made.
        missed: faults whose call did not come, since threads came in another order.
    """

    def __init__(self, program: str, recorded: Sequence[tuple[str, tuple[str, ...]]]) -> None:
        self._program = program
        self._calls = Counter(operation for operation, _ in recorded)
        counts: Counter[str] = Counter()
        self._faults: list[Fault] = []
        for operation, kinds in recorded:
            counts[operation] += 1
            self._faults += [Fault(operation, counts[operation], kind) for kind in kinds]
        self.wrong: list[str] = []
        self.made = self.missed = self._runs = self._restarts = self._silent = 0
        self._slowest = 0.0

    def runs(self, sizes: Sizes) -> list[list[Fault]]:
        """Choose the runs: all faults, one a run; or a sample in which each operation is first of all."""
        if LONG:
            return [[fault] for fault in self._faults]
        choice = random.Random(SEED)  # noqa: S311 - a seed, so that a run can be made again
        shuffled = choice.sample(self._faults, len(self._faults))
        errors = [fault for fault in shuffled if fault.kind not in KILLED]
        seen: Counter[str] = Counter()
        turns = []
        for fault in errors:
            seen[fault.operation] += 1
            turns.append((seen[fault.operation], fault))
        errors = [fault for _, fault in sorted(turns, key=lambda turn: turn[0])]
        errors = errors[: sizes.error_runs * sizes.together]
        kills = [fault for fault in shuffled if fault.kind in KILLED][: sizes.kill_runs]
        batches = [errors[number :: sizes.error_runs] for number in range(sizes.error_runs)]
        return [batch for batch in batches if batch] + [[kill] for kill in kills]

    def note(self, faults: Sequence[Fault], wrong: Sequence[str], program: Supervised, slowest: float) -> None:
        """Note what came of one run."""
        names = "; ".join(map(str, faults))
        made = len(program.fired())
        self._runs += 1
        self._restarts += program.starts - 1
        self._silent += faults[0].kind not in KILLED and made > 0 and not logs.warns(program.log())
        self._slowest = max(self._slowest, slowest)
        self.made += made
        self.missed += len(faults) - made
        self.wrong += [f"{names}: {text}" for text in wrong]
        print(f"{self._runs}: {names}: {slowest:.2f} s, {program.starts} starts, {len(wrong)} wrong", flush=True)

    def summary(self, seconds: float) -> str:
        """Say what was walked, and what it cost."""
        return (
            f"{self._program}: {len(self._faults)} faults that {self._calls.total()} calls of {len(self._calls)} "
            f"operations may have: {self.made} made in {self._runs} runs, {self.missed} calls not come to, "
            f"{self._restarts} restarts, {self._silent} runs without a warning, slowest step {self._slowest:.1f} s, "
            f"{seconds:.0f} s in all (seed {SEED})"
        )
