"""When an agent that was told to stop may leave."""

from __future__ import annotations

import pytest

from agent.local_tasks import SETTLE_S, may_leave


@pytest.mark.parametrize(
    ("told_for", "stopping", "leaves"),
    [
        (0.0, 0, False),  # a task beside it may be told in a moment
        (SETTLE_S, 0, True),
        (SETTLE_S, 1, False),
        (SETTLE_S + 600, 1, False),
        (0.0, 1, False),
    ],
)
def test_it_leaves_when_no_linked_task_stops(told_for: float, stopping: int, leaves: bool) -> None:
    assert may_leave(told_for, stopping) == leaves
