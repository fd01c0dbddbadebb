"""Python's search for garbage, held off while much is made that stays.

It looks at everything there is again and again while that grows, which is a fifth of what a controller's start costs.
Records, and the maps that they are in, refer to nothing that refers back, and so are freed without any search.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

LARGE = 5000
"""Records, from which on what was loaded is worth leaving out of later searches."""

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
