"""Two Docker engines in one Swarm: Debian 12's and the newest of Debian's on cgroup version 2, with the gate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from compose_ext.diagnostics import INCOMPLETE
from tests.lab import Lab, checker, process
from tests.lab.deployment import WAIT_S, Deployment, deployed
from tests.lab.fixtures import lab_name
from tests.lab.node import Node
from tests.lab.requests import Requests, together
from tests.lab.test_controller_failover import leader
from tests.lab.words import Words
from tests.support.effort import LONG
from tests.support.fault_rows import FaultRow

pytestmark = pytest.mark.skipif(not LONG, reason="in make chaos: nodes and a root file system of their own")

Figure = Callable[[str], None]

NEW = "n3"
STACK = """
version: "3.8"
x-wireguard: {{}}
services:
  web:
    image: {image}
    command: [nginx, -g, "daemon off;"]
    deploy: &everywhere {{mode: global}}
  client:
    image: {image}
    command: [sleep, "86400"]
    stop_grace_period: 1s
    links: [web]
    deploy: *everywhere
  first:
    image: {image}
    command: [sh, -c, "curl -sS -m 3 -o /dev/null http://web/ && echo through; sleep 86400"]
    links: [web]
    stop_grace_period: 0s
    x-wireguard: {{gate: ready}}
    deploy: *everywhere
"""


@pytest.fixture(scope="module")
def mixed() -> Iterator[Deployment]:
    """Two managers of the old engine, a manager and a worker of the new one; a server and a client on every node."""
    with Lab(lab_name("n"), nodes=4, managers=3, say=print, newest=(NEW, "n4")).anew() as lab:
        deployment = deployed(lab, own_etcd=False, gate=True)
        deployment.deploy("mix", STACK.format(image=deployment.images.demo))
        deployment.wait_connected("mix")
        checker.settle(lab)
        yield deployment


def version(node: Node) -> str:
    return str(node.get("/version")["Version"])


def test_gate_and_links_work_on_both_engines(mixed: Deployment, figure: Figure) -> None:
    versions = {node.name: version(node) for node in mixed.lab.nodes}
    assert len({text.partition(".")[0] for text in versions.values()}) == 2
    groups = {node.name: node.get("/info")["CgroupVersion"] for node in mixed.lab.nodes}
    assert (groups["n3"], groups["n4"]) == ("2", "2")
    tasks = mixed.tasks("mix_first")
    assert {node.name for node, _ in tasks} == set(versions)
    process.wait_for("first connections", lambda: mixed.logged("mix_first").count("through") == 4, seconds=WAIT_S)
    figure(f"{versions}, cgroup versions {groups}: first connections through the gate on all")
    assert all(node.docker("inspect", "-f", "{{.RestartCount}}", task).stdout == "0\n" for node, task in tasks)


def test_commands_work_by_the_new_engine(mixed: Deployment) -> None:
    new = mixed.lab.node(NEW)
    for words in (("ps", "mix"), ("node", "ls"), ("status",), ("explain", "mix_client", "mix_web")):
        by_new, by_old = (mixed.try_linkwire(*words, node=node) for node in (new, mixed.lab.manager))
        assert (by_new.returncode, by_new.stderr) == (0, ""), by_new
        assert by_old.returncode == 0, by_old
    assert mixed.linkwire("check", "--live", node=new)


def test_controller_of_the_new_engine_wires(
    mixed: Deployment, figure: Figure, fault_row: Callable[[FaultRow], None]
) -> None:
    """The others' controllers are taken away, under requests in both directions; then all agents are replaced."""
    manager = mixed.lab.node(NEW)
    ends = [task for task in mixed.tasks("mix_client") if task[0].name in ("n1", NEW)]
    with ExitStack() as stack, Words(mixed, "mix") as words:
        counting = [stack.enter_context(Requests(*task, "http://web/")) for task in ends]
        only = ("--replicas", "1", "--constraint-add", f"node.hostname=={NEW}")
        manager.docker("service", "update", "--detach", *only, "linkwire_controller")
        process.wait_for("the new engine's controller to lead", lambda: leader(mixed) == NEW, seconds=WAIT_S)
        began = time.monotonic()
        manager.docker("service", "update", "--detach", "--force", "mix_first")
        manager.docker("service", "update", "--detach", "--force", "linkwire_agent")
        process.wait_for("agents", lambda: mixed.updated() and mixed.agents_ready(), seconds=2 * WAIT_S)
        checker.settle(mixed.lab)
        took = time.monotonic() - began
        time.sleep(2)
    counted = together([one.counted for one in counting])
    figure(f"two engines, agents and tasks replaced: {counted}; exact after {took:.1f} s")
    fault_row(counted.row("two engines: agents and tasks replaced", took, words))
    assert counted.lost == 0


def test_nothing_stays_on_either_engine(mixed: Deployment) -> None:
    mixed.remove("mix")
    checker.settle(mixed.lab)
    new = mixed.lab.node(NEW)
    # Linkwire's own tasks were made with the gate: it says that they are to be replaced first.
    assert mixed.try_linkwire("gate", "remove", node=new).returncode == INCOMPLETE
    for service in ("linkwire_agent", "linkwire_controller"):
        new.docker("service", "update", "--detach", "--force", service)
    process.wait_for("tasks without the gate", lambda: mixed.updated() and mixed.agents_ready(), seconds=2 * WAIT_S)
    mixed.linkwire("gate", "remove", node=new)
    mixed.uninstall()
    for node in mixed.lab.nodes:
        left = node.docker("ps", "--all", "--format", "{{.Names}}").stdout + node.docker("volume", "ls", "-q").stdout
        assert "linkwire" not in left
