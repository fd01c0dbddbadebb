"""What a plan makes of addresses on other networks: whose word counts, for how long, and how much of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.swarm.attachments import MAX_ATTACHMENTS
from controller.swarm.model import SwarmTask
from mesh.model import keyspace
from mesh.model.records import Attachment, Cluster, Service
from mesh.model.snapshot import Delete
from mesh.topology.ipam import ula
from mesh.topology.isolation import in_order
from tests.support.swarm_world import BRIDGE, DB, OVERLAY, WEB, World, on
from tests.unit.controller.memory_store import MemoryStore
from tests.unit.controller.transactions import carry_out, endpoint_of, fresh, made_of, settled

ON_OVERLAY = (on(OVERLAY, 1), on(OVERLAY, 2))
ON_BRIDGE = on(BRIDGE, 4)


def a_link() -> tuple[MemoryStore, World, SwarmTask]:
    """A provider whose one task is on an overlay, by Swarm's word."""
    store, world = fresh()
    world.add(replace(WEB, attachments=(on(OVERLAY, 6),)))
    (db,) = world.add(DB, "n2", state="assigned")
    world.tasks[db.id] = db = replace(db, attachments=in_order(ON_OVERLAY))
    assert settled(store, world).problems == ()
    return store, world, db


def elsewhere(store: MemoryStore, world: World, task: SwarmTask) -> set[Attachment]:
    settled(store, world)
    found = endpoint_of(store, task).elsewhere
    assert found == in_order(found)
    return set(found)


def test_swarms_word_is_there_from_the_first_moment() -> None:
    store, _, db = a_link()
    assert endpoint_of(store, db).elsewhere == in_order(ON_OVERLAY)
    assert {s.name: s.elsewhere for s in store.all(Service)} == {"shop_web": (on(OVERLAY, 6),), "shop_db": ()}
    assert store.all(Cluster)[0].subnet6 == ula("cluster")


def test_task_gets_place_and_addresses_together() -> None:
    store, world, _ = a_link()
    (late,) = world.add(DB, "n3", state="assigned")
    world.tasks[late.id] = replace(late, attachments=(on(OVERLAY, 20),))
    world.report(late.id, "created", wired=False, elsewhere=(ON_BRIDGE,))
    assert carry_out(store, made_of(store, world).steps) == 2, "its node's link key, and all of its place at once"
    assert set(endpoint_of(store, late).elsewhere) == {on(OVERLAY, 20), ON_BRIDGE}


def test_services_new_virtual_ip_replaces_the_old() -> None:
    store, world, _ = a_link()
    for new in ((on(OVERLAY, 6), on(OVERLAY, 8)), ()):
        world.services[WEB.id] = replace(WEB, attachments=new)
        settled(store, world)
        assert next(s.elsewhere for s in store.all(Service) if s.id == WEB.id) == new


def test_own_node_adds_addresses_swarm_does_not_know() -> None:
    store, world, db = a_link()
    world.report(db.id, "created", wired=False, elsewhere=(ON_BRIDGE,))
    (step,) = made_of(store, world).steps
    assert step.reason == f"task {db.id}: 3 addresses on other networks"
    assert elsewhere(store, world, db) == {*ON_OVERLAY, ON_BRIDGE}


@pytest.mark.parametrize("then", ["nothing", "another", "none", "unreadable", "gone", "swarm forgets"])
def test_known_addresses_stay_for_the_tasks_life(then: str) -> None:
    store, world, db = a_link()
    world.report(db.id, elsewhere=(ON_BRIDGE,))
    settled(store, world)
    key = keyspace.report("n2", db.id)
    match then:
        case "nothing":
            world.report(db.id)
        case "another":
            world.report(db.id, elsewhere=(on(BRIDGE, 6),))
        case "none":
            store.commit([Delete(key, None)])
        case "unreadable":
            store.damage(key)
        case "gone":
            world.report(db.id, "gone", wired=False)
        case _:
            world.tasks[db.id] = replace(db, attachments=())
    assert elsewhere(store, world, db) == {*ON_OVERLAY, ON_BRIDGE} | ({on(BRIDGE, 6)} if then == "another" else set())


def test_new_keypair_keeps_addresses_new_task_starts_empty() -> None:
    store, world, db = a_link()
    world.report(db.id, elsewhere=(ON_BRIDGE,))
    settled(store, world)
    world.register("n2")
    assert elsewhere(store, world, db) == {*ON_OVERLAY, ON_BRIDGE}
    assert endpoint_of(store, db).epoch == 1
    assert elsewhere(store, world, world.start(DB.id, "n2")) == set()


def test_another_node_is_not_believed() -> None:
    store, world, db = a_link()
    world.tasks[db.id] = replace(db, node="n3")
    world.report(db.id, elsewhere=(ON_BRIDGE,))
    world.tasks[db.id] = db
    assert elsewhere(store, world, db) == set(ON_OVERLAY)


@pytest.mark.parametrize("where", ["on the task", "on another task", "on a service"])
def test_on_swarm_assigned_networks_nodes_are_disbelieved(where: str) -> None:
    store, world, db = a_link()
    if where == "on another task":
        (other,) = world.add(WEB, "n1")
        world.tasks[other.id] = replace(other, attachments=(on("second", 2),))
    if where == "on a service":
        world.services[DB.id] = replace(DB, attachments=(on("second", 2),))
    claims = (on(OVERLAY, 10), on(OVERLAY, 11)) if where == "on the task" else (on("second", 10),)
    world.report(db.id, elsewhere=claims)
    assert elsewhere(store, world, db) == set(ON_OVERLAY)
    world.report(db.id, elsewhere=(on("second", 11),))
    assert elsewhere(store, world, db) - set(ON_OVERLAY) == {on("second", 11)}, "of this IP version it says nothing"


@pytest.mark.parametrize("network", ["", "a" * 65, "../x", "bridge ", "ABC"])
def test_malformed_network_id_is_left_out(network: str) -> None:
    store, world, db = a_link()
    world.report(db.id, elsewhere=(on(network, 4), ON_BRIDGE))
    assert elsewhere(store, world, db) == {*ON_OVERLAY, ON_BRIDGE}


def test_endless_reports_fill_only_their_tasks_record() -> None:
    store, world, db = a_link()
    assert MAX_ATTACHMENTS == 64
    for first in (100, 1000):
        world.report(db.id, elsewhere=tuple(on(BRIDGE, first + n) for n in range(100)))
        found = elsewhere(store, world, db)
        assert len(found) == MAX_ATTACHMENTS
        assert found >= set(ON_OVERLAY)
        problem = f"task {db.id}: its node reports more than 64 addresses: some are not kept apart"
        assert made_of(store, world).problems == (problem,)
    world.report(db.id, elsewhere=tuple(found))
    assert settled(store, world).problems == ()
