"""A Swarm that is changed and broken at random for LINKWIRE_SOAK_S seconds, while other links are in use.

At the end everything is exact, nothing is left of what ended, and agents and controllers have not grown.
LINKWIRE_CHAOS_SEED makes a run's choices again.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.chaos.havoc import LIFE, LONGEST_S, Havoc
from tests.chaos.killer import AGENT, CONTROLLER, WORKER, processes
from tests.lab import checker, process
from tests.lab.deployment import Deployment
from tests.lab.layout import LabError
from tests.lab.requests import Load
from tests.lab.test_clocks import STACK
from tests.lab.test_lifecycle import compose, left, wireguard_processes
from tests.lab.words import Words
from tests.netns.test_soak import resident
from tests.support.fault_rows import FaultRow

SOAK_S = float(os.environ.get("LINKWIRE_SOAK_S") or 0)
SEED = int(os.environ.get("LINKWIRE_CHAOS_SEED") or time.time())
STEADY = "steady"
SETTLE_S = 180.0
ROUNDS = 4
"""After so many, everything must come to rest."""
MORE = {"descriptors": 40, "threads": 16, "KiB": 24 << 10}
"""What a process may have more than the largest of its kind at the beginning: pools, and an interpreter's memory."""

pytestmark = [
    pytest.mark.skipif(not SOAK_S, reason="in make chaos; test_kills.py is its short form"),
    pytest.mark.timeout(2 * SOAK_S + 3600),
]


def test_swarm_outlives_hours_of_faults(
    stacks: Deployment, figure: Callable[[str], None], fault_row: Callable[[FaultRow], None]
) -> None:
    print(f"LINKWIRE_CHAOS_SEED={SEED}, {SOAK_S:.0f} s", flush=True)
    stacks.deploy(STEADY, STACK.format(image=stacks.images.demo))
    stacks.wait_connected(STEADY)
    checker.settle(stacks.lab)
    tasks = stacks.tasks(f"{STEADY}_client") + stacks.tasks(f"{STEADY}_buyer")
    began, havoc = time.monotonic(), Havoc(stacks, random.Random(SEED))  # noqa: S311 - a seed
    records, devices, first = kinds(left(stacks)), wireguard_processes(stacks), largest(stacks)
    done: Counter[str] = Counter()
    stacks.deploy(LIFE, compose(stacks))
    words, requests = Words(stacks, STEADY), Load(tasks, "http://web/", SOAK_S + 3600)
    try:
        with words, requests:
            while time.monotonic() < began + SOAK_S:
                for _ in range(ROUNDS):
                    round_of(havoc, done)
                late = checker.settle(stacks.lab, SETTLE_S)
                now = time.monotonic() - began
                print(f"{now:5.0f} s: {done.total()} so far; exact {late:.1f} s later", flush=True)
    except LabError:
        figure(f"ended after {time.monotonic() - began:.0f} s, seed {SEED}: {dict(done)}; {requests.counted}")
        figure(containers(stacks))
        raise
    stacks.remove(LIFE)
    checker.settle(stacks.lab, SETTLE_S)
    last = largest(stacks)
    figure(
        f"soak of {SOAK_S / 60:.0f} min, seed {SEED}: {dict(done)}; {requests.counted}; {words.asked} times asked,"
        f" false words: {words.false}; at most at first {first}, at last {last}"
    )
    fault_row(requests.counted.row(f"soak of {SOAK_S / 60:.0f} min, {done.total()} faults and changes", words=words))
    process.wait_for("records of ended tasks to go", lambda: not kinds(left(stacks)) - records, seconds=90)
    assert wireguard_processes(stacks) == devices
    assert {kind: (first[kind], n) for kind, n in last.items() if n > first[kind] + MORE[kind.split()[1]]} == {}
    assert words.false == []
    assert requests.counted.lost == 0, requests.counted


def round_of(havoc: Havoc, done: Counter[str]) -> None:
    """Break one thing, change some others meanwhile, and take the fault away."""
    name, heal = havoc.fault()
    done[name] += 1
    try:
        until = time.monotonic() + havoc.choice.uniform(1.0, LONGEST_S)
        while time.monotonic() < until:
            try:
                done[havoc.change()] += 1
            except LabError as error:  # a manager, or etcd, that is away refuses it
                done["changes refused"] += 1
                print(f"{name}: {str(error)[-300:]}", flush=True)
            time.sleep(havoc.choice.uniform(0.5, 8.0))
    finally:
        heal()
    time.sleep(havoc.choice.uniform(0.0, 5.0))


def containers(stacks: Deployment) -> str:
    """Tell what each node has and what its agent said last, by which one may see whose fault a difference is."""
    form = "{{.Id}} {{.Name}}: {{.State.Status}}, pid {{.State.Pid}}, {{.NetworkSettings.SandboxKey}}"
    told = []
    for node in stacks.lab.nodes:
        ids = node.docker("ps", "--all", "--quiet", "--no-trunc", check=False).stdout.split()
        told.append(f"{node.name}:\n" + node.docker("inspect", "--format", form, *ids, check=False).stdout)
        if agent := stacks.agent(node):
            done = node.docker("logs", "--tail", "40", agent, check=False)
            told.append(done.stdout + done.stderr)
    return "\n".join(told)


def kinds(keys: list[str]) -> Counter[str]:
    """Count records by kind."""
    return Counter("/".join(key.split("/")[:4]) for key in keys)


def largest(stacks: Deployment) -> Mapping[str, int]:
    """Tell how many descriptors and threads, and how much memory, the largest process of each program has."""
    found: dict[str, int] = {}
    for program in (AGENT, WORKER, CONTROLLER):
        for pid in processes(stacks.lab, program):
            base = Path(f"/proc/{pid}")
            sizes = len(list((base / "fd").iterdir())), len(list((base / "task").iterdir())), resident(pid)
            for what, size in zip(MORE, sizes, strict=True):
                found[f"{program} {what}"] = max(found.get(f"{program} {what}", 0), size)
    return found
