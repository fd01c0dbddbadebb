"""A task's first connection: is it wired at its process's first instruction, and does its first try get through?

Without the gate that is a figure to report; with it, being wired is a promise. LINKWIRE_FIRST_CONNECTIONS is how many
fresh tasks are tried of each kind (default 15), and LINKWIRE_FIRST_BATCH how many at a time (default 5: harder, since
three nodes share this machine's processors).
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from tests.lab import checker, process
from tests.lab.deployment import Deployment
from tests.lab.node import Node

BATCH = int(os.environ.get("LINKWIRE_FIRST_BATCH") or 5)
# A shell's first instructions: no program is started before the clock is read and the device looked for.
SCRIPT = """
read -r began _ </proc/uptime
set -- /sys/class/net/lw*
wired=bare; [ -e "$$1" ] && wired=wired
named=nameless; while read -r _ name _; do [ "$$name" = web ] && named=named; done </etc/hosts
curl -s -m 3 -o /dev/null http://web/; try=$$?
until [ $$try = 0 ] || curl -s -m 1 -o /dev/null http://web/; do sleep 0.02; done
read -r ended _ </proc/uptime
echo "$$wired $$named $$try $$began $$ended"
sleep 86400
"""
STACK = """
version: "3.8"
x-wireguard: {{}}
services:
  web:
    image: {image}
    command: [nginx, -g, "daemon off;"]
  open:
    image: {image}
    command: &probe
      - sh
      - -c
      - |
{script}
    links: [web]
    stop_grace_period: 0s
    x-wireguard: {{gate: false}}
    deploy: {{replicas: 0}}
  gated:
    image: {image}
    command: *probe
    links: [web]
    stop_grace_period: 0s
    x-wireguard: {{gate: true}}
    deploy: {{replicas: 0}}
"""


@dataclass(frozen=True)
class Start:
    """How one task started.

    Attributes:
        wired: whether its device was there at its first instruction.
        named: whether its hosts file had the link's name then.
        tried: what came of its first try, as curl says it: 0 it got through, 6 no such name, 7 refused, 28 silence.
        answer: seconds from its first instruction to the first answer.
        start: seconds from Docker's making the container to its process's start.
    """

    wired: bool
    named: bool
    tried: int
    answer: float
    start: float


def test_fresh_tasks_get_through_at_first_try(stacks: Deployment, figure: Callable[[str], None]) -> None:
    count = int(os.environ.get("LINKWIRE_FIRST_CONNECTIONS") or 15)
    script = "\n".join(f"        {line}" for line in SCRIPT.strip().splitlines())
    stacks.deploy("first", STACK.format(image=stacks.images.demo, script=script))
    stacks.wait_running("first_web", 1)
    checker.settle(stacks.lab)
    starts: dict[str, list[Start]] = {"open": [], "gated": []}
    while len(starts["gated"]) < count:
        for service, seen in starts.items():  # by turns, so that what else the machine does weighs on both
            seen.extend(batch(stacks, f"first_{service}"))
    took = {service: statistics.median(one.start for one in seen) for service, seen in starts.items()}
    for service, seen in starts.items():
        figure(f"{service}: {described(seen)}")
    figure(f"what the gate adds to a start, of the medians: {1000 * (took['gated'] - took['open']):+.0f} ms")
    assert all(one.wired and one.named and one.tried == 0 for one in starts["gated"])
    every = [one for seen in starts.values() for one in seen]
    assert sum(one.named for one in every) > 0.8 * len(every), "they come some 300 ms before the process"
    assert not [one for one in every if one.named and one.tried not in (0, 7)], "refused at the second packet"
    assert max(one.answer for seen in starts.values() for one in seen) < 15


def described(starts: list[Start]) -> str:
    """One line for one kind of tasks."""
    answers = sorted(one.answer for one in starts)
    took = sorted(one.start for one in starts)
    return (
        f"{len(starts)} fresh tasks, {BATCH} at a time: {sum(one.wired for one in starts)} wired at the first "
        f"instruction, {sum(one.named for one in starts)} named, {sum(one.tried == 0 for one in starts)} through at "
        f"the first try, the others {sorted(one.tried for one in starts if one.tried)}; first instruction to answer: "
        f"median {statistics.median(answers):.2f} s, p90 {answers[int(0.9 * len(answers))]:.2f} s, slowest "
        f"{answers[-1]:.2f} s; made to started: median {statistics.median(took):.2f} s, "
        f"p90 {took[int(0.9 * len(took))]:.2f} s, slowest {took[-1]:.2f} s"
    )


def batch(stacks: Deployment, service: str) -> list[Start]:
    """Start some tasks, wait for what each has to say, end them."""
    manager = stacks.lab.manager
    manager.docker("service", "scale", "--detach", f"{service}={BATCH}")
    tasks = stacks.wait_running(service, BATCH)
    said: list[list[str]] = []

    def all_said() -> bool:
        said[:] = [node.docker("logs", one).stdout.split() for node, one in tasks]
        return all(said)

    process.wait_for(f"{BATCH} tasks to get through", all_said, seconds=60, every=0.3)
    took = [start_seconds(node, one) for node, one in tasks]
    manager.docker("service", "scale", "--detach", f"{service}=0")
    stacks.wait_running(service, 0)
    return [
        Start(wired == "wired", named == "named", int(tried), float(ended) - float(began), seconds)
        for (wired, named, tried, began, ended), seconds in zip(said, took, strict=True)
    ]


def start_seconds(node: Node, container: str) -> float:
    """From Docker's making a container to its process's start, as Docker has it."""
    raw = node.get(f"/containers/{container}/json")
    made, started = (
        datetime.fromisoformat(text[:26].removesuffix("Z")) for text in (raw["Created"], raw["State"]["StartedAt"])
    )
    return (started - made).total_seconds()
