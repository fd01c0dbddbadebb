"""A stack that never heard of Linkwire, its overlay's packets between nodes, and node encryption put under them."""

from __future__ import annotations

import json
import os
import re
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agent.linux.netns import TaskNetns
from agent.node_encryption.policy_routing import HOST_TABLE, TABLE
from agent.node_encryption.ruleset import NAME
from mesh.topology.underlay import ports_beside
from tests.chaos.killer import processes
from tests.lab import network, process
from tests.lab.capture import Capture
from tests.lab.deployment import Deployment
from tests.lab.node import Node
from tests.netns.world import occupied
from tests.support.effort import LONG, of_long_form

STACK = """
version: "3.8"
services:
  web:
    image: {image}
    command: [sh, -c, "for root in /var/www/html /usr/share/nginx/html; do mkdir -p $$root;
      head -c 200000 /dev/urandom > $$root/large; done; exec nginx -g 'daemon off;'"]
    # Not every kernel that runs the lab has IPVS, which Swarm needs for virtual addresses.
    deploy: {{mode: global, endpoint_mode: dnsrr, placement: {{constraints: [node.hostname != n1]}}}}
  client:
    image: {image}
    command: [sleep, "86400"]
    stop_grace_period: 1s
    deploy: {{placement: {{constraints: [node.hostname == n1]}}}}
"""
LOAD = """
import json, os, threading, time, urllib.request
stop, ok, lost, large = "/tmp/stop", [], [], []
def ask(url, pause, answered):
    at = time.monotonic()
    while not os.path.exists(stop):
        try:
            urllib.request.urlopen(url, timeout=3).read()
            answered.append(1)
        except Exception as error:
            lost.append((round(time.time(), 2), url, str(error)))
        at = max(at + pause, time.monotonic() - 1)
        time.sleep(max(0, at - time.monotonic()))
threads = [threading.Thread(target=ask, args=("http://web/", PAUSE, ok)) for _ in range(4)]
threads.append(threading.Thread(target=ask, args=("http://web/large", 10 * PAUSE, large)))
for thread in threads: thread.start()
for thread in threads: thread.join()
open("/tmp/counted", "w").write(json.dumps({"ok": len(ok), "large": len(large), "lost": lost}))
"""
PAUSE_S = 0.02 if LONG else 0.08
"""Between two requests of a thread. The long form has 200 requests a second, each on a connection of its own, and 5
that need 140 full packets. They are most of what the test costs, so every run has a quarter of them."""
PLAIN = "udp port 4789"
ENCRYPTED = " or ".join(f"udp port {port}" for port in ports_beside(51820, 53819))
SECONDS = 4.0
PHASES = ("asked", "two devices", "routes move", "first devices go")
"""Of a rotation of node keys."""

Figure = Callable[[str], None]


class Load:
    """Requests from the client, while the block runs; afterwards `counted`."""

    def __init__(self, node: Node, container: str) -> None:
        self._node, self._container = node, container
        self.counted: dict[str, Any] = {}

    def __enter__(self) -> Load:  # noqa: PYI034 - final
        self._node.docker("exec", self._container, "rm", "-f", "/tmp/stop", "/tmp/counted")  # noqa: S108 - in the container
        self._node.docker("exec", "--detach", self._container, "python3", "-c", f"PAUSE = {PAUSE_S}\n{LOAD}")
        time.sleep(1)
        return self

    def __exit__(self, *_: object) -> None:
        self._node.docker("exec", self._container, "touch", "/tmp/stop")  # noqa: S108 - in the container

        def told() -> str:
            return self._node.docker("exec", self._container, "cat", "/tmp/counted", check=False).stdout  # noqa: S108

        process.wait_for("the requests to be counted", lambda: bool(told()), seconds=20, every=0.2)
        self.counted = json.loads(told())


def deploy_plain(stacks: Deployment, stack: str, text: str) -> None:
    """`docker stack deploy`, by which nothing of it hears of Linkwire."""
    with tempfile.TemporaryDirectory(prefix="linkwire-plain-") as folder:
        path = Path(folder) / "docker-compose.yml"
        path.write_text(text.format(image=stacks.images.demo, busybox=stacks.images.busybox))
        stacks.lab.manager.docker("stack", "deploy", "--detach", "--compose-file", str(path), stack)


@pytest.fixture
def client(stacks: Deployment) -> Iterator[tuple[Node, str]]:
    deploy_plain(stacks, "plain", STACK)
    stacks.wait_running("plain_web", 2)
    task = stacks.wait_running("plain_client", 1)[0]
    ready = ("curl", "-sf", "-m", "2", "http://web/large", "-o", "/dev/null")
    process.wait_for("the web servers", lambda: all(_exec(task, *ready) for _ in range(4)), seconds=60, every=0.5)
    try:
        yield task
    finally:
        stacks.linkwire("node", "encryption", "off")


def _exec(task: tuple[Node, str], *argv: str) -> bool:
    node, container = task
    return node.docker("exec", container, *argv, check=False).returncode == 0


def wires(stacks: Deployment) -> tuple[int, int]:
    """How many overlay packets cross the wires plain, and how many encrypted, in SECONDS."""
    capture = Capture(stacks.lab, size=128, only=f"{PLAIN} or {ENCRYPTED}")
    with capture:
        time.sleep(SECONDS)
    counted = capture.count(PLAIN), capture.count(ENCRYPTED)
    capture.close()
    return counted


def status(stacks: Deployment) -> dict[str, Any]:
    done = stacks.try_linkwire("node", "encryption", "status", "--format", "json")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def leftovers(node: Node) -> list[str]:
    commands = (
        "ip rule | grep -E '^(4789|479[0-2]):'",
        *(f"ip route show table {table}" for table in (TABLE, HOST_TABLE)),
        "ip -brief link | grep lwnode",
        f"nft list table inet {NAME}",
    )
    return [said for command in commands if (said := node.run(["sh", "-c", command], check=False).stdout)]


def kill_agents(stacks: Deployment) -> None:
    """End every agent's process as a crash would; the supervisors start new ones."""
    for pid in processes(stacks.lab, "worker"):
        os.kill(pid, signal.SIGKILL)
    process.wait_for("new agents", lambda: len(processes(stacks.lab, "worker")) == 3, seconds=30, every=0.2)
    process.wait_for("agents that answer", stacks.agents_ready, seconds=60, every=0.5)


def test_overlays_of_plain_stacks_are_encrypted(stacks: Deployment, client: tuple[Node, str], figure: Figure) -> None:
    on, took = ("node", "encryption", "on", "--mode"), {}
    with Load(*client) as load:
        before = wires(stacks)
        for mode in ("prefer", "strict"):
            began = time.monotonic()
            stacks.linkwire(*on, mode)
            took[mode] = time.monotonic() - began
            seen = wires(stacks)
            figure(f"{mode} after {took[mode]:.1f} s: {seen[0]} plain and {seen[1]} encrypted packets in {SECONDS} s")
            assert seen[0] == 0
            assert seen[1] > 100
        kill_agents(stacks)
        killed = wires(stacks)
        took["rotation"] = rotate(stacks, "routes move")
        rotated_by = wires(stacks)
        told = status(stacks)
        began = time.monotonic()
        stacks.linkwire("node", "encryption", "off")
        took["off"] = time.monotonic() - began
        after = wires(stacks)
    said = f"with agents killed in strict {killed[0]}, with new node keys {rotated_by[0]}, after {after[0]}"
    figure(f"plain packets before {before[0]}, {said}; {took}")
    figure(f"{load.counted['ok']} small and {load.counted['large']} large requests, lost: {load.counted['lost']}")
    assert min(before[0], after[0]) > 100, "the capture sees what is plain"
    assert (killed[0], rotated_by[0], after[1]) == (0, 0, 0)
    assert rotated_by[1] > 100
    assert [(node["step"], node["peers"], node["ready"]) for node in told["nodes"]] == [("enforce", 2, 2)] * 3
    assert load.counted["lost"] == []
    assert load.counted["ok"] > 1000
    assert {node.name: leftovers(node) for node in stacks.lab.nodes} == {"n1": [], "n2": [], "n3": []}


@pytest.mark.parametrize("rotations", [of_long_form(20)])
def test_node_keys_rotate_again_and_again(
    stacks: Deployment, client: tuple[Node, str], figure: Figure, rotations: int
) -> None:
    """By hand, with all agents and controllers killed in each phase."""
    stacks.linkwire("node", "encryption", "on", "--mode", "strict")
    epochs: set[int] = set()
    with Load(*client) as load:
        for turn in range(rotations):
            phase = PHASES[turn % len(PHASES)]
            seconds = rotate(stacks, phase)
            figure(f"rotation {turn + 1}: {seconds:.1f} s, agents and controllers killed: {phase}")
            epochs.add(status(stacks)["epoch"])
        seen = wires(stacks)
    figure(f"{seen[0]} plain and {seen[1]} encrypted packets in {SECONDS} s afterwards")
    figure(f"{load.counted['ok']} small and {load.counted['large']} large requests, lost: {load.counted['lost']}")
    assert load.counted["lost"] == []
    assert len(epochs) == rotations
    assert seen[0] == 0
    assert seen[1] > 100


def rotate(stacks: Deployment, phase: str) -> float:
    """Rotate node keys, and kill all agents and controllers in one of PHASES; return the seconds that it takes."""
    began, before, names = time.monotonic(), status(stacks), devices(stacks)
    stacks.linkwire("rotate", "--nodes", "--detach")

    def has_come() -> bool:
        now = devices(stacks)
        match phase:
            case "asked":
                return bool(processes(stacks.lab, "controller"))
            case "two devices":
                return any(each != names[n] for n, each in enumerate(now))  # or is over already
            case "routes move":
                ways = [node.run(["ip", "route", "show", "table", str(TABLE)]).stdout for node in stacks.lab.nodes]
                return any(set(re.findall(r"dev (\S+)", way)) - names[n] for n, way in enumerate(ways))
            case _:
                return any(not each & names[n] for n, each in enumerate(now))

    process.wait_for(f"phase: {phase}", has_come, seconds=60, every=0.05)
    killed = [*processes(stacks.lab, "worker"), *processes(stacks.lab, "controller")]
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    process.wait_for("agents that answer", stacks.agents_ready, seconds=60, every=0.5)
    process.wait_for("new keys", partial(rotated, stacks, before["epoch"]), seconds=120, every=0.5)
    return time.monotonic() - began


def devices(stacks: Deployment) -> list[set[str]]:
    """The names of each node's devices."""
    listed = [node.run(["ip", "-brief", "link"]).stdout for node in stacks.lab.nodes]
    return [set(re.findall(r"(?m)^lwnode\d?(?=\s)", each)) for each in listed]


def rotated(stacks: Deployment, last: int) -> bool:
    """Whether every node has a key of a later epoch, and no other."""
    told = status(stacks)
    epoch = told.get("epoch", 0)
    return epoch > last and all(node["epochs"] == [epoch] for node in told["nodes"])


def explained(stacks: Deployment, one: str, other: str) -> dict[str, Any]:
    done = stacks.try_linkwire("explain", one, other, "--format", "json")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@contextmanager
def unfit(stacks: Deployment) -> Iterator[list[str]]:
    """Let nothing be as node encryption needs it; returns what is to be said of it."""
    two, three, first = stacks.lab.nodes[1], stacks.lab.nodes[2], ports_beside(51820, 53819)[0]
    deploy_plain(stacks, "plain", STACK)
    stacks.wait_running("plain_web", 2)
    overlay = 'set -- /run/docker/netns/1-*; nsenter --net="$1" bridge fdb'
    entry = "02:42:0a:00:63:63 dev vxlan0 dst 192.0.2.99 self permanent"
    filters = "/proc/sys/net/ipv4/conf/all/rp_filter"
    before = three.run(["cat", filters]).stdout
    with TaskNetns(str(network.NETNS / stacks.lab.layout.node_netns("n2"))) as home, occupied(home, first):
        try:
            two.run(["sh", "-ec", f"{overlay} append {entry}"])
            three.run(["sh", "-ec", f"echo 1 >{filters}"])
            stacks.lab.manager.docker("network", "create", "--driver=overlay", "--opt=encrypted", "secret")
            yield [
                f"n2: node encryption: UDP {first} is taken by another program",
                "n2: node encryption: its overlays send to 192.0.2.99, by which no node is known",
                "n3: node encryption: net.ipv4.conf.all.rp_filter is 1 (strict)",
                "warning: networks secret are encrypted by Docker too",
            ]
        finally:
            stacks.lab.manager.docker("network", "rm", "secret", check=False)
            three.run(["sh", "-ec", f"echo {before.strip()} >{filters}"])
            two.run(["sh", "-c", f"{overlay} delete {entry}"], check=False)


def test_walk_between_nodes_names_faults(stacks: Deployment, figure: Figure) -> None:
    """What is wrong on a node is refused before it is switched, and found afterwards, by who looks between nodes."""
    two, on = stacks.lab.nodes[1], ("node", "encryption", "on", "--mode", "strict")
    off = explained(stacks, "n1", "n2")
    assert off["cause"]["text"].startswith("node encryption is off: overlay packets between n1 and n2 go in plain")
    with unfit(stacks) as named:
        refused = stacks.try_linkwire(*on)
    said = refused.stdout + refused.stderr
    figure(f"refused: {said}")
    assert refused.returncode == 1
    assert [text for text in named if text not in said] == []
    assert status(stacks)["wanted"] == "off", "nothing was switched"
    assert [leftovers(node) for node in stacks.lab.nodes] == [[]] * 3
    try:
        began = time.monotonic()
        stacks.linkwire(*on)
        figure(f"on, with its look at every node: {time.monotonic() - began:.1f} s")
        began = time.monotonic()
        good = explained(stacks, "n1", "n2")
        figure(f"explain n1 n2: {time.monotonic() - began:.1f} s, {[step['stage'] for step in good['steps']]}")
        assert good["ok"], good["cause"]
        assert explained(stacks, "n3", "n2")["ok"], "neither of which is asked"
        figure(f"a network that deploy makes: {made_with(stacks)} bytes")
        nodes = json.loads(stacks.linkwire("node", "ls", "--format", "json"))["nodes"]
        assert all(node["tunnel"]["handshake_age"] is not None for node in nodes), nodes
        table = "add table inet host; add chain inet host input { type filter hook input priority 0; }"
        two.run(["nft", f'{table}; add rule inet host input iifname "lwnode*" drop'])
        found = explained(stacks, "n1", "n2")["cause"]
        figure(f"a firewall: {found['text']}; mend: {found['command']}")
        assert (found["stage"], found["place"]) == ("firewall", "node n2")
        problem = "n2: a firewall of this node drops overlay packets in its devices"
        process.wait_for(
            "its agent to name the firewall",
            lambda: any(problem in text for text in status(stacks)["problems"]),
            seconds=60,
            every=1.0,
        )
    finally:
        two.run(["nft", "delete table inet host"], check=False)
        stacks.linkwire("node", "encryption", "off")


def made_with(stacks: Deployment) -> int:
    """MTU of a network that `docker linkwire deploy` makes, which has to fit into the node's device."""
    lw = stacks.lab.manager.run(["ip", "-json", "link", "show", "type", "tun"], check=False).stdout or "[]"
    wg = stacks.lab.manager.run(["ip", "-json", "link", "show", "type", "wireguard"], check=False).stdout or "[]"
    device = min(
        link["mtu"] for link in json.loads(lw) + json.loads(wg) if link.get("ifname", "").startswith("lwnode")
    )
    image = stacks.images.busybox
    stacks.deploy("sized", f"version: '3.8'\nservices: {{idle: {{image: {image}, deploy: {{replicas: 0}}}}}}\n")
    try:
        made = json.loads(stacks.lab.manager.docker("network", "inspect", "sized_default").stdout)[0]["Options"]
    finally:
        stacks.remove("sized")
    mtu = int(made["com.docker.network.driver.mtu"])
    assert mtu == min(1386, device - 50)
    assert "sized_default" not in "".join(status(stacks)["costs"])
    return mtu
