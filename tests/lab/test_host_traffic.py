"""What nodes send one another themselves, with node encryption in mode `all`, while nodes and agents come and go.

Without Swarm's routing mesh, whose IPVS not every kernel that runs the lab has: ports are published by each node.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

from agent.node_encryption.policy_routing import HOST_TABLE
from mesh.model.encryption.status import DEVICE
from tests.lab import process
from tests.lab.capture import Capture
from tests.lab.deployment import Deployment
from tests.lab.node import Node
from tests.lab.test_node_encryption import (
    ENCRYPTED,
    SECONDS,
    deploy_plain,
    kill_agents,
    leftovers,
    status,
)
from tests.support.effort import HOLD_S, in_long_form

STACK = """
version: "3.8"
services:
  web:
    image: {image}
    command: [sh, -c, "for root in /var/www/html /usr/share/nginx/html; do mkdir -p $$root;
      head -c 100000 /dev/urandom > $$root/large; done; exec nginx -g 'daemon off;'"]
    ports: [{{target: 80, published: 8080, mode: host}}]
    deploy: {{mode: global, endpoint_mode: dnsrr, placement: {{constraints: [node.hostname != n1]}}}}
"""
ASK = """
import json, sys, threading, time, urllib.request
counted, stopped = {}, threading.Event()
def ask(url):
    ok, lost = 0, []
    while not stopped.wait(0.02):
        try:
            urllib.request.urlopen(url, timeout=3).read()
            ok += 1
        except Exception as error:
            lost.append((round(time.time(), 2), str(error)))
    counted[url] = [ok, lost]
threads = [threading.Thread(target=ask, args=(url,)) for url in sys.argv[1:]]
for thread in threads: thread.start()
sys.stdin.read()
stopped.set()
for thread in threads: thread.join()
print(json.dumps(counted))
"""
OWN, BRIDGED, PUBLISHED = 9000, 9001, 8080
PLAIN = f"tcp port {OWN} or tcp port {PUBLISHED}"


class Asking:
    """Requests to each of some addresses, one after another, while the block runs; afterwards `counted`."""

    def __init__(self, command: Sequence[str], urls: Sequence[str]) -> None:
        self._command = [*command, "python3", "-c", ASK, *urls]
        self.counted: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        time.sleep(1)
        return self

    def __exit__(self, *_: object) -> None:
        self.counted = json.loads(self._process.communicate("")[0] or "{}")


@contextmanager
def serving(node: Node) -> Iterator[None]:
    """Servers of the node's own, on its network."""
    command = "cd /usr/share/doc; for port in {} {}; do python3 -m http.server $port >/dev/null 2>&1 & done; wait"
    running = subprocess.Popen(node.command(["sh", "-c", command.format(OWN, BRIDGED)]), start_new_session=True)
    asked = ["curl", "-sf", "-m", "2", "-o", "/dev/null", f"http://{node.address}:{BRIDGED}/"]
    process.wait_for("a server", lambda: node.run(asked, check=False).returncode == 0, seconds=20, every=0.2)
    try:
        yield
    finally:
        node.run(
            [
                "sh",
                "-c",
                f"kill $(ss -Hltnp 'sport = :{OWN} or sport = :{BRIDGED}' | grep -o 'pid=[0-9]*' | cut -d= -f2)",
            ],
            check=False,
        )
        running.wait()


def wires(stacks: Deployment) -> dict[str, int]:
    """How many packets cross the wires in SECONDS, by what they are."""
    kinds = {"plain": PLAIN, "encrypted": ENCRYPTED, "managers": "tcp port 2377", "bridged": f"tcp port {BRIDGED}"}
    with Capture(stacks.lab, size=128, only=" or ".join(kinds.values())) as capture:
        time.sleep(SECONDS)
    counted = {kind: capture.count(only) for kind, only in kinds.items()}
    capture.close()
    return counted


def hold(stacks: Deployment) -> list[list[int]]:
    """Read the MTU of each node's device again and again, for as long as a long form watches."""
    seen, began = [], time.monotonic()
    while time.monotonic() - began < HOLD_S:
        read = [node.run(["ip", "-json", "link", "show", DEVICE]).stdout for node in stacks.lab.nodes]
        seen.append([int(json.loads(text)[0]["mtu"]) for text in read])
        time.sleep(5)
    return seen


def is_whole(stacks: Deployment) -> bool:
    return [(node["step"], node["ready"], node["problem"]) for node in status(stacks)["nodes"]] == [
        ("enforce", 2, "")
    ] * 3


@in_long_form
def test_hosts_go_on_in_mode_all(stacks: Deployment, figure: Callable[[str], None]) -> None:
    one, two, three = stacks.lab.nodes
    deploy_plain(stacks, "open", STACK)
    stacks.wait_running("open_web", 2)
    on_bridge = one.docker_command("run", "--rm", "--interactive", stacks.images.demo)
    urls = {
        node.name: [f"http://{node.address}:{port}/{file}" for port, file in ((OWN, ""), (PUBLISHED, "large"))]
        for node in (two, three)
    }
    seen: dict[str, dict[str, int]] = {}
    with (
        serving(two),
        serving(three),
        Asking(one.command([]), urls["n2"]) as steady,
        Asking(on_bridge, [f"http://{two.address}:{BRIDGED}/"]) as bridged,
    ):
        with Asking(one.command([]), urls["n3"]) as before_reboot:
            seen["before"] = wires(stacks)
            stacks.linkwire("node", "encryption", "on", "--mode", "all")
            seen["on"] = wires(stacks)
            kill_agents(stacks)
            seen["agents killed"] = wires(stacks)
            mtus = hold(stacks)
            seen["held"] = wires(stacks)
        stacks.lab.stop_node("n3")
        time.sleep(20)
        began = time.monotonic()
        stacks.lab.start_node("n3")
        process.wait_for("n3 to do its part", lambda: is_whole(stacks), seconds=120, every=0.5)
        figure(f"n3 does its part {time.monotonic() - began:.1f} s after its start")
        stacks.wait_running("open_web", 2)
        with serving(three), Asking(one.command([]), urls["n3"]) as after_reboot:
            seen["rebooted"] = wires(stacks)
            routes = one.run(["ip", "route", "show", "table", str(HOST_TABLE)]).stdout
            stacks.linkwire("node", "encryption", "off")
            seen["off"] = wires(stacks)
    for name, counted in seen.items():
        figure(f"{name}: {counted}")
    everything = {"n2": steady, "bridge": bridged, "n3": before_reboot, "n3 again": after_reboot}
    for name, asking in everything.items():
        figure(f"{name}: { {url: (ok, lost[:3]) for url, (ok, lost) in asking.counted.items()} }")
    figure(f"held for {HOLD_S:.0f} s: MTU {mtus[0]}, {len(mtus)} times")
    assert mtus == [mtus[0]] * len(mtus)
    assert [seen[phase]["plain"] for phase in ("on", "agents killed", "held", "rebooted")] == [0] * 4
    assert min(seen[phase]["plain"] for phase in ("before", "off")) > 100
    assert min(counted[kind] for counted in seen.values() for kind in ("managers", "bridged")) > 0
    assert routes.count("lwnode") == 2
    assert [
        url for asking in everything.values() for url, (ok, lost) in asking.counted.items() if lost or not ok
    ] == []
    assert {node.name: leftovers(node) for node in stacks.lab.nodes} == {"n1": [], "n2": [], "n3": []}
