"""Records of nodes outside the Swarm: deleted once they stand still, and nothing else is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.recovery.departed_nodes import STILL_S, DepartedNodes
from controller.swarm.model import Swarm
from mesh.model import keyspace
from mesh.model.records import Cluster, Node, Record, Status
from mesh.model.snapshot import Delete, Snapshot, Versioned
from tests.support import cluster

STORED = cluster.stored(60)  # two nodes
SWARM = cluster.swarm(60)
GONE = "gone"


def snapshot(*extra: tuple[Record, int], invalid: tuple[str, int] | None = None) -> Snapshot:
    """The store of a Swarm, with further records at their revisions."""
    records = {**STORED.records, **{keyspace.key_of(record): Versioned(record, at) for record, at in extra}}
    key, at = invalid or ("", 0)
    unread = {key: at} if key else {}
    return Snapshot(9, complete=True, records=records, invalid=dict.fromkeys(unread, "not JSON"), unread=unread)


def record() -> Node:
    return replace(next(STORED.all(Node)), id=GONE)


def deleted(departed: DepartedNodes, stored: Snapshot, now: float, swarm: Swarm = SWARM) -> list[Delete]:
    ops = [op for step in departed.steps(stored, swarm, now) for op in step.ops]
    return [op for op in ops if isinstance(op, Delete)]


def test_what_stands_still_is_deleted_and_no_more() -> None:
    departed, vitals = DepartedNodes(), Status(GONE, 1.0, ())
    stored = snapshot((record(), 3), (vitals, 4))
    assert deleted(departed, stored, 100.0) == []
    assert departed.due_in(130.0) == STILL_S - 30
    assert deleted(departed, stored, 99.9 + STILL_S) == []
    assert deleted(departed, stored, 100.0 + STILL_S) == [Delete("nodes/gone", 3), Delete("vitals/gone", 4)]
    assert deleted(departed, snapshot(), 101.0 + STILL_S) == []
    assert departed.due_in(200.0) is None


def test_agent_that_goes_on_is_not_written_against() -> None:
    departed = DepartedNodes()
    for at in range(10):
        stored = snapshot((record(), 3), (Status(GONE, 1.0, ()), 4 + at))
        assert deleted(departed, stored, at * STILL_S) == []


def test_node_that_comes_back_keeps_its_records() -> None:
    departed = DepartedNodes()
    deleted(departed, snapshot((record(), 3)), 0.0)
    nodes = {**SWARM.nodes, GONE: replace(next(iter(SWARM.nodes.values())), id=GONE)}
    assert deleted(departed, snapshot((record(), 3)), 2 * STILL_S, replace(SWARM, nodes=nodes)) == []
    assert deleted(departed, snapshot((record(), 3)), 2 * STILL_S + 1) == [], "it begins anew"


def test_unreadable_records_are_deleted_too() -> None:
    departed, stored = DepartedNodes(), snapshot(invalid=("nodes/gone", 7))
    deleted(departed, stored, 0.0)
    assert deleted(departed, stored, STILL_S) == [Delete("nodes/gone", 7)]


@pytest.mark.parametrize("stored", [
    replace(snapshot((record(), 3)), complete=False),
    snapshot((record(), 3), (replace(next(STORED.all(Cluster)), id="another"), 1)),
], ids=["not complete", "another Swarm's"])  # fmt: skip
def test_nothing_is_deleted_on_partial_knowledge(stored: Snapshot) -> None:
    departed = DepartedNodes()
    assert deleted(departed, stored, 0.0) == deleted(departed, stored, STILL_S) == []
    assert departed.due_in(STILL_S) is None
