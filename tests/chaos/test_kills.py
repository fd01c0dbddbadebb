"""Agents and controllers killed at random in the middle of every step of a stack's life: it converges all the same.

The short form, for every run of the tests, makes FEW kills; LINKWIRE_CHAOS=long makes MANY. LINKWIRE_CHAOS_SEED
makes a run's choices again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from tests.chaos.addresses import History
from tests.chaos.killer import Killer
from tests.lab import checker
from tests.lab.deployment import Deployment
from tests.lab.test_lifecycle import left, steps, wireguard_processes
from tests.support.effort import LONG

FEW, MANY = 12, 50
SETTLE_S = 120.0


def test_kills_in_the_middle_of_every_step(stacks: Deployment, tmp_path: Path, figure: Callable[[str], None]) -> None:
    kills = MANY if LONG else FEW
    seed = int(os.environ.get("LINKWIRE_CHAOS_SEED") or time.time())
    print(f"{kills} kills, LINKWIRE_CHAOS_SEED={seed}")
    todo = steps(stacks)
    slowest = 0.0
    done = 0
    with History(stacks.lab.etcd_endpoint, tmp_path / "addresses") as history:
        while done < kills:
            for name, step in todo:
                share = max(1, round(kills / len(todo)))
                killer = Killer(stacks.lab, min(share, kills - done), seed + done)
                with killer:
                    step()
                    killer.wait(30)
                done += killer.killed.total()
                late = checker.settle(stacks.lab, SETTLE_S)
                slowest = max(slowest, late)
                print(f"{done:3} kills; {name}: {dict(killer.killed)}; exact {late:.2f} s after Swarm", flush=True)
                if done >= kills:
                    break
        stacks.remove("life")
        deadline = time.monotonic() + 90
        while (keys := left(stacks)) and time.monotonic() < deadline:
            time.sleep(0.5)
    figure(f"{done} kills (seed {seed}), {history.given} addresses given, slowest {slowest:.2f} s after Swarm")
    assert done == kills
    assert history.given > 0
    assert history.faults == []
    assert keys == []
    assert checker.differences(stacks.lab) == []
    assert wireguard_processes(stacks) == 0
