"""Docker is slow, wrong or silent for one container of a node, or its events stall: a proxy on its socket does that.

Real: dockerd, the agent in its container, Swarm. All others are wired at once, that one when Docker answers again;
requests over links of wired tasks go on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.containers.watcher import RESYNC_S
from tests.lab import checker, process, programs
from tests.lab.deployment import Deployment
from tests.lab.node import Node
from tests.lab.requests import Requests
from tests.lab.words import Words
from tests.support.docker_proxy import FAILURES, DockerProxy, Failure
from tests.support.effort import in_long_form
from tests.support.fault_rows import FaultRow

Row = Callable[[FaultRow], None]

pytestmark = in_long_form

STALL_S = 20.0
AT_ONCE_S = 15.0
"""Seconds for a task to be started by Swarm and connected."""


@contextmanager
def proxied(stacks: Deployment, node: Node) -> Iterator[DockerProxy]:
    """While entered, the node's agent, a new one, has the proxy between it and Docker."""
    run = Path(f"/proc/{node.dockerd_pid}/root/run")
    theirs, real = run / "docker.sock", run / "docker-itself.sock"
    theirs.rename(real)
    try:
        with DockerProxy(theirs, node.socket) as proxy:
            replace_agent(stacks, node)
            yield proxy
    finally:
        real.rename(theirs)
        replace_agent(stacks, node)


def replace_agent(stacks: Deployment, node: Node) -> None:
    before = stacks.agent(node)
    assert before is not None
    node.docker("kill", before)
    process.wait_for("another agent", lambda: stacks.agent(node) not in (None, before), seconds=60)
    process.wait_for("agents", stacks.agents_ready, seconds=60)


@pytest.fixture(scope="module")
def slow(deployment: Deployment) -> Iterator[tuple[Deployment, DockerProxy]]:
    """Servers on n1, where Docker is asked by the proxy, and a client on n2."""
    demo, there = deployment.images.demo, {"constraints": ["node.hostname == n1"]}
    servers = {
        name: programs.service(
            demo,
            "listen",
            name,
            "--tcp",
            "80",
            deploy={"replicas": count, "placement": there},
            stop_grace_period="1s",
        )
        for name, count in (("web", 1), ("good", 0), ("ill", 0))
    }
    on_n2 = {"placement": {"constraints": ["node.hostname == n2"]}}
    services = {**servers, "client": programs.idle(demo, links=list(servers), deploy=on_n2)}
    deployment.staying.add("slow")
    deployment.deploy("slow", programs.stack(services))
    process.wait_for("the link", lambda: connected(deployment, "slow_web") == 1, seconds=90)
    try:
        with proxied(deployment, deployment.lab.node("n1")) as proxy:
            yield deployment, proxy
    finally:
        deployment.remove("slow")
        deployment.staying.discard("slow")


def connected(stacks: Deployment, provider: str) -> int:
    """How many tasks of a provider the client is connected to."""
    answer = stacks._ask(stacks.lab.manager, "linkwire-ask", "links", json.dumps({"stack": "slow"})) or {"links": ()}
    pairs = [pair for link in answer["links"] if link["provider"] == provider for pair in link["pairs"]]
    return sum(pair["state"] == "connected" for pair in pairs)


def scale(stacks: Deployment, service: str, count: int) -> None:
    stacks.lab.manager.docker("service", "scale", "--detach", f"slow_{service}={count}")


def await_connected(stacks: Deployment, service: str, count: int, seconds: float) -> float:
    began = time.monotonic()
    what = f"{count} of {service}"
    process.wait_for(what, lambda: connected(stacks, f"slow_{service}") == count, seconds=seconds, every=0.2)
    return time.monotonic() - began


def back(stacks: Deployment) -> None:
    for service in ("good", "ill"):
        scale(stacks, service, 0)
        stacks.wait_running(f"slow_{service}", 0)
    checker.settle(stacks.lab, 60)


@pytest.mark.parametrize("failure", FAILURES)
def test_others_are_wired_while_docker_fails_for_one(
    slow: tuple[Deployment, DockerProxy], failure: Failure, figure: Callable[[str], None], fault_row: Row
) -> None:
    """Docker fails for a wired task and for one that is new: the wired one goes on, others are wired beside it."""
    stacks, proxy = slow
    node = stacks.lab.node("n1")
    ((_, web),), (client,) = stacks.tasks("slow_web"), stacks.tasks("slow_client")

    def is_ill(container: str) -> Failure | None:
        name = node.get(f"/containers/{container}/json")["Name"]
        return failure if name.startswith("/slow_ill.") else None

    with Words(stacks, "slow_web") as words, Requests(*client, "http://web:80/") as requests:
        proxy.failing[web], proxy.fails = failure, is_ill
        scale(stacks, "ill", 1)
        stacks.wait_running("slow_ill", 1)
        scale(stacks, "good", 2)
        took = await_connected(stacks, "good", 2, AT_ONCE_S)
        time.sleep(RESYNC_S + 1)  # all are listed once more
        assert connected(stacks, "slow_web") == 1
        proxy.heal()
        healed = await_connected(stacks, "ill", 1, AT_ONCE_S)
    figure(
        f"Docker {failure} for a wired and a new task: two others connected {took:.1f} s after they were asked for,"
        f" the new one {healed:.1f} s after Docker answered; {requests.counted}"
    )
    fault_row(requests.counted.row(f"Docker {failure} for two containers of a node", took, words))
    assert (requests.counted.lost, words.false) == (0, [])
    back(stacks)


@pytest.mark.parametrize("how", ["stall", "drop"])
def test_tasks_are_wired_while_events_are_missing(
    slow: tuple[Deployment, DockerProxy], how: str, figure: Callable[[str], None], fault_row: Row
) -> None:
    stacks, proxy = slow
    (client,) = stacks.tasks("slow_client")
    with Words(stacks, "slow_web") as words, Requests(*client, "http://web:80/") as requests:
        began = time.monotonic()
        proxy.events("stall" if how == "stall" else "drop")
        time.sleep(3)
        scale(stacks, "good", 2)
        took = await_connected(stacks, "good", 2, AT_ONCE_S)
        time.sleep(max(0.0, began + STALL_S - time.monotonic()))
        proxy.events("pass")
        scale(stacks, "ill", 1)
        after = await_connected(stacks, "ill", 1, AT_ONCE_S)
    figure(
        f"Docker's events {how} for {STALL_S:.0f} s: two new tasks connected {took:.1f} s after they were asked for,"
        f" another {after:.1f} s after they came again; {requests.counted}"
    )
    fault_row(requests.counted.row(f"Docker's events {how} for {STALL_S:.0f} s", took, words))
    assert (requests.counted.lost, words.false) == (0, [])
    back(stacks)
