"""Append-only log of changed names: a reader of an earlier state asks what has changed since. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

LOGGED = 10
"""Names kept, as a multiple of the number of things that can change: a close reader asks for the last few."""


@dataclass(frozen=True, slots=True, eq=False)
class Cursor(Generic[T]):
    """A position in a log: the state after so many names.

    Attributes:
        names: the log, shared by all marks; it goes on.
        seen: the number of names at this position.
    """

    names: Sequence[T]
    seen: int

    def since(self, before: Cursor[T]) -> Sequence[T] | None:
        """Return the names changed since an earlier mark; None for any name: that mark is later or of another log."""
        if before.names is not self.names or before.seen > self.seen:
            return None
        return self.names[before.seen : self.seen]


class ChangeLog(Generic[T]):
    """A log of changed names. Marks are safe in any thread, the log itself in one."""

    def __init__(self) -> None:
        """Begin with no changes."""
        self._names: list[T] = []

    def add(self, names: Iterable[T], size: int) -> None:
        """Append names, of something that has `size` things in it; a log that is too long starts over."""
        if len(self._names) > LOGGED * (size + 1):
            self.restart()
        self._names += names

    def restart(self) -> None:
        """Start over: for earlier marks, anything may have changed."""
        self._names = []

    def mark(self) -> Cursor[T]:
        """Return the present position."""
        return Cursor(self._names, len(self._names))
