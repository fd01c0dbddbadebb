"""What is refused and what is measured, as a person and as Prometheus see it: both ends of a link, and all nodes."""

from __future__ import annotations

import re

from tests.lab import process
from tests.lab.deployment import Deployment
from tests.lab.node import Node
from tests.lab.test_links import mesh_address

STACK = """
version: "3.8"
x-wireguard: {{}}
services:
  web:
    image: {image}
    command: [nginx, -g, "daemon off;"]
    stop_grace_period: 0s
  client:
    image: {image}
    command: [sleep, "86400"]
    stop_grace_period: 0s
    links: [web]
    x-wireguard: {{links: {{web: {{ports: ["80/tcp"]}}}}}}
    deploy: {{mode: global}}
"""
SCRAPE = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:9586/metrics').read().decode())"
REFUSED = {"consumer": {"in": 0, "out": 3}, "provider": {"in": 0, "out": 1}}


def tries(node: Node, container: str, url: str) -> int:
    """curl's exit code: 7 for refused, 28 for no answer."""
    return node.docker(
        "exec", container, "curl", "-4", "-s", "-o", "/dev/null", "-m", "5", url, check=False
    ).returncode


def summed(stacks: Deployment) -> dict[str, float]:
    """Every number of every node's agent, added up by name and labels."""
    sums: dict[str, float] = {}
    for node in stacks.lab.nodes:
        text = node.run(["python3", "-c", SCRAPE]).stdout
        for name, value in re.findall(r"^([a-z_]+(?:\{.*\})?) (\S+)$", text, re.MULTILINE):
            sums[name] = sums.get(name, 0.0) + float(value)
    return sums


def test_refusals_are_counted_for_people_and_prometheus(stacks: Deployment) -> None:
    stacks.deploy("seen", STACK.format(image=stacks.images.demo))
    (web_node, web), *_ = stacks.wait_running("seen_web", 1)
    clients = stacks.wait_running("seen_client", 3)
    (link,) = stacks.wait_connected("seen")["links"]
    assert link["refused"] == {"consumer": {"in": 0, "out": 0}, "provider": {"in": 0, "out": 0}}
    assert link["ports"] == "80/tcp"
    for node, client in clients:
        assert tries(node, client, "http://web/") == 0
        assert tries(node, client, "http://web:81/") == 7
        hosts = node.docker("exec", client, "cat", "/etc/hosts").stdout
        assert [line.split()[0] for line in hosts.splitlines() if " web " in line] == [link["vip"], link["vip6"]]
    assert tries(web_node, web, f"http://{mesh_address(*clients[0])}/") == 7
    told = "the agents to tell what they refused"
    process.wait_for(told, lambda: stacks.ps("seen")["links"][0]["refused"] == REFUSED, seconds=20, every=0.5)
    lines = [line.split() for line in stacks.linkwire("ps", "seen").splitlines()]
    assert [line[-2:] for line in lines[:2]] == [["REFUSED", "KEY"], ["4", f"own/{link['epoch']}"]]

    ends = ('peer_service="seen_web",service="seen_client"', 'peer_service="seen_client",service="seen_web"')
    numbers = summed(stacks)
    assert numbers["linkwire_store_complete"] == 3
    assert numbers['linkwire_tasks{state="wired"}'] == 4
    assert numbers['linkwire_tasks{state="error"}'] == 0
    assert numbers['linkwire_peers{state="connected"}'] == 6
    assert [numbers[f'linkwire_refused_packets_total{{direction="out",{end}}}'] for end in ends] == [3, 1]
    received, sent = (
        [numbers[f"linkwire_link_{way}_bytes_total{{{end}}}"] for end in ends] for way in ("receive", "transmit")
    )
    assert min(*received, *sent) > 0
    stacks.remove("seen")
    process.wait_for("nothing wired", lambda: not summed(stacks)['linkwire_tasks{state="wired"}'], seconds=20)
    after = summed(stacks)
    assert all(after[name] >= value for name, value in numbers.items() if "_total{" in name), "counters never go back"
