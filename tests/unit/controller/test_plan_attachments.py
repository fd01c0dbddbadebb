"""What a plan makes of addresses on other networks: whose word counts, for how long, and how much of it."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.swarm.attachments import MAX_ATTACHMENTS, attachments
from controller.swarm.model import SwarmNetwork, SwarmTask
from mesh.model import keyspace
from mesh.model.net import IPAddress
from mesh.model.records import Attachment, Cluster, Service, TaskReport
from mesh.model.snapshot import Delete
from mesh.topology.ipam import ula
from mesh.topology.strict_isolation import in_order
from tests.support.swarm_world import BRIDGE, DB, OVERLAY, WEB, World, on, recorded
from tests.unit.controller.memory_store import MemoryStore
from tests.unit.controller.transactions import carry_out, endpoint_of, fresh, made_of, settled

ON_OVERLAY = (on(OVERLAY, 1), on(OVERLAY, 2))
ON_BRIDGE = on(BRIDGE, 4)
"""As its node reports it."""


def at(node: str, number: int = 4) -> Attachment:
    """The same as a record has it."""
    return recorded(on(BRIDGE, number), node)


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
    assert set(endpoint_of(store, late).elsewhere) == {on(OVERLAY, 20), at("n3")}


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
    assert elsewhere(store, world, db) == {*ON_OVERLAY, at("n2")}


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
    assert elsewhere(store, world, db) == {*ON_OVERLAY, at("n2")} | ({at("n2", 6)} if then == "another" else set())


def test_new_keypair_keeps_addresses_new_task_starts_empty() -> None:
    store, world, db = a_link()
    world.report(db.id, elsewhere=(ON_BRIDGE,))
    settled(store, world)
    world.register("n2")
    assert elsewhere(store, world, db) == {*ON_OVERLAY, at("n2")}
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
    world.tasks[db.id] = db = replace(db, networks=(SwarmNetwork("second", one_per_node=False),))
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
    assert elsewhere(store, world, db) == {*ON_OVERLAY, at("n2")}


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


# --- a node speaks for itself alone

SHARED = SwarmNetwork(
    "lkd3ykw2mm4bkt1tkxkp63nny",
    one_per_node=False,
    subnets=(ip_network("172.20.0.0/24"), ip_network("fd12::/64")),
    gateways=frozenset({ip_address("172.20.0.1"), ip_address("fd12::1")}),
)
"""Swarm gives its IPv4 addresses, and each node its IPv6 ones."""


def claimed(*addresses: str, network: SwarmNetwork = SHARED, known: tuple[SwarmNetwork, ...] = (SHARED,)) -> set[str]:
    """Which addresses on a network are believed of a node that reports them of its task."""
    task = SwarmTask("t1", "s", 1, "n2", "running", "running", networks=known)
    told = tuple(Attachment(network.id, ip_address(text)) for text in addresses)
    report = TaskReport("t1", "s", "n2", "running", wired=True, error=None, port_taken=None, elsewhere=told)
    found, problem = attachments(task, (), report, {(SHARED.id, 4)})
    assert (problem is None) == (len(found) == len(told)) or len(found) == 1
    again, _ = attachments(task, found, report, {(SHARED.id, 4)})
    assert again == found
    return {f"{a.address} {a.network}" for a in found}


def test_node_gives_one_address_within_the_subnet() -> None:
    assert claimed("fd12::5") == {f"fd12::5 {SHARED.id}"}
    assert len(claimed("fd12::5", "fd12::6")) == 1
    refused = ("fd12::1", "fd12::", "fd13::5", "::1", "ff02::1", "fe80::1", "::")
    assert [text for text in refused if claimed(text)] == []


def test_network_that_swarm_has_not_put_it_on() -> None:
    assert claimed("fd12::5", known=()) == claimed("fd12::5", known=(replace(SHARED, id="another"),)) == set()


def test_without_subnets_a_host_address_counts() -> None:
    open_one = replace(SHARED, subnets=(), gateways=frozenset())
    assert claimed("fd99::5", network=open_one, known=(open_one,)) == {f"fd99::5 {SHARED.id}"}
    assert claimed("ff02::1", "::", "::1", network=open_one, known=(open_one,)) == set()


def test_bridge_of_swarm_scope_is_each_nodes_own() -> None:
    bridge = replace(SHARED, id="r178ddy9vnbm4rxuwlsygbz0b", one_per_node=True, subnets=())
    assert claimed("1.1.1.1", network=bridge, known=(bridge,)) == {f"1.1.1.1 {bridge.id}@n2"}


def test_records_of_an_earlier_version_are_put_right() -> None:
    task = SwarmTask("t1", "s", 1, "n2", "running", "running", ON_OVERLAY)
    lies = (on("lkd3ykw2mm4bkt1tkxkp63nny", 8), on(f"{BRIDGE[:12]}@n1", 8))
    found, problem = attachments(task, in_order((*ON_OVERLAY, ON_BRIDGE, *lies)), None, set())
    assert (set(found), problem) == ({*ON_OVERLAY, at("n2")}, None)


@given(st.lists(st.tuples(st.sampled_from(["ab" * 32, SHARED.id, OVERLAY, "x@n1", "", "Z"]), st.ip_addresses())))
def test_no_report_speaks_of_another_node(claims: list[tuple[str, IPAddress]]) -> None:
    told = tuple(Attachment(network, address) for network, address in claims)
    task = SwarmTask("t1", "s", 1, "n2", "running", "running", networks=(SHARED,))
    report = TaskReport("t1", "s", "n2", "running", wired=True, error=None, port_taken=None, elsewhere=told)
    found, _ = attachments(task, (), report, {(SHARED.id, 4)})
    shared = [a.address for a in found if not a.network.endswith("@n2")]
    assert len(shared) <= 1
    assert all(address in SHARED.subnets[1] and address not in SHARED.gateways for address in shared)
