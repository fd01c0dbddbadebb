"""Schedule of one task: when the loop works on it again, and why."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from mesh.process.backoff import Backoff
from mesh.topology.wgtypes import InterfaceConfig

RETRY_S = 0.1
MAX_RETRY_S = 5.0
CONFIRM_S = 1.0
"""Seconds after which a device is read that was changed without being read."""


@dataclass(slots=True)
class Schedule:
    """When a task is worked on again, by the monotonic clock.

    Attributes:
        dirty: whether its namespace must be read again although nothing else changed.
        listed: whether its container was in a new list, so that its namespace is to be read again.
        graph: the graph that its interface was last derived from.
        link_keys: the link keys that it was last derived from: a new epoch changes these alone.
        tried: the interface that was desired last, whether or not it could be made.
        retry_at: when to try again after a failure; None for no need.
        confirm_at: when its device must be read, since its peers were changed without; None where all that was
            applied was read back.
        apply_by: by when a change is made that is in no hurry; None for no such change.
    """

    dirty: bool = True
    listed: bool = False
    graph: object = None
    link_keys: object = None
    tried: InterfaceConfig | None = None
    retry_at: float | None = None
    confirm_at: float | None = None
    apply_by: float | None = None
    _backoff: Backoff = field(default_factory=lambda: Backoff(RETRY_S, MAX_RETRY_S))

    @property
    def times(self) -> tuple[float, ...]:
        """All times at which there is something to do."""
        return tuple(at for at in (self.retry_at, self.confirm_at, self.apply_by) if at is not None)

    def confirm_soon(self) -> None:
        """Have the device read, but no later for each further change."""
        if self.confirm_at is None:
            self.confirm_at = time.monotonic() + CONFIRM_S

    def fail(self) -> None:
        """Have all of it read and tried again, later after each failure in a row."""
        self.dirty, self.confirm_at = True, None
        self.retry_at = time.monotonic() + self._backoff.after_failure()

    def succeed(self) -> None:
        """Leave nothing to be tried again."""
        self.dirty, self.retry_at = False, None
        self._backoff.reset()
