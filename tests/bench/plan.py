"""What a plan with one changed task costs in clusters of three sizes; likewise the agent's index of a snapshot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from immutables import Map

from controller.planning.planner import Planner, plan
from controller.steps import Plan
from controller.swarm import model
from controller.swarm.model import Swarm
from mesh.model import snapshot
from mesh.model.changelog import ChangeLog, Cursor
from mesh.model.records import Record
from mesh.model.snapshot import Snapshot, Versioned
from mesh.topology.link_graph import index
from tests.bench.measure import Effort, Row, alternate, cpu
from tests.support import cluster

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
    """By a planner that knows the cluster already: one task becomes ready, or no longer is known to be, in turn."""
    swarm, picture, planner = _followed(cluster.swarm(tasks)), _Picture(tasks), Planner()
    members = cluster.members(swarm)

    def made() -> Plan:
        return planner.plan(swarm, picture.next(), cluster.SUBNET, NOW, members)

    for steps in (1, 0, 1, 0):
        found = made()
        assert len(found.steps) == steps
        assert found == plan(swarm, picture.now, cluster.SUBNET, NOW, members)
    assert not planner.looked_at.everything
    return made


def _followed(swarm: Swarm) -> Swarm:
    """As somebody gives it who follows it, and has seen no change."""
    return replace(swarm, trail=model.Lineage(swarm.services, swarm.tasks, swarm.nodes, Cursor((), 0)))


class _Picture:
    """What a follower shows of a store in which one task changes."""

    def __init__(self, tasks: int) -> None:
        before, after = cluster.stored(tasks), cluster.stored(tasks, not_ready=tasks // 2)
        (self._key,) = (key for key, found in after.records.items() if before.records[key] != found)
        self._log = ChangeLog[str]()
        self._both = _with_trail(before, self._log.mark()), _with_trail(after, self._log.mark())
        self.now = self._both[0]

    def next(self) -> Snapshot:
        """The other one than before."""
        self._log.add([self._key], len(self.now.records))
        found = self._both[1] if self.now.records is self._both[0].records else self._both[0]
        trail = found.trail and replace(found.trail, mark=self._log.mark())
        self.now = replace(found, trail=trail)
        return self.now


def _with_trail(stored: Snapshot, mark: Cursor[str]) -> Snapshot:
    kinds: dict[type, dict[str, Versioned[Record]]] = {}
    for key, found in stored.records.items():
        kinds.setdefault(type(found.record), {})[key] = found
    by_kind = {kind: Map(its) for kind, its in kinds.items()}
    records = Map(dict(stored.records))
    return replace(stored, records=records, trail=snapshot.Lineage(records, stored.invalid, by_kind, mark))


def _index(tasks: int) -> Callable[[], object]:
    stored = cluster.stored(tasks)
    assert len(index(stored).by_task) == tasks
    return lambda: index(stored)
