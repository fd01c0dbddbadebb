"""Nodes whose Docker keeps its data elsewhere, or maps the users of containers (moby#26106)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from tests.lab import Lab, checker, process, programs
from tests.lab.deployment import Deployment, deployed
from tests.lab.fixtures import lab_name
from tests.lab.node import Node
from tests.support.effort import LONG

pytestmark = pytest.mark.skipif(not LONG, reason="in make chaos: a Swarm of its own")

SETTINGS = ("data-root", "userns-remap")
MOVED = "/var/lib/docker/moved"
STACK = "everywhere"


def start_with(lab: Lab, node: Node, **settings: str) -> None:
    """Start a node's Docker, with other settings and none of its data, as one that joins the Swarm."""
    lab.stop_node(node.name)
    config = {name: text for name, text in json.loads(node.config.read_text()).items() if name not in SETTINGS}
    node.config.write_text(json.dumps(config | settings))
    lab.start_node(node.name)
    lab.up()


@pytest.fixture(scope="module")
def moved() -> Iterator[Deployment]:
    """Linkwire with the gate, links on both of two nodes, and Docker's data of the second elsewhere."""
    with Lab(lab_name("d"), nodes=2, say=print).anew() as lab:
        start_with(lab, lab.node("n2"), **{"data-root": MOVED})
        assert lab.node("n2").get("/info")["DockerRootDir"] == MOVED
        deployment = deployed(lab, own_etcd=True, gate=True)
        demo = deployment.images.demo
        services = {
            "web": programs.service(demo, "listen", "web", "--tcp", "80", deploy={"mode": "global"}),
            "client": programs.idle(demo, links=["web"], deploy={"mode": "global"}),
        }
        services["client"]["x-wireguard"] = {"gate": "ready"}
        deployment.deploy(STACK, programs.stack(services))
        deployment.wait_connected(STACK)
        yield deployment


def test_links_carry_where_dockers_data_is_elsewhere(moved: Deployment, figure: Callable[[str], None]) -> None:
    checker.settle(moved.lab)
    assert "nothing wrong is seen" in moved.linkwire("check", "--live")
    for node, client in moved.tasks(f"{STACK}_client"):
        answers = {call.who for call in programs.count_calls((node, client), "web", 20)}
        assert len(answers) == 2, f"{node.name}: {answers}"
    figure(f"Docker's data in {MOVED} on n2: links carry both ways, by the gate too")


def test_node_that_maps_users_is_named(moved: Deployment) -> None:
    """Docker refuses such a node's agent the node's network."""
    start_with(moved.lab, moved.lab.node("n2"), **{"userns-remap": "default"})
    options = moved.lab.node("n2").get("/info")["SecurityOptions"]
    assert any("name=userns" in option for option in options), options
    done = moved.try_linkwire("install", f"--image={moved.images.linkwire}", "--check", seconds=300)
    assert (done.returncode, "it has userns-remap: take that out" in done.stdout) == (1, True), done.stdout
    found = [line.split()[:3] for line in done.stdout.splitlines()]
    assert ["n1", "engine", "ok"] in found, "the other node is looked at all the same"
    process.wait_for("check to name it", lambda: "n2" in moved.try_linkwire("check").stdout, seconds=60, every=1.0)
