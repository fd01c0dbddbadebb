"""Controllers of three managers, cut off from Swarm, etcd and both, stopped, and without a majority: links go on.

Packets are dropped by nftables in a node's own namespace. What is measured: seconds until another controller writes,
writes that are wrong or double, requests over a link between two other nodes that are lost.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from mesh.model.keyspace import ROOT
from tests.chaos.killer import CONTROLLER, processes
from tests.lab import Lab, checker, process, programs
from tests.lab.deployment import Deployment, deployed
from tests.lab.fixtures import lab_name
from tests.lab.layout import ETCD_PORT
from tests.lab.node import Node, UnreachableError
from tests.lab.requests import Load
from tests.lab.words import Words
from tests.store.two_controllers import History
from tests.support.effort import LONG
from tests.support.fault_rows import FaultRow

pytestmark = pytest.mark.skipif(not LONG, reason="in make chaos: three managers of their own, some minutes")

Figure = Callable[[str], None]

SWARM_PORT = 2377
WRITES_S = 90.0
TABLE = "inet cut_off"
CLIENTS = {"replicas": 9, "placement": {"max_replicas_per_node": 3}}


@pytest.fixture(scope="module")
def three() -> Iterator[Deployment]:
    """Three managers, an etcd beside them, a server on each node and three clients."""
    with Lab(lab_name("f"), nodes=3, managers=3, say=print).anew() as lab:
        deployment = deployed(lab, own_etcd=False)
        demo = deployment.images.demo
        services = {
            "web": programs.service(demo, "listen", "web", "--tcp", "80", deploy={"mode": "global"}),
            "client": programs.idle(demo, links=["web"], deploy=CLIENTS),
            "spare": programs.idle(demo, links=["web"], deploy={"replicas": 0}),
        }
        deployment.deploy("fo", programs.stack(services))
        deployment.wait_connected("fo")
        yield deployment


def leader(three: Deployment) -> str:
    """The node whose controller leads, by the store; empty where none does."""
    argv = ["etcdctl", "--endpoints", three.lab.etcd_endpoint, "get", f"{ROOT}leader", "-w", "json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env={**os.environ, "ETCDCTL_API": "3"})
    found = json.loads(done.stdout).get("kvs", ())
    return str(json.loads(base64.b64decode(found[0]["value"]))["holder"]) if found else ""


def controllers(three: Deployment, node: Node) -> list[tuple[Node, str]]:
    return [task for task in three.tasks("linkwire_controller") if task[0].name == node.name]


def drop(node: Node, *ports: int) -> Callable[[], None]:
    """Drop what a node sends to these TCP ports of others, and what it is sent to or from them."""
    netns = node.layout.node_netns(node.name)
    match = "{ " + ", ".join(map(str, ports)) + " }"
    chain = (
        "chain {0} {{ type filter hook {0} priority -300; {1} lo accept; tcp dport {2} drop; tcp sport {2} drop; }}"
    )
    rules = "\n".join(chain.format(hook, device, match) for hook, device in (("input", "iif"), ("output", "oif")))
    process.answer(["ip", "netns", "exec", netns, "nft", "-f", "-"], stdin=f"table {TABLE} {{\n{rules}\n}}\n")

    def heal() -> None:
        process.answer(["ip", "netns", "exec", netns, "nft", "delete", "table", *TABLE.split()])

    return heal


def from_swarm(_: Deployment, node: Node) -> Callable[[], None]:
    return drop(node, SWARM_PORT)


def from_etcd(_: Deployment, node: Node) -> Callable[[], None]:
    return drop(node, ETCD_PORT)


def from_both(_: Deployment, node: Node) -> Callable[[], None]:
    return drop(node, SWARM_PORT, ETCD_PORT)


def stopped(three: Deployment, node: Node) -> Callable[[], None]:
    """SIGSTOP to the controller on the node, as a virtual machine that is paused."""
    ((_, container),) = controllers(three, node)
    first = node.get(f"/containers/{container}/json")["State"]["Pid"]
    assert first in processes(three.lab, CONTROLLER)
    os.kill(first, signal.SIGSTOP)
    return lambda: os.kill(first, signal.SIGCONT)


def dead(three: Deployment, node: Node) -> Callable[[], None]:
    """SIGKILL; Swarm starts another, which is in nobody's way."""
    ((_, container),) = controllers(three, node)
    os.kill(node.get(f"/containers/{container}/json")["State"]["Pid"], signal.SIGKILL)
    return lambda: None


def place_one_more(three: Deployment, manager: Node, began: float) -> tuple[float, float]:
    """Start a task, and wait until the store has its place; seconds since the fault, until Swarm took it and then."""
    before = set(endpoints(three))
    count = len(three.tasks("fo_spare"))
    scale = ("service", "scale", "--detach", f"fo_spare={count + 1}")
    # Managers that have just lost their leader choose another one first.
    asked = "a manager to take it"
    process.wait_for(asked, lambda: not manager.docker(*scale, check=False).returncode, seconds=WRITES_S, every=0.5)
    taken = time.monotonic() - began
    process.wait_for("the task's place", lambda: bool(set(endpoints(three)) - before), seconds=WRITES_S, every=0.1)
    return taken, time.monotonic() - began


def endpoints(three: Deployment) -> Sequence[str]:
    argv = ["etcdctl", "--endpoints", three.lab.etcd_endpoint, "get", "--prefix", f"{ROOT}endpoints/", "--keys-only"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env={**os.environ, "ETCDCTL_API": "3"})
    return done.stdout.split()


def rest(three: Deployment) -> float:
    """Wait until Swarm has all nodes again, and devices are exact; the seconds that they took longer than Swarm."""

    def whole() -> bool:
        try:
            return all(
                [one["Status"]["State"] for one in node.get("/nodes")] == ["ready"] * len(three.lab.nodes)
                for node in three.lab.nodes
            )
        except UnreachableError:
            return False

    process.wait_for("all nodes", whole, seconds=WRITES_S, every=0.5)
    process.wait_for("agents", three.agents_ready, seconds=WRITES_S, every=0.5)
    return checker.settle(three.lab, 120)


@contextmanager
def watched(three: Deployment, node: Node, file: Path) -> Iterator[tuple[Load, History]]:
    """Requests from all other nodes to each other and to that one, and etcd's history."""
    clients = [task for task in three.tasks("fo_client") if task[0].name != node.name]
    with History(three.lab.etcd_endpoint, file) as history, Load(clients, "http://web:80/") as requests:
        yield requests, history


def other(three: Deployment, node: Node) -> Node:
    return next(one for one in three.lab.nodes if one.name != node.name)


@pytest.mark.parametrize("fault", [dead, stopped, from_etcd, from_swarm, from_both])
def test_another_controller_writes_and_links_go_on(
    three: Deployment,
    tmp_path: Path,
    fault: Callable[[Deployment, Node], Callable[[], None]],
    figure: Figure,
    fault_row: Callable[[FaultRow], None],
) -> None:
    rest(three)
    node = three.lab.node(leader(three))
    words = Words(three, "fo", other(three, node))
    with ExitStack() as healing, words, watched(three, node, tmp_path / "history") as (requests, history):
        began = time.monotonic()
        healing.callback(fault(three, node))
        manager = other(three, node)
        taken, took = place_one_more(three, manager, began)
        after = leader(three)
        healing.close()
        time.sleep(15)
        _, again = place_one_more(three, manager, time.monotonic())
        time.sleep(2)
        wrong = history.wrong()
    late = rest(three)
    figure(
        f"{fault.__name__}: Swarm took a task after {taken:.1f} s, a controller wrote after {took:.1f} s"
        f" ({node.name} led, then {after}), healed in {again:.1f} s; wrong or double writes {len(wrong)};"
        f" {requests.counted}; exact {late:.1f} s after Swarm"
    )
    fault_row(requests.counted.row(f"leading controller {fault.__name__.replace('_', ' ')}", took, words))
    assert wrong == []
    assert after != node.name
    assert requests.counted.lost == 0


def test_managers_without_majority_change_nothing(
    three: Deployment, tmp_path: Path, figure: Figure, fault_row: Callable[[FaultRow], None]
) -> None:
    """All managers are cut off from each other: nobody leads; healed, one does."""
    rest(three)
    node = three.lab.node(leader(three))
    words = Words(three, "fo", other(three, node))
    with ExitStack() as healing, words, watched(three, node, tmp_path / "history") as (requests, history):
        began = time.monotonic()
        for one in three.lab.nodes:
            healing.callback(drop(one, SWARM_PORT))
        process.wait_for("nobody to lead", lambda: not leader(three), seconds=WRITES_S, every=0.2)
        nobody = time.monotonic() - began
        signs = history.signs()
        time.sleep(15)
        assert history.signs() == signs
        healing.close()
        healed = time.monotonic()
        process.wait_for("a leader", lambda: bool(leader(three)), seconds=WRITES_S, every=0.2)
        leads = time.monotonic() - healed
        time.sleep(10)
        wrong = history.wrong()
    late = rest(three)
    figure(
        f"no majority: nobody led after {nobody:.1f} s, nothing was signed; healed, one led after {leads:.1f} s;"
        f" wrong or double writes {len(wrong)}; {requests.counted}; exact {late:.1f} s after Swarm"
    )
    fault_row(requests.counted.row("managers without a majority", words=words))
    assert wrong == []
    assert requests.counted.lost == 0
