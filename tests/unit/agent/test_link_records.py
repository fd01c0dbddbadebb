"""Which pair of tasks of a link is looked at."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.walks.link_records import broken_for, chosen_pair
from mesh.diagnosis.link_facts import End
from mesh.model import keyspace
from mesh.model.records import BrokenPeers, Status
from mesh.model.snapshot import Snapshot, Versioned
from tests.support.link_graphs import CLUSTER, endpoint, graph, service

TASKS = {task: endpoint(task[0].upper(), task, n) for n, task in enumerate(("a1", "a2", "b1", "b2"))}
MADE = graph(CLUSTER, service("A", "shop_web", ("shop_db", "db")), service("B", "shop_db"), *TASKS.values())


def end(task: str, **more: object) -> End:
    return replace(End(task, f"shop_x.{task}", "n1", "n1", address="100.96.0.1"), **more)  # type: ignore[arg-type]


def chosen(consumers: list[End], providers: list[End], *broken: tuple[str, str, float]) -> tuple[str, str]:
    told = tuple(BrokenPeers(task, (TASKS[peer].public_key,), seconds) for task, peer, seconds in broken)
    records = {keyspace.status("n1"): Versioned(Status("n1", 0.0, (), broken=told), 1)}
    one, other = chosen_pair(consumers, providers, broken_for(Snapshot(1, True, records)), MADE)
    assert one is not None
    assert other is not None
    return one.task, other.task


@pytest.mark.parametrize(
    ("broken", "pair"),
    [
        ((), ("a1", "b1")),
        ((("a2", "b1", 20.0),), ("a2", "b1")),
        ((("b2", "a2", 20.0),), ("a2", "b2")),
        ((("a1", "b2", 20.0), ("a2", "b2", 30.0)), ("a2", "b2")),
    ],
    ids=["all is well", "one pair", "as its provider sees it", "the longest"],
)
def test_broken_pair_is_looked_at(broken: tuple[tuple[str, str, float], ...], pair: tuple[str, str]) -> None:
    assert chosen([end("a1"), end("a2")], [end("b1"), end("b2")], *broken) == pair


def test_what_records_say_comes_first() -> None:
    ends = [end("a1"), end("a2", error="no port is free")], [end("b1"), end("b2")]
    assert chosen(*ends, ("a1", "b2", 20.0)) == ("a2", "b1")


def test_side_without_a_task_has_no_end() -> None:
    assert chosen_pair([end("a1")], [], {}, MADE)[1] is None
