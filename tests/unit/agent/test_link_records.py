"""Records of links: the pair of tasks that is looked at, and what is read for how many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from agent.walks.link_records import SwarmTask, broken_for, chosen_pair, read
from mesh.diagnosis.link_facts import End, LinkFacts
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


def test_link_to_itself_has_two_tasks() -> None:
    assert chosen([end("a1"), end("a2")], [end("a1"), end("a2")]) == ("a1", "a2")
    assert chosen([end("a1")], [end("a1")]) == ("a1", "a1"), "there is no other"


def ranges(services: int, tasks: int, nodes: int, asked: int) -> list[str]:
    """What is read for links between some services of a Swarm, whose tasks are spread over so many nodes."""
    made = [service(f"S{n}", f"shop_s{n}", (f"shop_s{n + 1}", "next")) for n in range(services)]
    ends = [
        replace(endpoint(f"S{n}", f"t{n}.{slot}", n * tasks + slot + 1), node=f"n{(n * tasks + slot) % nodes}")
        for n in range(services)
        for slot in range(tasks)
    ]
    desired: Any = SimpleNamespace(graph=graph(CLUSTER, *made, *ends), trust=SimpleNamespace(held=""))
    seen: list[str] = []

    def load(keys: Sequence[str]) -> Snapshot:
        seen.extend(keys)
        return Snapshot()

    def side(n: int) -> list[SwarmTask]:
        return [SwarmTask(one.task, one.task, one.node, one.node) for one in ends if one.service == f"S{n}"]

    links = [(LinkFacts(f"shop_s{n}", f"shop_s{n + 1}"), (side(n), side(n + 1))) for n in range(asked)]
    read(load, desired, "cluster", links)
    return seen


def test_few_records_are_read_for_few_links() -> None:
    one = ranges(services=100, tasks=2, nodes=200, asked=1)
    assert len(one) < 40
    assert "keys/n0/t0.0" in one
    some = ranges(services=100, tasks=2, nodes=200, asked=45)
    assert len(some) == 1 + 7 * 92, "each node's records, and no other's"
    every = ranges(services=100, tasks=2, nodes=200, asked=99)
    assert len(every) == 1 + 7, "all at once"
