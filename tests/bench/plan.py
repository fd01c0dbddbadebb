"""What a plan with one changed task costs in clusters of three sizes; likewise the agent's index of a snapshot."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from controller.plan import plan
from mesh.graph import index
from tests.bench import cluster
from tests.bench.measure import Effort, Row, alternate, cpu

NOW = 1_800_000_000


def measure(effort: Effort) -> list[Row]:
    """Ten and a hundred times the tasks, against the small cluster."""
    rows = []
    for key, what, prepare in (("plan", "plan 1 changed task", _plan), ("index", "index a snapshot", _index)):
        small = prepare(effort.tasks)
        for name, times in (("ten", 10), ("hundred", 100)):
            large = prepare(effort.tasks * times)
            ours, theirs = alternate(effort.rounds, partial(cpu, large), partial(cpu, small))
            text = f"{what} of {effort.tasks * times}"
            rows.append(Row(f"{key}.{name}", text, f"of {effort.tasks}", "ms CPU", "lower", ours, theirs))
    return rows


def _plan(tasks: int) -> Callable[[], object]:
    swarm, settled = cluster.swarm(tasks), cluster.stored(tasks)
    stored = cluster.stored(tasks, not_ready=tasks // 2)
    members = cluster.members(swarm)
    assert plan(swarm, settled, cluster.SUBNET, NOW, members).steps == ()
    assert len(plan(swarm, stored, cluster.SUBNET, NOW, members).steps) == 1
    return lambda: plan(swarm, stored, cluster.SUBNET, NOW, members)


def _index(tasks: int) -> Callable[[], object]:
    stored = cluster.stored(tasks)
    assert len(index(stored).by_task) == tasks
    return lambda: index(stored)
