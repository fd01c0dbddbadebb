"""A node's clock is set while its links are used: forward by a year, and back by an hour.

The agent's alone: it loads a library that says so. What WireGuard makes of a clock that was set is for the guest's
kernel (tests/kernel/guest_tests), and a controller's clock for tests/store/test_controller_clocks.py.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

from agent.reporting.reporter import LEASE_S
from tests.lab import checker, process
from tests.lab.deployment import Deployment
from tests.lab.faults import wrong_clock
from tests.lab.requests import Load
from tests.lab.words import Words
from tests.support.effort import in_long_form
from tests.support.fault_rows import FaultRow

YEAR_S, HOUR_S = 365 * 86400, 3600
OFF = "LINKWIRE_TEST_CLOCK=/clock/off"
LASTS_S = 2 * LEASE_S
"""Seconds of requests by each clock, in which the agent's lease would end."""
STACK = """
version: "3.8"
x-wireguard: {{}}
services:
  web: &server
    image: {image}
    command: [nginx, -g, "daemon off;"]
    deploy: &there {{replicas: 2, placement: {{constraints: [node.hostname == n2]}}}}
  client: &client
    image: {image}
    command: [sleep, "86400"]
    stop_grace_period: 1s
    links: [web]
    deploy: &here {{replicas: 3, placement: {{constraints: [node.hostname == n1]}}}}
  back: {{<<: *server, deploy: *here}}
  buyer: {{<<: *client, links: ["back:web"], deploy: *there}}
"""


@in_long_form
def test_clock_that_is_set_loses_no_request(
    stacks: Deployment, figure: Callable[[str], None], fault_row: Callable[[FaultRow], None]
) -> None:
    off = stacks.lab.layout.root / "clock/n2/off"
    off.parent.mkdir(parents=True, exist_ok=True)
    off.write_bytes(struct.pack("q", 0))
    stacks.deploy("clock", STACK.format(image=stacks.images.demo))
    stacks.wait_connected("clock")
    with wrong_clock(stacks, "--env-add", OFF):
        checker.settle(stacks.lab)
        clients = stacks.tasks("clock_client") + stacks.tasks("clock_buyer")
        for name, seconds in (("a year ahead", YEAR_S), ("right again", 0), ("an hour back", -HOUR_S)):
            with Words(stacks, "clock") as words, Load(clients, "http://web/") as requests:
                with off.open("r+b") as file:  # in place: the agent has it mapped
                    file.write(struct.pack("q", seconds))
                wired = new_task(stacks)
                time.sleep(LASTS_S)
                checker.settle(stacks.lab)
            figure(f"n2's clock {name}: {requests.counted}; a new task's links after {wired:.1f} s")
            fault_row(requests.counted.row(f"clock of a provider's node {name}", wired, words))
            assert requests.counted.lost == 0, requests.counted


def new_task(stacks: Deployment) -> float:
    """Start one more consumer on n2; the seconds until Docker has its task and the mesh its links."""
    began, count = time.monotonic(), len(stacks.tasks("clock_buyer"))
    stacks.lab.manager.docker("service", "scale", "--detach", f"clock_buyer={count + 1}")
    stacks.wait_running("clock_buyer", count + 1)
    process.wait_for("its links", lambda: not checker.differences(stacks.lab), seconds=60, every=0.3)
    return time.monotonic() - began
