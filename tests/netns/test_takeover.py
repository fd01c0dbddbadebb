"""An agent's process is killed under traffic and another takes its devices over: what is lost of the traffic.

With the kernel's WireGuard this is also what becomes of links when the agent's container is replaced: its sockets are
on the node's own network, and nothing of a device is a process. With wireguard-go it is so only as long as the
container stays (agent/supervise.py).
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mesh.linkkeys import PresharedKey
from tests.netns.test_traffic import Flood, await_first_packet
from tests.netns.world import Task, World

ROUNDS = 2
SHARED = PresharedKey.generate().raw.hex()
AGENT = """
import json, signal, sys
from ipaddress import IPv4Interface
from agent import reconcile
from agent.netns import TaskNetns
from mesh.keys import PrivateKey
from mesh.linkkeys import PresharedKey
from mesh.wgtypes import PeerConfig
from tests.bench.stage import interface
from tests.netns.world import Node, Task, make_backend
told = json.load(sys.stdin)
def task(of):
    node = Node(TaskNetns(of["home"]), make_backend(of["home"]), IPv4Interface(of["host"]))
    made = Task(node, TaskNetns(of["netns"]), IPv4Interface(of["address"]), of["port"], of["name"])
    made.key = PrivateKey(bytes.fromhex(of["key"]))
    return made
mine, other = task(told["mine"]), task(told["other"]).as_peer()
shared = PresharedKey(bytes.fromhex(told["shared"]))
peer = PeerConfig(other.public_key, other.endpoint, other.allowed_ips, shared, 25)
config = interface(mine.name, mine, (peer,))
changes, _ = reconcile.reconcile(mine.node.backend, mine.netns, told["hosts"], config, None, complete=True)
print(json.dumps(changes.reasons), flush=True)
signal.pause()
"""


def told(task: Task) -> dict[str, object]:
    return {
        "home": task.node.netns.path,
        "host": str(task.node.address),
        "netns": task.netns.path,
        "address": str(task.address),
        "port": task.port,
        "name": task.name,
        "key": task.key.raw.hex(),
    }


@contextmanager
def agent(mine: Task, other: Task, hosts: Path) -> Iterator[list[str]]:
    """A process that wires a task; what it had to change. Killed in the end, with all it holds open."""
    with subprocess.Popen(
        [sys.executable, "-c", AGENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            json.dump(
                {"mine": told(mine), "other": told(other), "shared": SHARED, "hosts": str(hosts)}, process.stdin
            )
            process.stdin.close()
            yield json.loads(process.stdout.readline())
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL


def test_no_packet_is_lost_when_the_agent_is_killed_and_another_takes_over(
    world: World, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    left, right = (world.task(node) for node in world.nodes())
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1\tlocalhost\n")
    other = tmp_path / "other"
    other.write_text(hosts.read_text())
    with agent(right, left, other):
        with agent(left, right, hosts) as changes:
            assert any("no device" in reason for reason in changes)
            await_first_packet(left, right)
        with Flood(left, right, 100) as there, Flood(right, left, 100) as back:
            time.sleep(1)  # of traffic with no agent
            for _ in range(ROUNDS):
                with agent(left, right, hosts) as changes:
                    assert changes == []
    lost, sent = len(there.lost) + len(back.lost), there.sent + back.sent
    figure(f"{left.node.backend.name}: taken over {ROUNDS} times by a new process, {lost} of {sent} packets lost")
    assert (there.lost, back.lost) == ([], [])
    assert min(there.sent, back.sent) > 100
