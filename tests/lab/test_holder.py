"""The container in which wireguard-go outlives the agent: agents are replaced under load, on a real Swarm."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import ExitStack

from agent.containers.holder_container import FOLDER, NAME
from tests.lab import checker, process
from tests.lab.deployment import Deployment
from tests.lab.node import Node
from tests.lab.requests import Requests, together
from tests.lab.words import Words
from tests.support.effort import in_long_form
from tests.support.fault_rows import FaultRow

CLIENTS = 5
"""Each makes some 40 requests a second."""
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
    deploy: {{replicas: {clients}, placement: {{constraints: [node.hostname == n1]}}}}
"""


def deploy(stacks: Deployment, clients: int) -> list[tuple[Node, str]]:
    stacks.deploy("holder", STACK.format(image=stacks.images.demo, clients=clients))
    stacks.wait_connected("holder")
    checker.settle(stacks.lab)
    return stacks.wait_running("holder_client", clients)


def holders(stacks: Deployment) -> dict[str, str]:
    """Ids of the nodes' holders."""
    return {node.name: node.docker("inspect", "--format", "{{.Id}}", NAME).stdout for node in stacks.lab.nodes}


@in_long_form
def test_updating_all_agents_loses_no_request(
    stacks: Deployment, figure: Callable[[str], None], fault_row: Callable[[FaultRow], None]
) -> None:
    clients = deploy(stacks, CLIENTS)
    before, agents = holders(stacks), {node.name: stacks.agent(node) for node in stacks.lab.nodes}
    counting = [Requests(node, client, "http://web/") for node, client in clients]
    began = time.monotonic()
    with ExitStack() as stack:
        words = stack.enter_context(Words(stacks, "holder"))
        for one in counting:
            stack.enter_context(one)
        stacks.lab.manager.docker("service", "update", "--force", "--quiet", "linkwire_agent", timeout=250)
        process.wait_for("agents everywhere", stacks.agents_ready, seconds=60, every=0.5)
        time.sleep(2)
    took = time.monotonic() - began
    counted = [one.counted for one in counting]
    lost, made = sum(one.lost for one in counted), sum(one.lost + one.ok for one in counted)
    figure(f"all agents replaced under {made / took:.0f} requests/s: {lost} of {made} lost")
    fault_row(together(counted).row("all agents replaced", words=words))
    assert holders(stacks) == before
    assert all(stacks.agent(node) not in (None, agents[node.name]) for node in stacks.lab.nodes)
    assert (lost, [one.why for one in counted]) == (0, [{}] * CLIENTS)
    checker.settle(stacks.lab)


def test_holder_has_little_and_is_made_again(
    stacks: Deployment, figure: Callable[[str], None], fault_row: Callable[[FaultRow], None]
) -> None:
    ((_, client),) = deploy(stacks, 1)
    n1 = stacks.lab.node("n1")
    seen = json.loads(n1.docker("inspect", NAME).stdout)[0]
    host = seen["HostConfig"]
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["NetworkMode"]) == (True, ["ALL"], "host")
    assert set(host["CapAdd"]) == {"CAP_NET_ADMIN", "CAP_MKNOD"} or set(host["CapAdd"]) == {"NET_ADMIN", "MKNOD"}
    assert [mount["Source"] for mount in seen["Mounts"]] == [str(FOLDER)]
    assert not any("LINKWIRE" in variable for variable in seen["Config"]["Env"])
    assert n1.run(["stat", "--format", "%a %u", str(FOLDER)]).stdout == "700 0\n"
    figure(f"holder with {n1.docker('top', NAME).stdout.count('wireguard-go -f')} devices: {memory(n1)}")
    with Requests(n1, client, "http://web/") as requests:
        began = time.monotonic()
        n1.docker("kill", NAME)
        process.wait_for("another", lambda: has_devices(n1) and holders(stacks)["n1"] != seen["Id"], seconds=30)
        checker.settle(stacks.lab)
        took = time.monotonic() - began
        time.sleep(2)
    figure(f"holder killed: all right again after {took:.1f} s, {requests.counted}")
    fault_row(requests.counted.row("holder of the consumer's node killed", took))
    assert requests.counted.gap < 20


def has_devices(node: Node) -> bool:
    return "wireguard-go -f" in node.docker("top", NAME, check=False).stdout


def memory(node: Node) -> str:
    return node.docker("stats", "--no-stream", "--format", "{{.MemUsage}}", NAME).stdout.strip()
