"""Rule for leaving: an agent that was told to stop outlives the linked tasks that stop beside it. Pure.

A node that is drained loses its agent like its tasks: Swarm tells all of them to stop at once. A task has a grace
period, in which it ends what it has begun, over its links; with wireguard-go they would end with the agent. An agent
that is merely replaced sees no task stop beside it, and leaves.
"""

from __future__ import annotations

SETTLE_S = 2.0
"""Seconds within which all are told that are told to stop at once: Swarm decides one service after another."""


def may_leave(seconds: float, stopping: int) -> bool:
    """Tell whether an agent leaves now.

    Args:
        seconds: since it was told to stop.
        stopping: how many wired tasks of its node have been told to stop and have not ended.
    """
    return stopping == 0 and seconds >= SETTLE_S
