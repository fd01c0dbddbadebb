"""What the controller reads of a real Swarm about addresses on other networks, and when it is there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from controller.swarm.docker_client import SwarmManager
from controller.swarm.model import SwarmService, SwarmTask
from mesh.model.records import Attachment
from mesh.topology.strict_isolation import in_order
from tests.lab import Lab, images
from tests.lab.node import Node
from tests.lab.process import wait_for

NETWORKS = ("words-one", "words-two")
SERVICES = ("words-dnsrr", "words-vip", "words-host", "words-bridge")


@pytest.fixture(scope="module")
def node(lab: Lab) -> Iterator[Node]:
    one = lab.manager
    for network in NETWORKS:
        one.docker("network", "create", "-d", "overlay", network)
    try:
        yield one
    finally:
        one.docker("service", "rm", *SERVICES, check=False)
        wait_for("the tasks to end", lambda: not one.docker("ps", "-aq", "-f", "name=words").stdout, seconds=60)
        for network in NETWORKS:
            one.docker("network", "rm", network, check=False)


def containers(node: Node, service: str) -> str:
    """The ids of a service's running containers on that node."""
    return node.docker("ps", "-q", "-f", f"name={service}", "-f", "status=running").stdout.strip()


def create(node: Node, name: str, image: str, *options: str) -> None:
    here = ("--constraint", f"node.hostname=={node.name}", "--stop-grace-period", "0s", "--detach")
    node.docker("service", "create", "--name", name, *here, *options, image, "sleep", "9999")


def inspected(node: Node, *what: str) -> Any:  # noqa: ANN401 - it is JSON
    return json.loads(node.docker(*what).stdout)[0]


def of(swarm: SwarmManager, name: str) -> tuple[SwarmService, list[SwarmTask]]:
    """A service and its tasks as the controller lists them."""
    service = next(found for found in swarm.services().values() if found.name == name)
    return service, list(swarm.tasks(frozenset({service.id})).values())


def assigned(swarm: SwarmManager, name: str) -> SwarmTask:
    """A service's one task, as soon as it has a node."""
    wait_for("a task with a node", lambda: any(task.node for task in of(swarm, name)[1]), seconds=30, every=0.02)
    return next(task for task in of(swarm, name)[1] if task.node)


def test_task_addresses_match_docker_once_assigned(lab: Lab, node: Node) -> None:
    image = images.push_busybox(lab)
    swarm = SwarmManager(f"unix://{node.socket}")
    create(node, "words-dnsrr", image, "--endpoint-mode", "dnsrr", *(f"--network={name}" for name in NETWORKS))
    first = assigned(swarm, "words-dnsrr")
    assert len(first.attachments) == 2
    assert of(swarm, "words-dnsrr")[0].attachments == ()

    wait_for("its container", lambda: bool(containers(node, "words-dnsrr")), seconds=60)
    ends = inspected(node, "inspect", containers(node, "words-dnsrr"))["NetworkSettings"]["Networks"]
    assert sorted(ends) == sorted(NETWORKS)
    told = [Attachment(end["NetworkID"], ip_interface(end["IPAddress"]).ip) for end in ends.values()]
    assert first.attachments == in_order(told)
    assert {known.id for known in first.networks} == {end["NetworkID"] for end in ends.values()}
    for known in first.networks:
        configs = inspected(node, "network", "inspect", known.id)["IPAM"]["Config"]
        assert known.subnets == tuple(ip_network(config["Subnet"]) for config in configs)
        assert known.gateways == {ip_address(config["Gateway"]) for config in configs}
        assert not known.one_per_node


def test_swarm_knows_each_nodes_own_address(lab: Lab, node: Node) -> None:
    found = SwarmManager(f"unix://{node.socket}").nodes().values()
    assert {one.hostname: one.known_at for one in found} == {
        one.name: (ip_address(one.address),) for one in lab.nodes
    }


def test_service_virtual_ips_match_swarm(node: Node) -> None:
    swarm = SwarmManager(f"unix://{node.socket}")
    create(node, "words-vip", "no.such.image/at:all", *(f"--network={name}" for name in NETWORKS))
    task = assigned(swarm, "words-vip")
    service = of(swarm, "words-vip")[0]
    given = inspected(node, "service", "inspect", "words-vip")["Endpoint"]["VirtualIPs"]
    assert service.attachments == in_order(Attachment(v["NetworkID"], ip_interface(v["Addr"]).ip) for v in given)
    assert [a.network for a in service.attachments] == [a.network for a in task.attachments]
    assert len(service.attachments) == 2
    assert not {a.address for a in service.attachments} & {a.address for a in task.attachments}
    assert task.state != "running", "its image is not even there"


@pytest.mark.parametrize("network", ["host", "bridge"])
def test_of_a_nodes_own_networks_swarm_says_nothing(lab: Lab, node: Node, network: str) -> None:
    swarm = SwarmManager(f"unix://{node.socket}")
    create(node, f"words-{network}", images.push_busybox(lab), f"--network={network}")
    wait_for("a running task", lambda: any(t.running for t in of(swarm, f"words-{network}")[1]), seconds=60)
    service, tasks = of(swarm, f"words-{network}")
    assert [task.attachments for task in tasks] == [()]
    assert [known.subnets for task in tasks for known in task.networks] == [()]
    assert service.attachments == ()
