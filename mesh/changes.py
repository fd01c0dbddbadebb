"""What changed in something that is kept up to date, as names, for who has seen an earlier state of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

LOGGED = 10
"""Names that are kept for each thing that there is: who follows closely asks for the last few."""


@dataclass(frozen=True, slots=True, eq=False)
class Mark(Generic[T]):
    """How much of a log a state has in it.

    Attributes:
        names: the log; it goes on, for all states.
        seen: how many of them.
    """

    names: Sequence[T]
    seen: int

    def since(self, before: Mark[T]) -> Sequence[T] | None:
        """What may differ from an earlier state; None: anything, since that is of another log or a later one."""
        if before.names is not self.names or before.seen > self.seen:
            return None
        return self.names[before.seen : self.seen]


class Changes(Generic[T]):
    """A log of names. Marks are safe in any thread, the log itself in one."""

    def __init__(self) -> None:
        """Nothing has changed yet."""
        self._names: list[T] = []

    def add(self, names: Iterable[T], size: int) -> None:
        """These may differ from now on, in something that has `size` things in it."""
        if len(self._names) > LOGGED * (size + 1):
            self.restart()
        self._names += names

    def restart(self) -> None:
        """Anything may differ from now on."""
        self._names = []

    def mark(self) -> Mark[T]:
        """Where the log is now."""
        return Mark(self._names, len(self._names))
