"""Wall clock of the node: detects that it went back, and names the task keys to replace.

WireGuard's handshake carries the sender's time, and a peer refuses one that is not later than the last it has seen of
that key, as a replay (TAI64N; WireGuard paper, section 5.1). A node whose clock goes back by an hour (a machine that
was restored, or that has no clock of its own) begins no handshake for an hour, with no word of why. A new key has no
past: the controller gives one for each key that this names.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import structlog

from agent.state import atomic_file

log = structlog.get_logger(__name__)

FILE = "clock"
BACK_S = 10.0
"""So many seconds back need no new keys: peers take the next handshakes by the time that a session needs one."""
SAVE_S = 30.0
"""At most so often, in seconds, is the time written down."""


@dataclass(frozen=True, slots=True)
class Clock:
    """State of the wall clock that is remembered.

    Attributes:
        latest: the latest time seen since it last went back, in seconds since the epoch.
        spent: task -> the epoch of its key that peers may take for a replay's, or that somebody else may have seen.
    """

    latest: float = 0.0
    spent: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    def at(self, now: float, epochs: Mapping[str, int]) -> Clock:
        """Return the state after one more look. Pure.

        Args:
            now: seconds since the epoch.
            epochs: task -> the epoch of its key, of every task of this node that has one.
        """
        still = {task: epoch for task, epoch in self.spent.items() if epochs.get(task) == epoch}
        if now < self.latest - BACK_S:
            return Clock(now, MappingProxyType(dict(epochs)))
        return Clock(max(now, self.latest), MappingProxyType(still))


class WatchedClock:
    """The wall clock, watched over restarts. Not safe for several threads."""

    def __init__(self, folder: Path) -> None:
        """Take up what was remembered in a folder; what cannot be read is as if the node were new."""
        self._path = folder / FILE
        self._clock = _read(self._path)
        self._saved = self._clock
        self._saved_at = -SAVE_S

    @property
    def spent(self) -> Mapping[str, int]:
        """Task -> the epoch of its key that needs to be replaced."""
        return self._clock.spent

    def look(self, epochs: Mapping[str, int]) -> None:
        """Look once; `epochs` as in Clock.at."""
        before, self._clock = self._clock, self._clock.at(time.time(), epochs)
        if self._clock.latest < before.latest:
            back = round(before.latest - self._clock.latest)
            log.warning("wall clock went back", seconds=back, count=len(self._clock.spent))

    def spend(self, task: str, epoch: int) -> None:
        """Note that a task's key needs to be replaced for another reason."""
        if self._clock.spent.get(task) != epoch:
            self._clock = Clock(self._clock.latest, MappingProxyType({**self._clock.spent, task: epoch}))

    def save(self) -> None:
        """Save the state, unless that was done just now. Waits for the disk."""
        changed = self._clock.spent != self._saved.spent or self._clock.latest < self._saved.latest
        if not changed and time.monotonic() < self._saved_at + SAVE_S:
            return
        self._saved, self._saved_at = self._clock, time.monotonic()
        value = {"latest": self._clock.latest, "spent": dict(self._clock.spent)}
        try:
            atomic_file.write(self._path, json.dumps(value).encode())
        except OSError as error:
            log.warning("wall clock not saved", file=FILE, error=error.strerror)


def _read(path: Path) -> Clock:
    try:
        value = json.loads(path.read_bytes())
        spent = {str(task): int(epoch) for task, epoch in value["spent"].items()}
        return Clock(float(value["latest"]), MappingProxyType(spent))
    except FileNotFoundError:
        return Clock()
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        log.warning("wall clock not restored", file=FILE, error=type(error).__name__)
        return Clock()
