"""What breaks when something is broken: requests lost over a link that should not notice, counted."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.reporting.status_poller import STATUS_S
from agent.state.verified_state import SAVE_S
from tests.chaos.killer import processes
from tests.lab import checker, process
from tests.lab.deployment import Deployment
from tests.lab.requests import Counted, Requests
from tests.support.effort import LONG

pytestmark = pytest.mark.usefixtures("staying")

STACK = """
version: "3.8"
x-wireguard: {{}}
services:
  web:
    image: {image}
    command: [nginx, -g, "daemon off;"]
    deploy: {{placement: {{constraints: [node.hostname == n2]}}}}
  client:
    image: {image}
    command: [sleep, "86400"]
    stop_grace_period: 1s
    links: [web]
    deploy: {{placement: {{constraints: [node.hostname == n1]}}}}
  spare:
    image: {image}
    command: [sleep, "86400"]
    stop_grace_period: 1s
    links: [web]
    x-wireguard: {{gate: false}} # begins while etcd is away
    deploy: {{replicas: 0}}
"""

FLAPS, FLAP_S = (10 if LONG else 1), 1.0

Figure = Callable[[str], None]


@pytest.fixture
def linked(stacks: Deployment) -> Deployment:
    """A client on n1 linked to a web server on n2."""
    stacks.staying.add("faults")
    stacks.deploy("faults", STACK.format(image=stacks.images.demo))
    stacks.wait_connected("faults")
    checker.settle(stacks.lab)
    return stacks


def counted(linked: Deployment, fault: Callable[[], object]) -> Counted:
    """The requests from client to web that are lost while a fault is made and for a while after."""
    node, client = linked.wait_running("faults_client", 1)[0]
    with Requests(node, client, "http://web/") as requests:
        fault()
        time.sleep(2)
    return requests.counted


def test_etcd_outage_loses_no_request_and_wires_later(linked: Deployment, figure: Figure) -> None:
    def fault() -> None:
        linked.lab.kill_etcd()
        linked.lab.manager.docker("service", "scale", "--detach", "faults_spare=2")
        linked.wait_running("faults_spare", 2)
        linked.lab.restart_etcd()
        checker.settle(linked.lab)

    lost = counted(linked, fault)
    figure(f"etcd killed for a while: {lost}")
    assert lost.lost == 0
    assert lost.ok > 50


def test_emptied_etcd_loses_no_request_and_changes_nothing(linked: Deployment, figure: Figure) -> None:
    """The nodes bring back what was signed: the same addresses, the same keys."""

    def fault() -> None:
        linked.lab.wipe_etcd()
        began = time.monotonic()
        process.wait_for("the links to be known again", lambda: bool(linked.ps("faults")["links"]), seconds=90)
        checker.settle(linked.lab, 60)
        figure(f"an emptied etcd holds again what it held after {time.monotonic() - began:.1f} s")

    before = wired(linked)
    lost = counted(linked, fault)
    figure(f"etcd emptied: {lost}")
    assert wired(linked) == before
    assert len(before) >= 2
    assert lost.lost == 0
    linked.lab.manager.docker("service", "scale", "--detach", "faults_spare=1")
    linked.wait_running("faults_spare", 1)
    checker.settle(linked.lab)


def test_agent_starting_without_etcd_wires_known_tasks(linked: Deployment, figure: Figure) -> None:
    n2 = linked.lab.node("n2")

    def fault() -> None:
        linked.lab.kill_etcd()
        agent = linked.agent(n2)
        assert agent is not None
        n2.docker("kill", agent)
        process.wait_for("another agent", lambda: linked.agent(n2) not in (None, agent), seconds=60)
        process.wait_for("the web server's device", lambda: bool(wired(linked, "n2")), seconds=60)
        time.sleep(3)

    before = wired(linked, "n2")
    time.sleep(SAVE_S + 2 * STATUS_S)  # what is newer than that may not have been kept
    try:
        lost = counted(linked, fault)
        after = wired(linked, "n2")
    finally:
        linked.lab.restart_etcd()
    figure(f"agent's container on the provider's node killed while etcd is away: {lost}")
    assert after == before
    assert lost.gap < 30
    checker.settle(linked.lab)
    assert counted(linked, lambda: None).lost == 0


def wired(linked: Deployment, *nodes: str) -> dict[tuple[str, str], str]:
    """Every device of ours, and what must not change of it: public key, port, addresses."""
    found: dict[tuple[str, str], str] = {}
    for node in linked.lab.nodes:
        for one in checker.devices(node) if not nodes or node.name in nodes else ():
            found[node.name, one.device] = f"{one.public_key} {one.port} {one.address} {one.address6}"
    return found


@pytest.mark.parametrize("victim", ["worker", "controller"])
def test_killed_worker_or_controller_loses_no_request(linked: Deployment, victim: str, figure: Figure) -> None:
    def fault() -> None:
        for pid in processes(linked.lab, victim):
            os.kill(pid, signal.SIGKILL)
        time.sleep(5)

    lost = counted(linked, fault)
    figure(f"every {victim} killed: {lost}")
    assert lost.lost == 0
    checker.settle(linked.lab)


def test_agents_container_dies_and_no_request_is_lost(linked: Deployment, figure: Figure) -> None:
    """With wireguard-go too: it is in another container, and the next agent adopts the devices."""

    def fault() -> None:
        agent = linked.agent(linked.lab.node("n2"))
        assert agent is not None
        linked.lab.node("n2").docker("kill", agent)
        process.wait_for(
            "another agent", lambda: linked.agent(linked.lab.node("n2")) not in (None, agent), seconds=60
        )
        checker.settle(linked.lab)

    lost = counted(linked, fault)
    figure(f"agent's container on the provider's node killed, userspace backend: {lost}")
    assert lost.lost == 0


def test_device_ends_with_task_though_namespace_stays(linked: Deployment) -> None:
    node, client = linked.wait_running("faults_client", 1)[0]
    netns = Path(f"/proc/{node.get(f'/containers/{client}/json')['State']['Pid']}/ns/net")
    inside = netns.readlink()
    with subprocess.Popen(["nsenter", f"--net={netns}", "sleep", "300"]) as keeper:
        try:
            process.wait_for(
                "it to be inside", lambda: Path(f"/proc/{keeper.pid}/ns/net").readlink() == inside, seconds=5
            )
            linked.remove("faults")
            checker.settle(linked.lab)
        finally:
            keeper.kill()


def test_powerless_node_leaves_the_mesh_and_returns(linked: Deployment, figure: Figure) -> None:
    linked.lab.manager.docker("service", "scale", "--detach", "faults_spare=3")
    linked.wait_running("faults_spare", 3)
    checker.settle(linked.lab)
    linked.lab.stop_node("n3")
    try:
        late = checker.settle(linked.lab, 120)
        figure(f"a node without power: devices exact {late:.2f} s after Swarm")
        assert counted(linked, lambda: None).lost == 0
    finally:
        linked.lab.start_node("n3")
    process.wait_for("n3's agent", lambda: linked.agent(linked.lab.node("n3")) is not None, seconds=90, every=0.5)
    late = checker.settle(linked.lab, 120)
    figure(f"the node back: devices exact {late:.2f} s after Swarm")


def test_cut_off_node_rejoins_the_mesh_when_healed(linked: Deployment, figure: Figure) -> None:
    """Its network may come and go before it stays (moby#53141)."""
    linked.lab.cut("n2")
    time.sleep(25)  # longer than Swarm takes to give the node up, and than the agent's lease
    linked.lab.heal("n2")
    for _ in range(FLAPS):
        time.sleep(FLAP_S)
        linked.lab.cut("n2")
        time.sleep(FLAP_S)
        linked.lab.heal("n2")
    late = checker.settle(linked.lab, 120)
    linked.wait_connected("faults")
    figure(f"a node cut off for 25 s and healed, flapping {FLAPS} times: devices exact {late:.2f} s after Swarm")
    assert counted(linked, lambda: None).lost == 0
