"""The lab as fixtures for every suite: three nodes and Linkwire on them, once, down at the end.

LINKWIRE_LAB_KEEP=1 leaves it up.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.lab import Lab, images, process, programs
from tests.lab.deployment import STACK, WAIT_S, Deployment, deployed
from tests.lab.lab import default_name

REST_S = 15
"""Seconds for which the lab's freed addresses rest: short, so that a test can see the end of it."""


def lab_name(letter: str = "") -> str:
    """Return the name of this process's lab, or with a letter of one more: pytest-xdist's workers have their own."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    return f"{default_name()[:6]}{worker if worker != '0' else ''}{letter}"


@contextmanager
def linked_nodes(letter: str, image: Callable[[Deployment], str] | None = None) -> Iterator[Deployment]:
    """Linkwire with its own etcd on a lab of two nodes, of which each runs a consumer of a link that carries.

    Args:
        letter: of the lab's name.
        image: makes another one to install, and may set another plugin; None for what is here.
    """
    with Lab(lab_name(letter), nodes=2, say=print).anew() as lab:
        deployment = Deployment(lab, images.build_all(lab))
        installed = image(deployment) if image else deployment.images.linkwire
        deployment.linkwire("install", f"--image={installed}", "--detach", seconds=400)
        process.wait_for("an agent on every node", deployment.agents_ready, seconds=WAIT_S, every=0.2)
        demo = deployment.images.demo
        services = {
            "web": programs.service(demo, "listen", "web", "--tcp", "80"),
            "client": programs.idle(demo, links=["web"], deploy={"mode": "global"}),
        }
        deployment.deploy("up", programs.stack(services))
        deployment.wait_connected("up")
        yield deployment


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """A lab of three nodes: a new one, or with LINKWIRE_LAB_KEEP=1 the one that is there, which stays."""
    one = Lab(lab_name(), nodes=3, say=print)
    if os.environ.get("LINKWIRE_LAB_KEEP") == "1":
        one.up()
        yield one
        return
    with one.anew():
        yield one


@pytest.fixture(scope="session")
def deployment(lab: Lab) -> Deployment:
    """Linkwire on the lab's own etcd, which can be killed at will."""
    return deployed(lab, {"LINKWIRE_ADDRESS_REST": str(REST_S)}, own_etcd=False, gate=True)


@pytest.fixture(scope="module")
def staying(deployment: Deployment) -> Iterator[None]:
    """For a file whose tests deploy the same stack: what they add to `deployment.staying` is removed with the last.

    Each deploys it as if it were not there. Swarm takes six seconds to end a stack, and ten to make another.
    """
    yield
    deployment.remove(*deployment.staying)
    deployment.staying.clear()


@pytest.fixture
def stacks(deployment: Deployment) -> Iterator[Deployment]:
    """The deployment, with every stack but Linkwire's own and those that stay removed after, all nodes active."""
    yield deployment
    manager = deployment.lab.manager
    for member in manager.get("/nodes"):
        if member["Spec"]["Availability"] != "active":
            manager.docker("node", "update", "--availability", "active", member["ID"])
    listed = manager.docker("stack", "ls", "--format", "{{.Name}}").stdout.split()
    deployment.remove(*(stack for stack in listed if stack not in {STACK, *deployment.staying}))
