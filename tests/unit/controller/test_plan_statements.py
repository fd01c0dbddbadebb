"""A node that states an address that does not count: what that costs each pass."""

from __future__ import annotations

from dataclasses import replace

from controller.planning.planner import Planner
from tests.support.swarm_world import DB, SUBNET, WEB
from tests.unit.controller.planners import Pictures
from tests.unit.controller.transactions import carry_out, fresh

UNKNOWN = "which cannot be compared: Swarm knows none of it"


def test_refused_statement_costs_no_look_at_tasks() -> None:
    """It is one problem of one node in each pass, as long as it has tasks."""
    store, world = fresh()
    world.add(WEB, "n2")
    tasks = [task.id for task in world.add(DB, "n1", "n1", "n1")]
    planner, pictures = Planner(), Pictures()

    def planned() -> tuple[str, ...]:
        for _ in range(10):
            made = planner.plan(
                *pictures.next(world.swarm(), store.snapshot()), SUBNET, world.now, dict(world.members)
            )
            if not carry_out(store, made.steps):
                return made.problems
        raise AssertionError(made)

    assert planned() == ()
    world.nodes["n1"] = replace(world.nodes["n1"], known_at=())
    (problem,) = planned()
    assert problem.startswith("node host-n1: its agent states the address 192.0.2.")
    assert UNKNOWN in problem
    assert planned() == (problem,)
    assert planner.looked_at.ids == frozenset({"n1"})
    for task in tasks:
        world.change(task, state="failed")
    assert planned() == ()
