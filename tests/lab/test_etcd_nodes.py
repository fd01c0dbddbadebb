"""`docker linkwire install --etcd-nodes`: 1 -> 3 -> 1 under requests; members renewed, upgraded, lost, removed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from tests.lab import Lab, images, process, programs
from tests.lab.deployment import WAIT_S, Deployment
from tests.lab.fixtures import lab_name
from tests.lab.requests import Load
from tests.lab.words import Words
from tests.support.effort import LONG
from tests.support.fault_rows import FaultRow

Rows = tuple[Callable[[str], None], Callable[[FaultRow], None]]

pytestmark = pytest.mark.skipif(not LONG, reason="in make chaos: three managers of their own, some minutes")

CLIENTS = 3


def on(node: str, replicas: int = 1) -> dict[str, object]:
    return {"replicas": replicas, "placement": {"constraints": [f"node.hostname == {node}"]}}


@pytest.fixture(scope="module")
def own() -> Iterator[Deployment]:
    """Linkwire with its own etcd on one of three managers, a worker, and links both ways between two managers."""
    with Lab(lab_name("e"), nodes=4, managers=3, say=print).anew() as lab:
        deployment = Deployment(lab, images.build_all(lab))
        deployment.install(own_etcd=True)
        demo = deployment.images.demo
        services = {
            "web": programs.service(demo, "listen", "web", "--tcp", "80", deploy=on("n2")),
            "client": programs.idle(demo, links=["web"], deploy=on("n1", CLIENTS)),
            "back": programs.service(demo, "listen", "back", "--tcp", "80", deploy=on("n1")),
            "buyer": programs.idle(demo, links=["back:web"], deploy=on("n2", CLIENTS)),
        }
        deployment.deploy("up", programs.stack(services))
        deployment.wait_connected("up")
        yield deployment


def members(deployment: Deployment) -> list[dict[str, object]]:
    """Etcd's members, as `status` has them."""
    done = deployment.try_linkwire("status", "--format", "json")
    found: list[dict[str, object]] = json.loads(done.stdout)["control"]["members"]
    return found


def answering(deployment: Deployment) -> int:
    return sum(not one["problem"] for one in members(deployment))


def require_requests(own: Deployment, *words: str, rows: Rows, name: str) -> str:
    """Run a command under requests, of which none may be lost; return what it prints."""
    clients = own.tasks("up_client") + own.tasks("up_buyer")
    assert len(clients) == 2 * CLIENTS
    with Words(own, "up") as status, Load(clients, "http://web:80/") as requests:
        said = own.linkwire(*words, seconds=900)
    figure, fault_row = rows
    figure(f"{name}: {requests.counted}")
    fault_row(requests.counted.row(f"etcd {name}", words=status))
    assert requests.counted.lost == 0, requests.counted
    return said


@pytest.fixture
def rows(figure: Callable[[str], None], fault_row: Callable[[FaultRow], None]) -> Rows:
    return figure, fault_row


def test_etcd_grows_to_three_managers(own: Deployment, rows: Rows) -> None:
    said = require_requests(own, "install", "--etcd-nodes", "3", rows=rows, name="1 -> 3")
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


def test_members_are_renewed_one_by_one(own: Deployment, rows: Rows) -> None:
    said = require_requests(own, "renew", rows=rows, name="of three, renew")
    assert "etcd's members present the new certificate, one after the other" in said
    require_well(own)


def test_members_are_upgraded(own: Deployment, rows: Rows) -> None:
    image = images.variant(own.lab, "next", "ENV NEXT=1")
    require_requests(own, "upgrade", "--image", image, rows=rows, name="of three, upgrade")
    require_well(own)


def require_well(own: Deployment) -> None:
    """All members answer, and every node's agent is heard: none fell silent while members were replaced."""
    assert answering(own) == 3
    process.wait_for("nothing to be wrong", lambda: own.try_linkwire("status").returncode == 0, seconds=WAIT_S)
    own.wait_connected("up")


def test_lost_member_is_replaced_by_another(own: Deployment, rows: Rows) -> None:
    """Its node is gone for good, and a worker becomes a manager in its place."""
    manager = own.lab.manager
    own.lab.stop_node("n3")
    manager.docker("node", "promote", "n4")
    manager.docker("node", "demote", "n3", check=False)  # Swarm may wait in vain for the lost one's word
    process.wait_for(
        "the lost node to leave",
        lambda: manager.docker("node", "rm", "--force", "n3", check=False).returncode == 0,
        seconds=WAIT_S,
    )
    require_requests(own, "install", rows=rows, name="of three, one replaced")
    assert {str(one["endpoint"]) for one in members(own) if not one["problem"]} == {
        f"{own.lab.node(name).address}:2379" for name in ("n1", "n2", "n4")
    }
    require_well(own)


def test_etcd_shrinks_to_one(own: Deployment, rows: Rows) -> None:
    require_requests(own, "install", "--etcd-nodes", "1", rows=rows, name="3 -> 1")
    assert [one["problem"] for one in members(own)] == [""]
    assert len(own.tasks("linkwire_etcd")) == 1
    own.wait_connected("up")


def test_nothing_of_any_member_stays(own: Deployment) -> None:
    own.linkwire("install", "--etcd-nodes", "3", seconds=900)
    own.uninstall()
    for node in own.lab.nodes:
        if node.is_up():
            assert "linkwire" not in node.docker("volume", "ls", "--quiet").stdout
    manager = own.lab.manager
    assert "linkwire" not in manager.docker("secret", "ls").stdout + manager.docker("config", "ls").stdout
    assert not manager.docker("node", "ls", "--quiet", "--filter", "node.label=linkwire.etcd").stdout
