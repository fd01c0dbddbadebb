"""`docker linkwire install --etcd-nodes`: 1 -> 3 -> 1 on three managers, under requests, and one gone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from tests.lab import Lab, images, process, programs
from tests.lab.deployment import WAIT_S, Deployment
from tests.lab.fixtures import lab_name
from tests.lab.requests import Requests
from tests.support.effort import LONG

pytestmark = pytest.mark.skipif(not LONG, reason="in make chaos: three managers of their own, some minutes")

LEAST_OK = 0.5
"""Share of requests while agents are replaced, which costs links of wireguard-go seconds each time."""


def on(node: str) -> dict[str, object]:
    return {"placement": {"constraints": [f"node.hostname == {node}"]}}


@pytest.fixture(scope="module")
def own() -> Iterator[Deployment]:
    """Linkwire with its own etcd on three managers, and a link between two of them."""
    lab = Lab(lab_name("e"), nodes=3, managers=3, say=print)
    try:
        lab.up()
        deployment = Deployment(lab, images.build_all(lab))
        deployment.install(own_etcd=True)
        demo = deployment.images.demo
        services = {
            "web": programs.service(demo, "listen", "web", "--tcp", "80", deploy=on("n2")),
            "client": programs.idle(demo, links=["web"], deploy=on("n1")),
        }
        deployment.deploy("up", programs.stack(services))
        deployment.wait_connected("up")
        yield deployment
    finally:
        lab.down()


def members(deployment: Deployment) -> list[dict[str, object]]:
    """Etcd's members, as `status` has them."""
    done = deployment.try_linkwire("status", "--format", "json")
    found: list[dict[str, object]] = json.loads(done.stdout)["control"]["members"]
    return found


def answering(deployment: Deployment) -> int:
    return sum(not one["problem"] for one in members(deployment))


def require_requests(
    own: Deployment, *flags: str, figure: Callable[[str], None], name: str, seconds: float = 500
) -> str:
    """`install` with flags, under requests."""
    (client,) = own.tasks("up_client")
    with Requests(*client, "http://web:80/") as requests:
        said = own.linkwire("install", *flags, seconds=seconds)
    figure(f"{name}: {requests.counted}")
    assert requests.counted.ok > LEAST_OK * (requests.counted.ok + requests.counted.lost)
    return said


def test_etcd_grows_to_three_managers(own: Deployment, figure: Callable[[str], None]) -> None:
    said = require_requests(own, "--etcd-nodes", "3", figure=figure, name="1 -> 3")
    assert said.count("which now has the label linkwire.etcd=true") == 2, said
    assert answering(own) == 3
    assert sum(one["is_leader"] is True for one in members(own)) == 1
    require_unchanged(own)


def require_unchanged(own: Deployment) -> None:
    """Run again it changes nothing: no task of etcd is replaced."""
    before = sorted(container for _, container in own.tasks("linkwire_etcd"))
    own.linkwire("install", "--etcd-nodes", "3", seconds=400)
    assert sorted(container for _, container in own.tasks("linkwire_etcd")) == before


def test_links_are_made_with_one_manager_gone(own: Deployment) -> None:
    own.lab.stop_node("n3")
    try:
        process.wait_for("two members to answer", lambda: answering(own) == 2, seconds=WAIT_S)
        demo = own.images.demo
        services = {
            "web": programs.service(demo, "listen", "web", "--tcp", "80", deploy=on("n2")),
            "client": programs.idle(demo, links=["web"], deploy=on("n1")),
        }
        own.deploy("late", programs.stack(services))
        own.wait_connected("late")
    finally:
        own.lab.start_node("n3")
    process.wait_for("three members to answer", lambda: answering(own) == 3, seconds=WAIT_S)


def test_etcd_shrinks_to_one(own: Deployment, figure: Callable[[str], None]) -> None:
    require_requests(own, "--etcd-nodes", "1", figure=figure, name="3 -> 1")
    assert [one["problem"] for one in members(own)] == [""]
    assert len(own.tasks("linkwire_etcd")) == 1
    own.wait_connected("up")
