"""The machine's clock, set wrong for a while."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

HOUR_S, YEAR_S = 3600, 365 * 86400


@contextmanager
def clock(seconds: int) -> Iterator[Callable[[int], None]]:
    """While entered, the machine's clock is wrong by so many seconds; what is yielded sets another difference."""
    began, now = time.monotonic(), time.time()

    def put(off: int) -> None:
        time.clock_settime(time.CLOCK_REALTIME, now + time.monotonic() - began + off)

    put(seconds)
    try:
        yield put
    finally:
        put(0)
