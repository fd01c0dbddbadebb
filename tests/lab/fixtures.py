"""The lab as fixtures for every suite: three nodes and Linkwire on them, once, down at the end.

LINKWIRE_LAB_KEEP=1 leaves it up.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.lab import Lab
from tests.lab.deployment import STACK, Deployment, deployed
from tests.lab.lab import default_name

REST_S = 15
"""Seconds for which the lab's freed addresses rest: short, so that a test can see the end of it."""


def lab_name(letter: str = "") -> str:
    """Return the name of this process's lab, or with a letter of one more: pytest-xdist's workers have their own."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    return f"{default_name()[:6]}{worker if worker != '0' else ''}{letter}"


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    one = Lab(lab_name(), nodes=3, say=print)
    try:
        one.up()
        yield one
    finally:
        if os.environ.get("LINKWIRE_LAB_KEEP") != "1":
            one.down()


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
