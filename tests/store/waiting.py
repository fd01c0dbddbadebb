"""Waiting for what another thread brings about."""

import time
from collections.abc import Callable

from tests.support.patience import slowness


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Return as soon as the condition holds; fail when it does not in time, which is longer on a busy machine."""
    seconds *= slowness()
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"did not come about within {seconds:.0f} s"
        time.sleep(0.01)
