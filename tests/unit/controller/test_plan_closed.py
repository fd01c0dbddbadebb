"""`strict: all` in the plan: the published ports are in the service's record, and follow Swarm's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from controller.swarm.docker_client import _service
from controller.swarm.model import SwarmService
from mesh.model.labels.link_labels import ServiceLabels
from mesh.model.labels.ports import PortRange
from mesh.model.records import Service
from tests.support.swarm_world import DB, WEB
from tests.unit.controller.memory_store import MemoryStore
from tests.unit.controller.test_impact import Told
from tests.unit.controller.transactions import carry_out

HTTP, DNS = PortRange("tcp", 80, 80), PortRange("udp", 53, 53)


def closed(*published: PortRange) -> SwarmService:
    return replace(DB, labels=ServiceLabels(closed=True), published=published)


def open_ports(store: MemoryStore) -> dict[str, object]:
    return {service.name: service.open_ports for service in store.all(Service)}


def test_published_ports_follow_a_closed_service_alone() -> None:
    told = Told()
    told.world.services[WEB.id] = replace(told.world.services[WEB.id], published=(HTTP,))
    told.world.services[DB.id] = closed(HTTP)
    carry_out(told.store, told.plan().steps)
    assert open_ports(told.store) == {"shop_web": None, "shop_db": (HTTP,)}
    told.rest()
    told.world.services[DB.id] = closed(HTTP, DNS)
    carry_out(told.store, told.plan().steps)
    assert open_ports(told.store)["shop_db"] == (HTTP, DNS)
    told.rest()
    told.world.services[DB.id] = DB
    carry_out(told.store, told.plan().steps)
    assert open_ports(told.store)["shop_db"] is None


@pytest.mark.parametrize(
    ("ports", "published"),
    [
        (None, ()),
        ([], ()),
        ([{"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080, "PublishMode": "host"}], (HTTP,)),
        (
            [{"TargetPort": 80}, {"Protocol": "udp", "TargetPort": 53}, {"Protocol": "tcp", "TargetPort": 80}],
            (HTTP, DNS),
        ),
        ([{"Protocol": "sctp", "TargetPort": 9}, {"TargetPort": 0}, {"TargetPort": None}], ()),
    ],
)
def test_ports_are_read_from_swarms_service(ports: Any, published: tuple[PortRange, ...]) -> None:  # noqa: ANN401 - JSON
    assert _service({"ID": "s", "Spec": {"Name": "db", "EndpointSpec": {"Ports": ports}}}).published == published
