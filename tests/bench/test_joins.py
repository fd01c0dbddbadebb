"""The cost of one more node: what the store gets for it does not depend on the number of nodes."""

from __future__ import annotations

from tests.bench import rotations
from tests.bench.joins import cost
from tests.netns.world import wait_until_nothing_is_left


def test_one_more_node_is_two_records() -> None:
    few, more = cost(2, turns=1), cost(6, turns=1)
    assert dict(few.records) == dict(more.records) == {"Underlay": 1, "SealedLinkKey": 1}
    assert abs(few.size - more.size) < 20, "but for digits of names and addresses"
    assert min(few.planning, few.joining, few.others, few.looking) > 0


def test_rotation_is_two_records_a_node() -> None:
    few, more = rotations.cost(3), rotations.cost(6)
    assert (few.records, more.records) == (7, 13), "and the request"
    assert min(few.size, few.planning, few.node) > 0
    assert wait_until_nothing_is_left() == [], "nor of the second device"
