"""Python's search for garbage: held off while much is made that stays, and made while there is nothing else to do.

While that grows it looks at everything there is again and again, which is a fifth of what a controller's start costs;
else it comes while something is being done, 60 ms for what is imported alone, in which no peer is told of another.
Records, and the maps that they are in, refer to nothing that refers back, and so are freed without any search.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

LARGE = 5000
"""Records, from which on what was loaded is worth leaving out of later searches."""

EVERY_S = 60.0
ALL_EVERY = 60
"""One search of so many goes over everything there is, which takes longer the larger the mesh is."""

_lock = threading.Lock()
_holders = 0
_was_on = True


@contextmanager
def held_off(*, lasting: bool = False) -> Iterator[None]:
    """No search within; also not while another thread is within.

    Args:
        lasting: what there is at the end is left out of all later searches too. What was left out before is searched
            first, once: what has become garbage by then would never be found.
    """
    if lasting and gc.get_freeze_count():
        gc.unfreeze()
        gc.collect()
    _hold()
    try:
        yield
    finally:
        if lasting:
            gc.freeze()
        _release()


def _hold() -> None:
    global _holders, _was_on  # noqa: PLW0603 - the search is the whole process's
    with _lock:
        if not _holders:
            _was_on = gc.isenabled()
            gc.disable()
        _holders += 1


def _release() -> None:
    global _holders  # noqa: PLW0603 - likewise
    with _lock:
        _holders -= 1
        if not _holders and _was_on:
            gc.enable()


class Upkeep:
    """Looks for garbage now and then. What stays is left out of all later searches, which so cost what is new.

    A cycle that becomes garbage only then is found within an hour, or when much is loaded again.
    Records, and the maps that they are in, are in none, and are freed as ever.
    """

    def __init__(self) -> None:
        """Nothing has been looked at yet."""
        self._due = 0.0
        self._taken = 0

    def take(self, now: float) -> None:
        """There is nothing to do. `now`: seconds of a clock that only grows."""
        if now >= self._due:
            self._due = now + EVERY_S
            self._taken += 1
            if self._taken % ALL_EVERY == 0:
                gc.unfreeze()
            gc.collect()
            gc.freeze()
