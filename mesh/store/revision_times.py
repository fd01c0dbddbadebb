"""Times at which revisions of the store were seen: the age of a record, without anybody's wall clock."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left

APART_S = 0.5
"""Seconds between two revisions that are remembered."""
EXACT_S = 5.0
"""Between two sights of the store: a quiet one is asked every second or two (mesh.store.etcd_channel.PROBE)."""
MOST = 8192
"""An hour and more of a busy store."""


class RevisionTimes:
    """Times of the revisions of one store. Safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._revisions: list[int] = []
        self._times: list[float] = []
        self._last: list[float] = []
        """When each was seen the last time."""

    def note(self, revision: int) -> None:
        """Note that a revision is the newest now; one that is older than the last means another store."""
        now = time.monotonic()
        with self._lock:
            if self._revisions and revision < self._revisions[-1]:
                self._revisions, self._times, self._last = [], [], []
            if self._revisions and revision == self._revisions[-1]:
                self._last[-1] = now
                return
            if self._revisions and now - self._times[-1] < APART_S:
                return
            self._revisions.append(revision)
            self._times.append(now)
            self._last.append(now)
            if len(self._revisions) > MOST:
                del self._revisions[: MOST // 2], self._times[: MOST // 2], self._last[: MOST // 2]

    def age(self, revision: int) -> float | None:
        """Return how many seconds ago a revision was written, at most APART_S too few; None where nobody saw it."""
        with self._lock:
            place = bisect_left(self._revisions, revision)
            if place == 0:  # it was there when we began
                return None
            at = self._times[min(place, len(self._times) - 1)]
        return time.monotonic() - at

    def exact_age(self, revision: int) -> float | None:
        """Return the same, and None too where the store was not seen shortly before it was written, and after."""
        with self._lock:
            place = bisect_left(self._revisions, revision)
            if place == 0:
                return None
            now = time.monotonic()
            before, after = self._last[place - 1], self._times[place] if place < len(self._times) else now
        return now - after if after - before <= EXACT_S else None
