"""Cyclic GC control: paused during bulk loads, run explicitly when idle.

While many objects are made, the collector goes over all of them again and again: a fifth of a controller's start.
When it runs in the middle of work, it stops that for 60 ms for the imported modules alone, in which no peer is added.
Records and the maps that hold them are in no cycle, so they are freed without it.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

LARGE = 5000
"""Records from which on a load is worth excluding from later collections."""

EVERY_S = 60.0
ALL_EVERY = 60
"""One collection of so many goes over everything, which takes longer the larger the mesh is."""

_lock = threading.Lock()
_holders = 0
_was_on = True


@contextmanager
def gc_paused(*, lasting: bool = False) -> Iterator[None]:
    """Pause collection within, and for as long as any other thread is within.

    Args:
        lasting: exclude what exists at the end from all later collections. First, all that was excluded before is
            collected once: garbage in it would otherwise never be found.
    """
    if lasting and gc.get_freeze_count():
        gc.unfreeze()
        gc.collect()
    _pause()
    try:
        yield
    finally:
        if lasting:
            gc.freeze()
        _resume()


def _pause() -> None:
    global _holders, _was_on  # noqa: PLW0603 - the collector is the whole process's
    with _lock:
        if not _holders:
            _was_on = gc.isenabled()
            gc.disable()
        _holders += 1


def _resume() -> None:
    global _holders  # noqa: PLW0603 - as above
    with _lock:
        _holders -= 1
        if not _holders and _was_on:
            gc.enable()


class IdleCollector:
    """Collects once a minute when idle, and excludes what stays: each collection costs only what is new.

    A cycle that becomes garbage after it was excluded is found within an hour, or at the next bulk load.
    """

    def __init__(self) -> None:
        """Start with a collection due."""
        self._due = 0.0
        self._count = 0

    def collect(self, now: float) -> None:
        """Collect if it is due; call when idle.

        Args:
            now: seconds of a monotonic clock.
        """
        if now >= self._due:
            self._due = now + EVERY_S
            self._count += 1
            if self._count % ALL_EVERY == 0:
                gc.unfreeze()
            gc.collect()
            gc.freeze()
