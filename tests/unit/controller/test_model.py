"""The judgements that rest on Swarm's word alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.swarm.model import STATES, SwarmNode, SwarmTask
from tests.support.swarm_world import DB, unsettled
from tests.unit.controller.transactions import fresh


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("desired", ["ready", "running", "complete", "shutdown", "remove"])
@pytest.mark.parametrize("node", ["up", "down", "left", ""])
def test_task_lives_until_its_or_its_nodes_end(state: str, desired: str, node: str) -> None:
    _, world = fresh()
    world.nodes = {
        "up": SwarmNode("up", "up", down=False, address=None),
        "down": SwarmNode("down", "down", down=True, address=None),
    }
    task = SwarmTask("t", "s", 1, node, desired, state)
    ended = state in ("complete", "shutdown", "failed", "rejected", "remove", "orphaned")
    wanted = desired in ("ready", "running", "complete")
    expected = not ended and (node == "up" or (node == "down" and wanted))
    assert (task.ended, task.wanted) == (ended, wanted)
    assert world.swarm().live(task) == expected


def test_services_are_unsettled_while_their_tasks_move() -> None:
    _, world = fresh()
    assert unsettled(world.swarm()) == set()
    (db,) = world.add(DB, "n1")
    assert unsettled(world.swarm()) == set()
    world.change(db.id, state="starting")
    assert unsettled(world.swarm()) == {DB.id}
    world.change(db.id, state="failed")
    assert unsettled(world.swarm()) == {DB.id}, "one is missing"
    world.start(DB.id, "n2")
    assert unsettled(world.swarm()) == set()
    (extra,) = world.add(DB, "n3")
    assert unsettled(world.swarm()) == {DB.id}, "one too many"
    world.change(extra.id, desired="shutdown")
    assert unsettled(world.swarm()) == {DB.id}, "it is still shutting down"
    world.nodes["n3"] = replace(world.nodes["n3"], down=True)
    assert unsettled(world.swarm()) == set(), "a dead node's task tells nothing more"
