"""Plans one at a time: each rule by an example."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from controller.planning.planner import plan
from controller.steps import Plan
from mesh.model import keyspace
from mesh.model.labels.link_labels import LabelError
from mesh.model.records import Address, Cluster, Endpoint, Port, Service, TaskReport
from mesh.model.snapshot import Delete
from mesh.topology.ipam import ula
from tests.support.swarm_world import DB, SUBNET, WEB, World, node_of, service
from tests.unit.controller.memory_store import MemoryStore
from tests.unit.controller.transactions import carry_out, endpoint_of, fresh, made_of, set_ports, settled

# --- what is planned


def test_link_gives_vips_and_every_task_a_place() -> None:
    store, world = fresh()
    (web,) = world.add(WEB, "n1", state="assigned")
    (db,) = world.add(DB, "n2", state="assigned")
    (other,) = world.add(service("blog_web"), "n2")
    assert settled(store, world).problems == ()
    assert {s.name for s in store.all(Service)} == {"shop_web", "shop_db"}
    assert {e.task for e in store.all(Endpoint)} == {web.id, db.id}
    assert other.id not in {port.task for port in store.all(Port)}
    assert endpoint_of(store, db).underlay.host == IPv4Address("192.0.2.2")
    assert not endpoint_of(store, db).ready, "nobody has said that it is up"
    assert len(store.all(Address)) == 4


def test_nothing_is_planned_from_an_incomplete_snapshot() -> None:
    store, world = fresh()
    world.add(WEB, "n1")
    world.add(DB, "n2")
    assert plan(world.swarm(), store.snapshot(complete=False), SUBNET, world.now, world.members) == Plan((), ())
    settled(store, world)
    world.tasks.clear()
    world.services.clear()
    assert plan(world.swarm(), store.snapshot(complete=False), SUBNET, world.now, world.members) == Plan((), ())
    assert made_of(store, world).steps


def test_stores_subnet_counts_once_in_use() -> None:
    store, world = fresh()
    store.write(Cluster("cluster", IPv4Network("10.7.0.0/24"), ula("cluster")))
    world.add(WEB, "n1")
    world.add(DB, "n2")
    settled(store, world)
    assert all(record.address in IPv4Network("10.7.0.0/24") for record in store.all(Address))


def test_store_without_cluster_record_is_left_alone() -> None:
    store, world = fresh()
    settled(store, world)
    world.add(WEB, "n1")
    world.add(DB, "n2")
    store.damage(keyspace.CLUSTER)
    assert made_of(store, world) == Plan((), ("store: cluster: not JSON",))


def test_the_store_of_another_swarm_is_left_alone() -> None:
    store, world = fresh()
    world.add(WEB, "n1")
    world.add(DB, "n2")
    assert settled(store, world).problems == ()
    made = plan(replace(world.swarm(), cluster="another"), store.snapshot(), SUBNET, world.now, world.members)
    assert made.steps == ()
    assert "belongs to the Swarm" in made.problems[0]


def test_another_subnet_than_the_stores_is_said() -> None:
    store, world = fresh()
    settled(store, world)
    made = made_of(store, world, IPv4Network("10.2.0.0/16"))
    assert made.problems == ("the mesh's subnet is 10.1.0.0/27 since its first use; 10.2.0.0/16 is ignored",)


def test_dangling_link_is_reported_and_wires_consumer_alone() -> None:
    store, world = fresh()
    (web,) = world.add(WEB, "n1")
    bad = LabelError("linkwire.expose", "x", "not a port")
    world.services[WEB.id] = replace(WEB, label_errors=(bad,))
    made = settled(store, world)
    assert set(made.problems) == {
        "service shop_web: links to shop_db, which does not exist (yet)",
        "service shop_web: label 'linkwire.expose': 'x': not a port",
    }
    assert {e.task for e in store.all(Endpoint)} == {web.id}


def test_removed_provider_ends_though_still_linked() -> None:
    store, world = fresh()
    world.add(WEB, "n1")
    (db,) = world.add(DB, "n2")
    settled(store, world)
    del world.services[DB.id]
    world.change(db.id, desired="remove")
    settled(store, world)
    assert endpoint_of(store, db), "its task still runs"
    world.change(db.id, state="shutdown")
    made = settled(store, world)
    assert {s.name for s in store.all(Service)} == {"shop_web"}
    assert made.problems == ("service shop_web: links to shop_db, which does not exist (yet)",)


def test_remade_service_is_wired_beside_its_ending_predecessor() -> None:
    store, world = fresh()
    world.add(WEB, "n1")
    (old,) = world.add(DB, "n2")
    settled(store, world)
    del world.services[DB.id]
    world.change(old.id, desired="remove")
    (new,) = world.add(service("shop_db", number=2), "n3")
    settled(store, world)
    assert {e.task for e in store.all(Endpoint)} >= {old.id, new.id}
    assert len({s.vip for s in store.all(Service)}) == 3


def test_node_without_agent_is_reported_in_users_words() -> None:
    store, world = fresh()
    world.add(WEB)
    (db,) = world.add(DB, "n2")
    store.commit([Delete(keyspace.node("n2"), None)])
    problem = f"task {db.id}: its node host-n2 has no agent (yet), so it is not wired"
    assert settled(store, world).problems == (problem,)
    assert not store.all(Endpoint)


def test_node_label_overrides_the_nodes_own_address() -> None:
    store, world = fresh()
    world.add(WEB)
    (db,) = world.add(DB, "n2")
    settled(store, world)
    world.nodes["n2"] = node_of("n2", IPv4Address("203.0.113.9"))
    settled(store, world)
    assert endpoint_of(store, db).underlay.host == IPv4Address("203.0.113.9")


# --- pools


def test_full_subnet_is_reported_and_recovers_after_quarantine() -> None:
    store, world = fresh()
    subnet = IPv4Network("10.1.0.0/29")  # six addresses, two of them VIPs
    world.add(WEB, "n1", "n1")
    first = world.add(DB, "n2", "n2")
    settled(store, world, subnet)
    (late,) = world.add(DB, "n3")
    refused = f"service {DB.name}: some of its tasks are not wired: "
    full = f"{refused}all 6 addresses of 10.1.0.0/29 are taken: give the controller a larger --subnet"
    assert settled(store, world, subnet).problems == (full,)
    world.change(first[0].id, state="failed")
    assert settled(store, world, subnet).problems == (full,), "its address rests"
    store.end_rest(store.resting()[-1])
    assert settled(store, world, subnet).problems == ()
    assert endpoint_of(store, late)


def test_taken_port_changes_atomically_full_range_reports() -> None:
    store, world = fresh()
    world.add(WEB)
    (db,) = world.add(DB, "n2", state="starting")
    set_ports(store, "n2", 2000, 2001)
    settled(store, world)
    before = endpoint_of(store, db)
    world.report(db.id, "created", wired=False, port_taken=before.underlay.port)
    (step,) = made_of(store, world).steps
    settled(store, world)
    assert {before.underlay.port, endpoint_of(store, db).underlay.port} == {2000, 2001}
    assert step.reason == f"task {db.id}: UDP 192.0.2.2:{before.underlay.port} -> {endpoint_of(store, db).underlay}"
    assert endpoint_of(store, db).public_key == before.public_key
    now = endpoint_of(store, db).underlay.port
    set_ports(store, "n2", now, now)
    world.report(db.id, "created", wired=False, port_taken=now)
    (problem,) = settled(store, world).problems
    assert problem.endswith(" of the node are taken: widen its agent's --ports")


@pytest.mark.parametrize(("first", "last"), [(10, 9), (0, 0), (-5, 5), (65536, 65536), (1, 70000), (2000, 70000)])
def test_invalid_port_range_of_node_stops_nobody_else(first: int, last: int) -> None:
    store, world = fresh()
    (web,) = world.add(WEB, "n1")
    world.add(DB, "n2")
    set_ports(store, "n2", first, last)
    assert settled(store, world).problems == (
        f"service {DB.name}: some of its tasks are not wired: {first}-{last} is not a range of UDP ports",
    )
    assert [e.task for e in store.all(Endpoint)] == [web.id]


# --- readiness


def ready(store: MemoryStore, world: World) -> set[str]:
    settled(store, world)
    return {e.task for e in store.all(Endpoint) if e.ready}


@pytest.mark.parametrize(
    ("desired", "state", "seen", "wired", "expected"),
    [
        ("running", "starting", "created", True, False),
        ("running", "starting", "running", True, True),
        ("running", "running", "created", True, False),  # its health check fails: Swarm has not stopped it yet
        ("running", "running", "running", False, False),
        ("running", "running", "gone", True, False),
        ("shutdown", "running", "running", True, False),
        ("remove", "running", "running", True, False),
        ("ready", "ready", "created", True, False),
        ("complete", "running", "running", True, True),
    ],
)
def test_ready_needs_swarms_wish_and_nodes_word(
    desired: str, state: str, seen: str, wired: bool, expected: bool
) -> None:
    store, world = fresh()
    world.add(WEB)
    (db,) = world.add(DB, "n2", state="assigned")
    assert ready(store, world) == set(), "no report yet"
    world.change(db.id, desired=desired, state=state)
    assert seen in ("created", "running", "gone")
    world.report(db.id, "created" if seen == "created" else "running" if seen == "running" else "gone", wired=wired)
    assert ready(store, world) == ({db.id} if expected else set())


def suspects(store: MemoryStore) -> set[str]:
    return {endpoint.task for endpoint in store.all(Endpoint) if endpoint.suspect}


def test_silent_nodes_tasks_are_suspects_until_swarm_decides() -> None:
    store, world = fresh()
    world.add(WEB)
    one, two, sick = world.add(DB, "n1", "n2", "n2")
    for task in (one, two):
        world.report(task.id)
    world.report(sick.id, "created")
    assert ready(store, world) == {one.id, two.id}
    assert suspects(store) == set()
    store.commit([Delete(keyspace.node("n2"), None)])
    assert ready(store, world) == {one.id, two.id}
    assert suspects(store) == {two.id}, "what is not ready is no suspect"
    assert "node host-n2: its agent is silent; its tasks are used where they answer" in settled(store, world).problems
    world.change(two.id, desired="shutdown")
    assert ready(store, world) == {one.id}, "a suspect that Swarm wants gone"
    assert suspects(store) == set()
    world.change(two.id, desired="running")
    assert ready(store, world) == {one.id, two.id}
    world.nodes["n2"] = replace(world.nodes["n2"], down=True)
    assert ready(store, world) == {one.id}, "silent and down is not to be reached"
    assert suspects(store) == set()
    world.nodes["n2"] = replace(world.nodes["n2"], down=False)
    assert ready(store, world) == {one.id, two.id}
    world.register("n2")
    assert ready(store, world) == {one.id, two.id}
    assert suspects(store) == set()


def test_a_key_that_is_spent_is_replaced_once() -> None:
    store, world = fresh()
    world.add(WEB)
    db, other = world.add(DB, "n2", "n3")
    for task in (db, other):
        world.report(task.id)
    settled(store, world)
    before = {task.id: endpoint_of(store, task) for task in (db, other)}
    report = store.entries[keyspace.report("n2", db.id)].record
    assert isinstance(report, TaskReport)
    for spent in (0, 0, 1, 7):
        store.write(replace(report, spent=spent))
        settled(store, world)
    after = endpoint_of(store, db)
    assert after.epoch == 2, "for epochs 0 and 1, and for none that it does not have"
    assert after.public_key != before[db.id].public_key
    assert replace(after, epoch=0, public_key=before[db.id].public_key) == before[db.id]
    assert endpoint_of(store, other) == before[other.id]


def test_task_with_a_new_key_stays_ready() -> None:
    """A consumer without another task would refuse connections until the next plan."""
    store, world = fresh()
    world.add(WEB)
    running, checked = world.add(DB, "n2", "n2")
    world.report(running.id)
    world.report(checked.id, "created")
    assert ready(store, world) == {running.id}
    for task in (running, checked):
        report = store.entries[keyspace.report("n2", task.id)].record
        assert isinstance(report, TaskReport)
        store.write(replace(report, spent=0))
    steps = made_of(store, world).steps
    assert carry_out(store, steps) == len(steps) == 2
    assert [endpoint_of(store, task).epoch for task in (running, checked)] == [1, 1]
    assert [endpoint_of(store, task).ready for task in (running, checked)] == [True, False]


def test_the_word_of_another_node_counts_for_nothing() -> None:
    store, world = fresh()
    world.add(WEB)
    (db,) = world.add(DB, "n2")
    world.report(db.id)
    assert ready(store, world) == {db.id}
    record = store.entries[keyspace.report("n2", db.id)].record
    world.tasks[db.id] = replace(db, node="n3")
    world.report(db.id, "gone", wired=False, port_taken=endpoint_of(store, db).underlay.port)
    world.tasks[db.id] = db
    assert ready(store, world) == {db.id}
    assert store.entries[keyspace.report("n2", db.id)].record == record


@pytest.mark.parametrize("damaged", ["report", "node"])
def test_a_word_that_cannot_be_read_changes_nothing(damaged: str) -> None:
    store, world = fresh()
    world.add(WEB)
    one, two = world.add(DB, "n1", "n2")
    world.report(one.id)
    world.report(two.id)
    assert ready(store, world) == {one.id, two.id}
    store.damage(keyspace.report("n1", one.id) if damaged == "report" else keyspace.node("n1"))
    assert ready(store, world) == {one.id, two.id}


# --- keys


def test_new_sealing_key_gives_keypair_in_same_place() -> None:
    store, world = fresh()
    world.add(WEB)
    (db,) = world.add(DB, "n2")
    settled(store, world)
    before = endpoint_of(store, db)
    world.register("n2")
    settled(store, world)
    after = endpoint_of(store, db)
    assert after.public_key != before.public_key
    assert replace(after, public_key=before.public_key, epoch=0) == before
    assert after.epoch == 1


def test_unreadable_sealed_key_keeps_its_place() -> None:
    store, world = fresh()
    (web,) = world.add(WEB, "n1")
    (db,) = world.add(DB, "n2")
    settled(store, world)
    store.damage(keyspace.sealed_key("n2", db.id))
    world.register("n2")
    assert settled(store, world).problems == (f"store: keys/n2/{db.id}: not JSON",)
    store.commit([Delete(keyspace.endpoint(DB.id, db.id), None)])
    settled(store, world)
    assert [e.task for e in store.all(Endpoint)] == [web.id]
