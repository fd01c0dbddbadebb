"""Wake-up of a loop by other threads, with hints of changes collected until the loop reads them."""

from __future__ import annotations

import threading


class Wake:
    """Collects hints from any thread and wakes the loop."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._hints: set[tuple[str, str]] = {("resync", "")}
        self._woken = True

    def __call__(self, kind: str = "", name: str = "") -> None:
        """Wake the loop, with a hint that something of this kind and name may have changed."""
        with self._condition:
            if kind:
                self._hints.add((kind, name))
            self._woken = True
            self._condition.notify()

    def wait(self, seconds: float) -> set[tuple[str, str]]:
        """Sleep until woken, at most so long; return and clear the hints. The first call returns at once."""
        with self._condition:
            if not self._woken:
                self._condition.wait(seconds)
            hints, self._hints, self._woken = self._hints, set(), False
            return hints

    def is_pending(self) -> bool:
        """Return whether `wait` would return at once."""
        with self._condition:
            return self._woken
