"""Plans made from an old picture, by another planner, or after records were lost: none breaks what is there."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from random import Random

from controller.planning.planner import plan
from mesh.model import keyspace
from mesh.model.records import Address, Cluster, Endpoint, Node, Port, Service, TaskReport
from mesh.model.snapshot import Delete, Put
from mesh.topology.ipam import ula
from tests.support.swarm_world import DB, SUBNET, WEB, service
from tests.unit.controller.plan_safety import check_moment
from tests.unit.controller.planners import Remembering
from tests.unit.controller.transactions import carry_out, endpoint_of, fresh, made_of, set_ports, settled

# --- two planners


def test_two_planners_give_last_address_to_one_task() -> None:
    store, world = fresh()
    subnet = IPv4Network("10.1.0.0/30")
    store.write(Cluster("cluster", subnet, ula("cluster")))
    loop = service("shop_web", "shop_web")
    world.add(loop)
    settled(store, world, subnet)
    one, two = world.add(loop, "n1", "n2")
    both = world.swarm()
    stored = store.snapshot()
    for seen in (one, two):
        carry_out(store, plan(replace(both, tasks={seen.id: seen}), stored, subnet, world.now, world.members).steps)
        check_moment(store, world)
    assert [e.task for e in store.all(Endpoint)] == [one.id]


def test_two_planners_give_last_address_to_one_service() -> None:
    store, world = fresh()
    subnet = IPv4Network("10.1.0.0/30")
    store.write(Cluster("cluster", subnet, ula("cluster")))
    store.commit([Put(Address(IPv4Address("10.1.0.1"), None), 0)])
    one, two = service("shop_web", "shop_web"), service("shop_db", "shop_db")
    stored = store.snapshot()
    for seen in (one, two):
        carry_out(
            store,
            plan(replace(world.swarm(), services={seen.id: seen}), stored, subnet, world.now, world.members).steps,
        )
    assert [s.id for s in store.all(Service)] == [one.id]
    assert [a.holder for a in store.all(Address)] == [None, f"service/{one.id}"]


def test_two_planners_give_last_port_to_one_task() -> None:
    store, world = fresh()
    world.add(WEB)
    world.add(DB)
    set_ports(store, "n1", 2000, 2000)
    settled(store, world)
    one, two = world.add(DB, "n1", "n1")
    both = world.swarm()
    stored = store.snapshot()
    for seen in (one, two):
        carry_out(store, plan(replace(both, tasks={seen.id: seen}), stored, SUBNET, world.now, world.members).steps)
        check_moment(store, world)
    assert [e.task for e in store.all(Endpoint)] == [one.id]


def test_late_release_frees_nothing_of_changed_endpoint() -> None:
    store, world = fresh()
    world.add(WEB)
    (db,) = world.add(DB, "n2")
    settled(store, world)
    late = plan(replace(world.swarm(), tasks={}), store.snapshot(), SUBNET, world.now, world.members)
    world.report(db.id, "created", wired=False, port_taken=endpoint_of(store, db).underlay.port)
    settled(store, world)
    assert late.steps
    assert carry_out(store, late.steps) == 0
    check_moment(store, world)
    assert endpoint_of(store, db)


def test_late_release_of_relinked_service_does_nothing() -> None:
    store, world = fresh()
    world.add(WEB)
    world.add(DB)
    settled(store, world)
    late = plan(replace(world.swarm(), services={}), store.snapshot(), SUBNET, world.now, world.members)
    world.services[WEB.id] = replace(WEB, dnsrr=True)
    settled(store, world)
    assert carry_out(store, late.steps) == 1, "that of the one that did not change"
    check_moment(store, world)
    assert {s.name for s in store.all(Service)} == {"shop_web"}


def test_a_late_change_brings_nothing_back_that_ended() -> None:
    store, world = fresh()
    world.add(WEB)
    (db,) = world.add(DB, "n2")
    settled(store, world)
    world.report(db.id)
    changed = {WEB.id: replace(WEB, dnsrr=True), DB.id: DB}
    late = plan(replace(world.swarm(), services=changed), store.snapshot(), SUBNET, world.now, world.members)
    assert len(late.steps) == 2, "a service's options and an endpoint's readiness"
    world.services.clear()
    world.tasks.clear()
    settled(store, world)
    assert carry_out(store, late.steps) == 0
    check_moment(store, world)
    assert not store.all(Endpoint)
    assert not store.all(Service)


# --- records that were lost


def test_address_or_port_without_record_is_not_reused() -> None:
    store, world = fresh()
    world.add(WEB)
    (db,) = world.add(DB, "n2")
    settled(store, world)
    place = endpoint_of(store, db)
    store._watch = None  # what follows no planner would do
    store.commit([Delete(keyspace.address(place.address), None)])
    store.commit([Delete(keyspace.port("n2", place.underlay.port), None)])
    new = [world.start(DB.id, "n2") for _ in range(4)]
    carry_out(store, made_of(store, world).steps)
    places = [endpoint_of(store, task) for task in new]
    assert place.address not in {e.address for e in places}
    assert place.underlay not in {e.underlay for e in places}
    world.change(db.id, state="failed")
    carry_out(store, made_of(store, world).steps)
    rests = store.entries[keyspace.address(place.address)]
    assert isinstance(rests.record, Address)
    assert rests.record.holder is None


def test_unreadable_endpoints_claims_are_freed_after_it() -> None:
    store, world = fresh()
    world.add(WEB)
    (db,) = world.add(DB, "n2")
    settled(store, world)
    key = keyspace.endpoint(DB.id, db.id)
    place = endpoint_of(store, db)
    store.damage(key)
    del world.tasks[db.id]
    assert not made_of(store, world).steps
    store.commit([Delete(key, None)])
    world_steps = made_of(store, world).steps
    assert carry_out(store, world_steps) == 4, "address, port, sealed key, and the node's link key"
    assert not store.all(Port)
    assert store.entries[keyspace.address(place.address)].record == Address(place.address, None)
    assert not made_of(store, world).steps


def test_unreadable_address_or_port_is_not_given() -> None:
    store, world = fresh()
    subnet = IPv4Network("10.1.0.0/29")  # six addresses
    world.add(WEB)
    (db,) = world.add(DB, "n2")
    set_ports(store, "n2", 2000, 2000)
    settled(store, world, subnet)
    place = endpoint_of(store, db)
    for key in (keyspace.endpoint(DB.id, db.id), keyspace.port("n2", 2000), keyspace.address(place.address)):
        store.damage(key)
    world.add(DB, "n2")
    refused = f"service {DB.name}: some of its tasks are not wired: "
    full = f"{refused}all 1 UDP ports 2000-2000 of the node are taken: widen its agent's --ports"
    assert full in settled(store, world, subnet).problems
    world.add(DB, "n1", "n1", "n1", "n1")
    problems = settled(store, world, subnet).problems
    assert any(" all 6 addresses of 10.1.0.0/29 are taken: " in problem for problem in problems)
    assert sorted(e.node for e in store.all(Endpoint)) == ["n1", "n1", "n1", "n2"], "two VIPs and one place were held"


def test_order_of_records_is_not_order_of_steps() -> None:
    store, world = fresh()
    settled(store, world)
    gone = [f"gone{n}" for n in range(8)]
    store.write(*(Port("n1", 1000 + n, task) for n, task in enumerate(gone)))
    store.write(
        *(
            TaskReport(task, "s", "n9", "gone", wired=False, error=None, port_taken=None, elsewhere=())
            for task in gone
        )
    )
    for n in range(8):
        store.write(Address(IPv4Address("10.1.0.1") + n, f"task/gone{n}"))
    made = made_of(store, world)
    assert len(made.steps) == 24
    for seed in range(5):
        assert plan(world.swarm(), store.snapshot(Random(seed)), SUBNET, world.now, world.members) == made  # noqa: S311 - an order is no secret


def test_late_endpoint_brings_its_nodes_problem() -> None:
    """One that a late plan writes, of a service that is linked no more: nobody asks where its node is then."""
    store, world = fresh()
    world.add(WEB, "n1")
    world.add(DB, "n2")
    settled(store, world)
    late = next(endpoint for endpoint in store.all(Endpoint) if endpoint.node == "n1")
    node = store.entries[keyspace.node("n1")].record
    assert isinstance(node, Node)
    for found in list(world.services.values()):
        world.services[found.id] = replace(found, labels=service(found.name).labels)
    settled(store, world)
    assert store.all(Endpoint) == []
    store.write(replace(node, address=IPv4Address("192.0.2.77")))
    remembering = Remembering()
    remembering.check(world.swarm(), store.snapshot(), world)
    store.write(late)
    for _ in ("at once", "and still"):
        made = remembering.check(world.swarm(), store.snapshot(), world)
        assert any("its agent states the address 192.0.2.77" in problem for problem in made.problems)
