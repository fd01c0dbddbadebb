"""Batches of links for the agent: each as large as a query may be, and all links in one of them."""

from __future__ import annotations

import json

import pytest

from compose_ext.walks.batches import MOST_ENDS, MOST_LINKS, batches
from mesh.diagnosis.swarm_facts import SwarmFacts, SwarmNode, SwarmTask

AGENT_TAKES = 131_072
NODES = {f"{number:025d}": SwarmNode(f"{number:025d}", f"host{number}", "ready", "active") for number in range(30)}


def links(count: int, tasks: int) -> list[SwarmFacts]:
    """Links of services with so many tasks each, five to a consumer."""
    names = [f"stack_service{number}" for number in range(count // 5 + 5)]
    ends = {
        name: tuple(
            SwarmTask(f"{at:012d}{slot:013d}", f"{name}.{slot}", f"{(at + slot) % 30:025d}", "running", "running")
            for slot in range(tasks)
        )
        for at, name in enumerate(names)
    }
    pairs = [(names[number // 5], names[number // 5 + number % 5]) for number in range(count)]
    return [SwarmFacts(one, other, {}, "", ends, NODES, {}) for one, other in pairs]


@pytest.mark.parametrize(("count", "tasks"), [(0, 1), (1, 1), (1, 200), (700, 1), (1000, 10), (300, 200)])
def test_batches_hold_all_links_within_their_bounds(count: int, tasks: int) -> None:
    every, numbers = links(count, tasks), list[int]()
    for batch in batches(every):
        asked = batch.without(dict.fromkeys([*NODES, "elsewhere"], 1000 * "x"))
        assert len(json.dumps({**asked, "query": "walks"})) < AGENT_TAKES
        assert asked["unheard"].keys() <= asked["hosts"].keys()
        assert len(batch.numbers) == len(batch.query["links"]) <= MOST_LINKS
        for number, (consumer, provider) in zip(batch.numbers, batch.query["links"], strict=True):
            assert (every[number].consumer, every[number].provider) == (consumer, provider)
            assert [len(batch.query["tasks"][name]) for name in (consumer, provider)] == [min(tasks, MOST_ENDS)] * 2
        numbers += batch.numbers
    assert numbers == list(range(count))


def test_batches_are_few() -> None:
    assert len(list(batches(links(1000, 10)))) == 2
    assert len(list(batches(links(MOST_LINKS, 1)))) == 1
    assert len(list(batches(links(MOST_LINKS + 1, 1)))) == 2


def test_query_names_running_tasks() -> None:
    facts = links(1, 2)[0]
    done = SwarmTask("old", "stack_service0.9", "", "failed", "shutdown")
    (batch,) = batches(
        [SwarmFacts("stack_service0", "x", {}, "", {**facts.tasks, "stack_service0": (done,)}, NODES, {})]
    )
    assert batch.query == {"hosts": {}, "tasks": {"stack_service0": [], "x": []}, "links": [["stack_service0", "x"]]}
