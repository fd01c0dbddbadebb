"""Delay before the next try of something that fails: doubled from try to try, up to a limit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Backoff:
    """Delays of one thing that is tried again and again.

    Attributes:
        first: seconds after the first failure.
        longest: seconds, at most.
    """

    first: float
    longest: float
    _next: float = 0.0

    def after_failure(self) -> float:
        """Count one more failure in a row; return the seconds to wait."""
        delay = self._next or self.first
        self._next = min(delay * 2, self.longest)
        return delay

    def reset(self) -> None:
        """Begin again: it worked."""
        self._next = 0.0
