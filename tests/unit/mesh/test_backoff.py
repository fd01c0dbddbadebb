"""Delays between tries."""

from __future__ import annotations

from mesh.process.backoff import Backoff


def test_delays_double_to_the_limit_and_restart() -> None:
    backoff = Backoff(0.5, 3.0)
    assert [backoff.after_failure() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    backoff.reset()
    assert backoff.after_failure() == 0.5
