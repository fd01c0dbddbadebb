"""How threads wake a loop: hints of what may have changed, collected until the loop takes them all."""

from __future__ import annotations

import threading


class Wake:
    """Collects hints from any thread and wakes the loop."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._hints: set[tuple[str, str]] = {("resync", "")}
        self._woken = True

    def __call__(self, kind: str = "", name: str = "") -> None:
        """Something of this kind and name may have changed; without a kind only: look again."""
        with self._condition:
            if kind:
                self._hints.add((kind, name))
            self._woken = True
            self._condition.notify()

    def wait(self, seconds: float) -> set[tuple[str, str]]:
        """Sleep until woken, at most so long; return and forget the hints. The first call returns at once."""
        with self._condition:
            if not self._woken:
                self._condition.wait(seconds)
            hints, self._hints, self._woken = self._hints, set(), False
            return hints

    def is_pending(self) -> bool:
        """Whether `wait` would return at once."""
        with self._condition:
            return self._woken
