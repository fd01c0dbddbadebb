"""Words of `status` and `check` while services are scaled and updated, and nothing is wrong: none."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

from tests.lab import checker, process, programs
from tests.lab.deployment import Deployment
from tests.lab.node import Node
from tests.lab.programs import Calls
from tests.support.effort import LONG

LASTS_S = 600 if LONG else 45
ASKED_EVERY_S = 5.0
SEED = 20261129
MOST = 5


def _accepted(manager: Node, change: list[str]) -> bool:
    answer = manager.docker("service", *change, check=False)
    assert answer.returncode == 0 or "out of sequence" in answer.stderr, answer.stderr
    return answer.returncode == 0


@contextmanager
def restless(stacks: Deployment) -> Iterator[list[str]]:
    """While entered, services are scaled and updated, one after another; what was done."""
    chosen = random.Random(SEED)  # noqa: S311 - no secret
    ends, done = threading.Event(), list[str]()

    def work() -> None:
        manager = stacks.lab.manager
        while not ends.is_set():
            service = chosen.choice(("calm_web", "calm_api"))
            if chosen.random() < 0.6:
                done.append(f"{service}={chosen.randint(1, MOST)}")
                change = ["scale", "--detach", done[-1]]
            else:
                done.append(f"{service} updated")
                change = ["update", "--detach", "--force", service]
            # Swarm refuses a change where its own scheduler has just written the service ("update out of sequence").
            process.wait_for(done[-1], partial(_accepted, manager, change), seconds=30)
            ends.wait(chosen.uniform(3, 9))

    with ThreadPoolExecutor(1) as apart:
        worked = apart.submit(work)
        try:
            yield done
        finally:
            ends.set()
        worked.result()


def alarms(stacks: Deployment, stack: str = "calm") -> list[str]:
    """What `status` and `check` say is wrong now."""
    told = stacks.try_linkwire("status", "--format", "json")
    checked = stacks.try_linkwire("check", "--stack", stack)
    found = [f"status: {finding}" for finding in json.loads(told.stdout)["findings"]]
    return found + ([f"check: {checked.stdout.strip()}"] if checked.returncode else [])


def test_scaling_and_updating_alarm_nobody(stacks: Deployment, figure: Callable[[str], None]) -> None:
    image = stacks.images.demo
    rolling = {"replicas": 2, "update_config": {"order": "start-first", "parallelism": 1}}
    services = {
        "web": programs.service(image, "listen", "web", "--tcp", "80", deploy=rolling),
        "api": programs.service(image, "listen", "api", "--tcp", "80", deploy=rolling, links=["web"]),
        "client": programs.idle(image, links=["web", "api"], deploy={"mode": "global"}),
    }
    stacks.deploy("calm", programs.stack(services))
    client = stacks.wait_running("calm_client", 3)[0]
    stacks.wait_running("calm_web", 2)
    stacks.wait_running("calm_api", 2)
    checker.settle(stacks.lab)
    stacks.wait_connected("calm")
    asked, false = 0, list[str]()
    ends = time.monotonic() + LASTS_S
    with Calls(client, "web", "--threads", "1", pause=0.2), restless(stacks) as done:
        while time.monotonic() < ends:
            next_at = time.monotonic() + ASKED_EVERY_S
            false += [f"after {done[-1:]}: {alarm}" for alarm in alarms(stacks)]
            asked += 1
            time.sleep(max(0.0, next_at - time.monotonic()))
    figure(f"{len(done)} changes in {LASTS_S} s, asked {asked} times: {len(false)} false alarms")
    assert false == [], "\n".join(false)
    assert len(done) > LASTS_S / 15
    checker.settle(stacks.lab, 120)


SLOW_S = 20.0
"""For which an image is pulled: silence is a fault after half of it, and a slow start after three times."""


@contextmanager
def stalled_registry(stacks: Deployment, node: Node) -> Iterator[None]:
    """While entered a registry's large answers do not reach a node: what it pulls stalls, and goes on later."""
    host, port = stacks.lab.registry.split(":")
    stalled = f"ip saddr {host} tcp sport {port} ip length > 400 drop"
    hook = "type filter hook input priority 0"
    node.run(["nft", f"add table ip slow; add chain ip slow in {{ {hook}; }}; add rule ip slow in {stalled}"])
    try:
        yield
    finally:
        node.run(["nft", "delete", "table", "ip", "slow"])


def test_image_that_is_pulled_slowly_alarms_nobody(stacks: Deployment, figure: Callable[[str], None]) -> None:
    """Others send to the task from its record on, and get no answer before its container is there."""
    manager, node = stacks.lab.manager, stacks.lab.node("n3")
    image, there = f"{stacks.lab.registry}/unknown-to-n3:dev", {"constraints": ["node.hostname==n3"]}
    manager.docker("tag", stacks.images.demo, image)
    manager.docker("push", "--quiet", image)
    services = {
        "web": programs.service(image, "listen", "web", "--tcp", "80", deploy={"placement": there}),
        "client": programs.idle(stacks.images.demo, links=["web"], deploy={"mode": "global"}),
    }
    states, false = set[str](), list[str]()

    def ask() -> set[str]:
        found = {pair["state"] for link in stacks.ps("slow")["links"] for pair in link["pairs"]}
        states.update(found)
        # On a machine that is busy the task is on its way for more than a minute, which is told.
        false.extend(alarm for alarm in alarms(stacks, "slow") if "no answer" in alarm)
        return found

    with stalled_registry(stacks, node):
        stacks.deploy("slow", programs.stack(services))
        stacks.wait_running("slow_client", 3)
        process.wait_for("the pairs", lambda: bool(ask()), seconds=20)
        ends = time.monotonic() + SLOW_S
        while time.monotonic() < ends:
            assert ask() == {"unwired"}
    stacks.wait_running("slow_web", 1)
    checker.settle(stacks.lab)
    stacks.wait_connected("slow")
    assert ask() == {"connected"}
    figure(
        f"an image pulled for {SLOW_S:.0f} s and more: {len(false)} false alarms, pairs {', '.join(sorted(states))}"
    )
    assert false == [], "\n".join(false)
