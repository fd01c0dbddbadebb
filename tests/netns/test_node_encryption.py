"""Overlay packets between nodes go through one WireGuard device a node, and none is lost by switching."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.netns.overlay_nodes import Cluster, Pinging, Wire
from tests.netns.world import World


@pytest.fixture
def pair(world: World) -> Iterator[Cluster]:
    with Cluster(world, 2) as cluster:
        for node in cluster.nodes:
            node.start()
        yield cluster


def test_switching_on_and_off_loses_nothing(pair: Cluster) -> None:
    one, other = pair.nodes
    with Pinging(one, other) as there, Pinging(other, one) as back:
        with Wire(pair) as before:
            pair.switch("strict", "accept")
        pair.switch("strict", "send")
        pair.switch("strict", "enforce")
        with Wire(pair) as strict, Pinging(one, other, 1200):
            pass
        pair.switch("strict", "send")
        pair.switch("strict", "accept")
        pair.switch(None)
        with Wire(pair) as after:
            pass
    print(f"plain packets before {before.packets}, in strict {strict.packets}, after {after.packets}")
    print(f"there {there.result}, back {back.result}")
    assert min(before.packets, after.packets) > 0, "the capture sees what is plain"
    assert strict.packets == 0
    assert there.result.lost == back.result.lost == 0
    assert there.result.received > 200
