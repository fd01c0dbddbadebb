"""What a change costs in a large Swarm: a planner looks at no more of it than of a small one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

import pytest

from controller.planning.planner import Planner, plan
from controller.steps import Allocate, Plan
from controller.swarm.model import SwarmTask
from mesh.model import keyspace
from mesh.model.records import Endpoint, Record, Service, TaskReport
from mesh.model.snapshot import Versioned
from tests.support import cluster
from tests.unit.controller.planners import Pictures

T = TypeVar("T")

NOW = 1_800_000_000
SMALL, LARGE = 100, 1000
FEW, SLACK = 100, 10
"""Things that are looked up for one change: a handful of tasks, each asked for some times, in whatever Swarm."""


class Counted(Mapping[str, T]):
    """Counts what is read of it."""

    def __init__(self, found: Mapping[str, T]) -> None:
        self.found = dict(found)
        self.reads = 0

    def __getitem__(self, key: str) -> T:
        self.reads += 1
        return self.found[key]

    def __iter__(self) -> Iterator[str]:
        for key in self.found:
            self.reads += 1
            yield key

    def __len__(self) -> int:
        return len(self.found)


class Cluster:
    """A Swarm of some size at rest, its planner, and what that reads."""

    def __init__(self, tasks: int) -> None:
        self.swarm, self.stored = cluster.swarm(tasks), cluster.stored(tasks)
        self.members = cluster.members(self.swarm)
        self.planner = Planner()
        self._pictures = Pictures()
        self._middle = tasks // 2
        assert self.plan()[0].steps == ()
        assert self.planner.looked_at.everything

    def plan(self) -> tuple[Plan, int]:
        """The plan of what there is now, and what was read for it."""
        swarm, stored = self._pictures.next(self.swarm, self.stored)
        counted = (Counted(swarm.services), Counted(swarm.tasks), Counted(swarm.nodes), Counted(stored.records))
        services, tasks, nodes, records = counted
        swarm = replace(
            swarm,
            services=services,
            tasks=tasks,
            nodes=nodes,
            trail=swarm.trail and replace(swarm.trail, services=services, tasks=tasks, nodes=nodes),
        )
        stored = replace(stored, records=records, trail=stored.trail and replace(stored.trail, records=records))
        made = self.planner.plan(swarm, stored, cluster.SUBNET, NOW, self.members)
        reads = sum(each.reads for each in counted)
        assert made == plan(self.swarm, self.stored, cluster.SUBNET, NOW, self.members)
        return made, reads

    def a_task(self) -> SwarmTask:
        return list(self.swarm.tasks.values())[self._middle]

    def put(self, record: Record) -> None:
        records = {**self.stored.records, keyspace.key_of(record): Versioned(record, 2)}
        self.stored = replace(self.stored, records=records)

    def set_task(self, task: SwarmTask) -> None:
        self.swarm = replace(self.swarm, tasks={**self.swarm.tasks, task.id: task})


def _no_longer_ready(found: Cluster) -> None:
    task = found.a_task()
    endpoint = found.stored.get(keyspace.endpoint(task.service, task.id), Endpoint)
    assert endpoint is not None
    found.put(replace(endpoint, ready=False))


def _reported(found: Cluster) -> None:
    task = found.a_task()
    report = found.stored.get(keyspace.report(task.node, task.id), TaskReport)
    assert report is not None
    found.put(replace(report, state="gone"))


def _stopped(found: Cluster) -> None:
    found.set_task(replace(found.a_task(), desired="shutdown"))


def _ended(found: Cluster) -> None:
    found.set_task(replace(found.a_task(), state="shutdown"))


def _exposed(found: Cluster) -> None:
    task = found.a_task()
    record = found.stored.get(keyspace.service(task.service), Service)
    assert record is not None
    found.swarm = replace(
        found.swarm,
        services={
            **found.swarm.services,
            task.service: replace(found.swarm.services[task.service], dnsrr=not record.dnsrr),
        },
    )


def _one_more(found: Cluster) -> None:
    found.set_task(replace(found.a_task(), id="one-more", state="assigned"))


@pytest.mark.parametrize("change", [_no_longer_ready, _reported, _stopped, _ended, _exposed, _one_more])
def test_change_costs_the_same_in_a_large_swarm(change: Callable[[Cluster], None]) -> None:
    reads = []
    for size in (SMALL, LARGE):
        found = Cluster(size)
        found.set_task(replace(found.a_task(), id="first", state="assigned"))
        made, _ = found.plan()
        assert any(isinstance(step, Allocate) for step in made.steps), "what is taken is known from here on"
        change(found)
        made, read = found.plan()
        assert made.steps
        assert not found.planner.looked_at.everything
        reads.append(read)
    small, large = reads
    assert large <= small + SLACK
    assert small < FEW


def test_nothing_that_changed_costs_nothing() -> None:
    found = Cluster(LARGE)
    made, read = found.plan()
    assert made.steps == ()
    assert read < 10
    assert not found.planner.looked_at.ids
