"""Very many tasks start over a whole cluster within ten seconds: seconds until all are ready, and their cost."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.bench.scale import world as worlds
from tests.bench.scale.stage import staged, wait_for
from tests.support.effort import LONG

NODES_TASKS, NEW, WITHIN_S = (1000, 2000, 10.0) if LONG else (60, 60, 0.5)
"""Tasks that are there before (1,000 on 30 nodes), new ones, and the seconds within which these start."""
READY_S = 120.0
FIRST_SLOT = 20


def test_burst_over_cluster_is_planned_together(figure: Callable[[str], None]) -> None:
    """What changes while a plan is made waits as a set of names: passes are few, whatever the number of tasks."""
    world = worlds.stacks(NODES_TASKS)
    services, nodes = list(world.services), world.nodes
    real = [nodes[0], nodes[2]]
    with staged(world, {"shape": "stacks", "tasks": NODES_TASKS}, real) as stage:
        before, cpu, writes = stage.controller("state")["passes"], stage.controller.cpu(), stage.ear.writes
        agents = {node: (stage.nodes[node].cpu(), stage.nodes[node]("cost")["peak"]) for node in real}
        held = stage.controller("cost")["mib"]
        began, made = time.monotonic(), set[str]()
        for number in range(NEW):
            service, slot = services[number % len(services)], FIRST_SLOT + number // len(services)
            node = nodes[number % len(services) * len(nodes) // len(services)]  # where the others of its service are
            put = {"desired": "running", "state": "running", "scale": 1}
            task = str(stage.controller("put", service=service, place=(slot, node, 0), **put)["task"])
            if node in real:
                stage.nodes[node]("container", task=task, service=service, state="running")
            made.add(task)
            time.sleep(max(0.0, began + WITHIN_S * number / NEW - time.monotonic()))
        started = time.monotonic() - began
        wait_for(lambda: made <= stage.ear.ready, READY_S)
        ready = time.monotonic() - began
        stage.settle()
        passes = stage.controller("state")["passes"] - before
        cost = stage.controller("cost")
        spent = [stage.nodes[node].cpu() - agents[node][0] for node in real]
        figure(
            f"{NEW} tasks in {started:.1f} s on {len(nodes)} nodes: all ready after {ready:.1f} s, no more writes"
            f" after {time.monotonic() - began - 0.5:.1f} s; {passes} plans, {stage.ear.writes - writes} writes, the"
            f" controller {(stage.controller.cpu() - cpu) / 1000:.1f} s of processor, {held:.0f} to"
            f" {cost['peak']:.0f} MiB; two agents {spent[0] / 1000:.1f} and {spent[1] / 1000:.1f} s of processor"
        )
        assert not LONG or passes < NEW / 4  # few tasks are planned faster than they come
        assert ready < READY_S
