"""`docker linkwire upgrade` on a Swarm of its own: to a good image, and back from one that is not."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.lab import images, process, programs
from tests.lab.deployment import Deployment
from tests.lab.fixtures import linked_nodes

LONG = os.environ.get("LINKWIRE_UPGRADE_LONG") == "1"
INTERRUPTED = 130
CARRIES_S = 60.0
ROLES = ("etcd", "controller", "agent")
BROKEN = (
    "RUN cd /opt/linkwire/bin && mv linkwire-agent real && "
    'printf \'#!/bin/sh\\n[ "$1" = look ] || exit 9\\nexec /opt/linkwire/bin/real "$@"\\n\' > linkwire-agent && '
    "chmod 755 linkwire-agent"
)


@pytest.fixture(scope="module")
def own() -> Iterator[Deployment]:
    with linked_nodes("u") as deployment:
        yield deployment


def runs(deployment: Deployment) -> dict[str, set[str]]:
    """The images that the tasks of each service of Linkwire run, without their digests."""
    return {
        name: {
            str(node.get(f"/containers/{container}/json")["Config"]["Image"]).partition("@")[0]
            for node, container in deployment.tasks(f"linkwire_{name}")
        }
        for name in ROLES
    }


def agents(deployment: Deployment) -> set[str | None]:
    return {deployment.agent(node) for node in deployment.lab.nodes}


def wait_carries(deployment: Deployment) -> None:
    """Wait until every client is answered."""
    clients = deployment.tasks("up_client")
    assert len(clients) == 2

    def carries() -> bool:
        return all(any(call.who for call in programs.count_calls(client, "web", 4)) for client in clients)

    process.wait_for("the links to carry", carries, seconds=CARRIES_S)


def test_good_image_comes_one_node_at_a_time(own: Deployment) -> None:
    image = images.variant(own.lab, "next", "ENV NEXT=1")
    done = own.try_linkwire("upgrade", "--image", image, "--timeout", "120", seconds=600)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [line for line in done.stdout.splitlines() if "the agent is replaced, on " in line]
    assert [step.rpartition("on ")[2] for step in steps] == ["1 of 2 nodes now", "2 of 2 nodes now"]
    assert runs(own) == {name: {image} for name in ROLES}
    wait_carries(own)


@pytest.mark.skipif(not LONG, reason="LINKWIRE_UPGRADE_LONG=1: a minute more")
def test_upgrade_that_was_broken_off_goes_on(own: Deployment) -> None:
    image = images.variant(own.lab, "after", "ENV AFTER=1")
    with own.plugged_in() as environment:
        argv = own.lab.manager.docker_command("linkwire", "upgrade", "--image", image)
        done = subprocess.Popen(
            argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        with done:
            assert done.stdout
            assert any("on 1 of 2 nodes now" in line for line in done.stdout)
            os.killpg(done.pid, signal.SIGINT)  # as a terminal does
            said = done.stdout.read()
            assert done.wait(timeout=30) == INTERRUPTED
    assert "broken off: run it again to go on" in said
    assert len(runs(own)["agent"]) == 2, "one node has it"
    said = own.linkwire("upgrade", "--image", image, seconds=600)
    assert "on 1 of 2 nodes now" not in said
    assert "on 2 of 2 nodes now" in said
    assert runs(own) == {name: {image} for name in ROLES}
    wait_carries(own)


def test_bad_image_is_taken_back(own: Deployment) -> None:
    running, before = runs(own), agents(own)
    bad = images.variant(own.lab, "bad", BROKEN)
    done = own.try_linkwire("upgrade", "--image", bad, "--timeout", "60", seconds=300)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the upgrade failed, and everything runs as before" in done.stderr
    assert "task: non-zero exit (9)" in done.stderr
    assert runs(own) == running
    assert len(before & agents(own)) == 1, "one node alone was tried"
    wait_carries(own)
