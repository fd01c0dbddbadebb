"""A task's first connection: is it wired at its process's first instruction, and does its first try get through?

A figure to report, not a promise yet: nothing holds a process back until it is wired. What must hold is that every
task gets through, soon. LINKWIRE_FIRST_CONNECTIONS is how many fresh tasks are tried (default 30), and
LINKWIRE_FIRST_BATCH how many at a time (default 5: harder, since three nodes share this machine's processors).
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable

from tests.lab import checker, process
from tests.lab.deployment import Deployment

BATCH = int(os.environ.get("LINKWIRE_FIRST_BATCH") or 5)
# A shell's first instructions: no program is started before the clock is read and the device looked for.
SCRIPT = """
read -r began _ </proc/uptime
set -- /sys/class/net/lw*
wired=bare; [ -e "$$1" ] && wired=wired
if curl -s -m 3 -o /dev/null http://web/; then try=first; else try=later; fi
until [ $$try = first ] || curl -s -m 1 -o /dev/null http://web/; do sleep 0.02; done
read -r ended _ </proc/uptime
echo "$$wired $$try $$began $$ended"
sleep 86400
"""
STACK = """
version: "3.8"
x-wireguard: {{}}
services:
  web:
    image: {image}
    command: [nginx, -g, "daemon off;"]
  probe:
    image: {image}
    command:
      - sh
      - -c
      - |
{script}
    links: [web]
    stop_grace_period: 0s
    deploy: {{replicas: 0}}
"""


def test_how_many_fresh_tasks_get_through_at_the_first_try(stacks: Deployment, figure: Callable[[str], None]) -> None:
    count = int(os.environ.get("LINKWIRE_FIRST_CONNECTIONS") or 30)
    script = "\n".join(f"        {line}" for line in SCRIPT.strip().splitlines())
    stacks.deploy("first", STACK.format(image=stacks.images.demo, script=script))
    stacks.wait_running("first_web", 1)
    checker.settle(stacks.lab)
    answers: list[list[str]] = []
    while len(answers) < count:
        answers += batch(stacks)
    seconds = sorted(float(ended) - float(began) for _, _, began, ended in answers)
    wired = sum(answer[0] == "wired" for answer in answers)
    first = sum(answer[1] == "first" for answer in answers)
    figure(
        f"{len(answers)} fresh tasks, {BATCH} at a time: {wired} wired at the first instruction, "
        f"{first} through at the first try; "
        f"first instruction to answer: median {statistics.median(seconds):.2f} s, "
        f"p90 {seconds[int(0.9 * len(seconds))]:.2f} s, slowest {seconds[-1]:.2f} s"
    )
    assert seconds[-1] < 15


def batch(stacks: Deployment) -> list[list[str]]:
    """Start some tasks, wait for what each has to say, end them."""
    manager = stacks.lab.manager
    manager.docker("service", "scale", "--detach", f"first_probe={BATCH}")
    tasks = stacks.wait_running("first_probe", BATCH)
    said: list[list[str]] = []

    def all_said() -> bool:
        said[:] = [line.split() for node, one in tasks for line in node.docker("logs", one).stdout.splitlines()]
        return len(said) == BATCH

    process.wait_for(f"{BATCH} tasks to get through", all_said, seconds=60, every=0.3)
    manager.docker("service", "scale", "--detach", "first_probe=0")
    stacks.wait_running("first_probe", 0)
    return said
