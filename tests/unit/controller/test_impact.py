"""Impact of a change: each rule of controller.index.impact by an example in which nothing else names what it does."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from ipaddress import IPv4Address

from controller.steps import Allocate, Plan, Release, Share
from controller.swarm.model import SwarmService, SwarmTask
from mesh.model import keyspace
from mesh.model.labels.link_labels import LinkLabel, ServiceLabels
from mesh.model.records import Address, Cluster, Endpoint, Status, TaskReport
from mesh.model.snapshot import Delete, Put
from tests.support.swarm_world import BRIDGE, DB, OVERLAY, SUBNET, WEB, World, on, service
from tests.unit.controller.memory_store import MemoryStore
from tests.unit.controller.planners import Remembering
from tests.unit.controller.transactions import carry_out

CACHE = service("shop_cache")


class Told:
    """A store that is at rest, and a planner that remembers it. Each plan is held to one of everything."""

    def __init__(self, *links: SwarmService) -> None:
        self.store = MemoryStore()
        self.world = World(lambda options: options[0], self.store)
        self.remembering = Remembering()
        for number, found in enumerate(links or (WEB, DB), 1):
            self.world.add(found, f"n{number}")
        self.rest()

    def plan(self) -> Plan:
        """What is planned now, by a look at less than everything."""
        before = Counter(self.remembering.looked)
        made = self.remembering.check(self.world.swarm(), self.store.snapshot(), self.world)
        assert self.remembering.looked - before == Counter(["less"])
        return made

    def rest(self) -> None:
        """Carry out what is planned, until nothing is."""
        for _ in range(6):
            made = self.remembering.check(self.world.swarm(), self.store.snapshot(), self.world)
            if not made.steps:
                return
            carry_out(self.store, made.steps)
        raise AssertionError(made)

    def task_of(self, found: SwarmService) -> SwarmTask:
        return next(task for task in self.world.tasks.values() if task.service == found.id)

    def up(self, *tasks: SwarmTask) -> None:
        for task in tasks:
            self.world.report(task.id)
        self.rest()


def linked(name: str, *providers: str, key: str | None = None, renew: str | None = None) -> SwarmService:
    found = service(name)
    links = tuple(LinkLabel(provider, (provider,), key=key) for provider in providers)
    return replace(found, labels=ServiceLabels(links, renew=renew))


def deleted(made: Plan) -> set[str]:
    steps = [step.deletes if isinstance(step, Release) else getattr(step, "ops", ()) for step in made.steps]
    return {op.key for ops in steps for op in ops if isinstance(op, Delete)}


def put(made: Plan) -> set[str]:
    return {op.key for step in made.steps for op in getattr(step, "ops", ()) if isinstance(op, Put)}


def endpoint_key(task: SwarmTask) -> str:
    return keyspace.endpoint(task.service, task.id)


# --- tasks


def test_tasks_of_a_node_that_changes_in_swarm() -> None:
    told = Told()
    told.world.nodes["n2"] = replace(told.world.nodes["n2"], address=IPv4Address("203.0.113.9"))
    assert put(told.plan()) == {endpoint_key(told.task_of(DB))}
    told.rest()
    del told.world.nodes["n2"]
    assert endpoint_key(told.task_of(DB)) in deleted(told.plan())


def test_task_its_node_reports_anew() -> None:
    told = Told()
    told.world.report(told.task_of(DB).id)
    assert put(told.plan()) == {endpoint_key(told.task_of(DB))}


def test_tasks_of_a_service_no_longer_linked() -> None:
    told = Told()
    told.world.services[WEB.id] = replace(WEB, labels=ServiceLabels())
    gone = {endpoint_key(told.task_of(DB)), endpoint_key(told.task_of(WEB))}
    assert deleted(told.plan()) >= gone | {keyspace.service(DB.id), keyspace.service(WEB.id)}


def test_endpoint_under_other_service_than_its_unlinked_tasks() -> None:
    told = Told()
    task = told.world.start(CACHE.id, "n3")
    told.world.services[CACHE.id] = linked("shop_cache", "shop_web")
    other = told.store.entries[endpoint_key(told.task_of(DB))].record
    assert isinstance(other, Endpoint)
    told.rest()
    strays = replace(other, task=task.id, node=task.node, service=DB.id)
    told.store.commit([Delete(endpoint_key(task), None), Put(strays, None)])
    told.rest()
    told.world.services[WEB.id] = replace(WEB, labels=ServiceLabels())
    assert keyspace.key_of(strays) in deleted(told.plan())


def test_tasks_of_ended_service_with_readable_record_again() -> None:
    told = Told()
    told.store.damage(keyspace.service(DB.id))
    del told.world.services[DB.id]
    told.world.start(DB.id, "n3")
    told.rest()
    told.store.heal()
    assert any(isinstance(step, Allocate) for step in told.plan().steps)


def test_vanished_service_whose_last_task_ends() -> None:
    told = Told()
    del told.world.services[DB.id]
    told.rest()
    told.world.change(told.task_of(DB).id, state="shutdown")
    assert keyspace.service(DB.id) in deleted(told.plan())


def test_service_with_lost_record_keeps_its_address() -> None:
    told = Told()
    told.store.commit([Delete(keyspace.service(DB.id), None)])
    made = told.plan()
    assert put(made) == {keyspace.service(DB.id)}
    assert len(made.steps) == 1, "its address is let go by nobody"


def test_tasks_attachments_when_swarm_stops_assigning_addresses() -> None:
    for told in (Told(), Told(WEB, DB, replace(CACHE, attachments=(on(OVERLAY, 2),)))):
        task = told.task_of(DB)
        if CACHE.id not in told.world.services:
            other = told.world.start(CACHE.id, "n3")
            told.world.tasks[other.id] = replace(other, attachments=(on(OVERLAY, 2),))
            told.rest()
        told.world.report(task.id, elsewhere=(on(OVERLAY, 4),))
        told.rest()
        assert told.store.all(Endpoint)[0].elsewhere == ()
        told.world.services.pop(CACHE.id, None)
        for gone in [task for task in told.world.tasks.values() if task.service == CACHE.id]:
            del told.world.tasks[gone.id]
        made = told.remembering.check(told.world.swarm(), told.store.snapshot(), told.world)
        assert endpoint_key(task) in put(made)
    told.world.report(task.id, elsewhere=(on(BRIDGE, 4),))
    assert endpoint_key(task) in put(told.plan())


def test_task_on_silent_node_that_goes_down() -> None:
    told = Told()
    silent, other = told.task_of(DB), told.world.start(DB.id, "n3")
    told.rest()
    told.up(silent, other)
    told.store.commit([Delete(keyspace.node("n2"), None)])
    assert put(told.plan()) == {endpoint_key(silent)}
    told.rest()
    told.world.change(other.id, state="failed")
    assert endpoint_key(silent) not in put(told.plan())
    told.rest()
    told.world.nodes["n2"] = replace(told.world.nodes["n2"], down=True)
    assert put(told.plan()) == {endpoint_key(silent)}


def test_silent_node_whose_last_task_vanished() -> None:
    told = Told()
    task = told.task_of(DB)
    told.up(task)
    told.store.commit([Delete(keyspace.node("n2"), None)])
    told.rest()
    del told.world.tasks[task.id]
    assert endpoint_key(task) in deleted(told.plan())
    told.world.tasks[task.id] = task
    assert told.plan().steps == ()


# --- what nobody else takes back


def test_ended_tasks_report_when_nodes_record_reads_again() -> None:
    told = Told()
    told.store.commit([Delete(keyspace.node("n3"), None)])
    told.store.write(Status("n3", 0, ()))
    told.store.damage(keyspace.status("n3"))
    report = TaskReport("over", DB.id, "n3", "gone", wired=False, error=None, port_taken=None, elsewhere=())
    told.store.write(report)
    assert told.plan().steps == ()
    told.store.heal()
    assert deleted(told.plan()) == {keyspace.key_of(report)}


def test_ended_tasks_report_when_its_node_is_gone() -> None:
    told = Told()
    report = TaskReport("over", DB.id, "n3", "gone", wired=False, error=None, port_taken=None, elsewhere=())
    told.store.write(report)
    told.rest()
    told.store.commit([Delete(keyspace.node("n3"), None)])
    assert deleted(told.plan()) == {keyspace.key_of(report)}


def test_address_of_missing_holder_until_released() -> None:
    told = Told()
    told.store.write(Address(SUBNET[30], "task/nobody"))
    for _ in range(2):
        (step,) = told.plan().steps
        assert isinstance(step, Release)


def test_two_endpoints_of_one_task_when_one_goes() -> None:
    for other in (WEB.id, "a service that sorts before all others"):
        told = Told()
        task = told.task_of(DB)
        record = told.store.entries[endpoint_key(task)].record
        assert isinstance(record, Endpoint)
        second = replace(record, service=other, address=SUBNET[29])
        told.store.write(second)
        told.remembering.check(told.world.swarm(), told.store.snapshot(), told.world)
        for gone in (keyspace.key_of(second), endpoint_key(task)):
            told.store.commit([Delete(gone, None)])
            told.remembering.check(told.world.swarm(), told.store.snapshot(), told.world)
        told.rest()


def test_what_is_taken_is_known_after_every_change() -> None:
    told = Told()
    told.world.start(DB.id, "n3")
    told.rest()
    for _ in range(3):
        task = told.world.start(DB.id, "n3")
        told.store.write(*(Address(SUBNET[number], None) for number in range(1, 27)))
        told.plan()
        told.store.damage(keyspace.address(SUBNET[26]))
        told.plan()
        told.store.commit([Delete(keyspace.address(SUBNET[number]), None) for number in (20, 26)])
        told.plan()
        told.rest()
        del told.world.tasks[task.id]
        told.rest()


# --- link keys


def boxes(made: Plan) -> set[tuple[str, str]]:
    return {(box.node, box.key) for step in made.steps if isinstance(step, Share) for box in step.boxes}


def test_link_keys_of_an_ended_task() -> None:
    told = Told()
    task = told.world.start(DB.id, "n3")
    told.rest()
    told.world.change(task.id, state="failed")
    carry_out(told.store, told.plan().steps)
    assert deleted(told.plan()) == {keyspace.link_key("n3", "shop_web:shop_db")}


def test_link_keys_of_node_with_new_sealing_key() -> None:
    told = Told()
    believed = told.world.members["n2"]
    told.world.register("n2")
    now, told.world.members["n2"] = told.world.members["n2"], believed
    assert told.plan().steps == ()
    told.world.members["n2"] = now
    assert boxes(told.plan()) == {("n2", "shop_web:shop_db")}


def test_link_key_renewed_by_hand() -> None:
    told = Told()
    told.world.services[WEB.id] = linked("shop_web", "shop_db", renew="now")
    assert boxes(told.plan()) == {("n1", "shop_web:shop_db"), ("n2", "shop_web:shop_db")}


def test_link_key_of_an_additional_link() -> None:
    told = Told(linked("shop_web", "shop_db", key="shop_all"), DB, linked("shop_cache", "shop_web"))
    told.world.services[WEB.id] = linked("shop_web", "shop_db", "shop_cache", key="shop_all")
    assert ("n3", "shop_all") in boxes(told.plan())


def test_unneeded_link_keys_once_needs_are_known_again() -> None:
    told = Told(WEB, DB, CACHE)
    told.world.services[CACHE.id] = linked("shop_cache", "shop_web")
    told.rest()
    told.store.damage(keyspace.service(CACHE.id))
    task = told.world.start(DB.id, "n3")
    told.rest()
    told.world.change(task.id, state="failed")
    told.rest()
    assert told.plan().steps == ()
    told.store.heal()
    assert keyspace.link_key("n3", "shop_web:shop_db") in deleted(told.plan())


def test_link_keys_of_unplaced_task_when_service_unlinks() -> None:
    told = Told()
    told.store.commit([Delete(endpoint_key(told.task_of(DB)), None)])
    assert told.plan().steps
    told.world.services[WEB.id] = replace(WEB, labels=ServiceLabels())
    assert keyspace.link_key("n2", "shop_web:shop_db") in deleted(told.plan())


def test_due_link_key_and_clock_set_back() -> None:
    told = Told(replace(WEB, labels=ServiceLabels((LinkLabel("shop_db", ("db",), rotate=600),))), DB)
    told.world.report(told.task_of(DB).id)
    told.rest()
    told.world.now += 595
    told.rest()
    for passed in (10, -3):
        told.world.now += passed
        assert len(boxes(told.plan())) == 2
        told.rest()


def test_a_lost_record_of_a_link_key() -> None:
    told = Told()
    told.store.commit([Delete(keyspace.link_key("n2", "shop_web:shop_db"), None)])
    assert boxes(told.plan()) == {("n2", "shop_web:shop_db")}
    told.rest()
    told.store.commit([Delete(keyspace.epoch("shop_web:shop_db"), None)])
    assert len(boxes(told.plan())) == 2


# --- everything


def test_everything_when_the_meshs_own_record_is_another() -> None:
    told = Told()
    told.store.damage(keyspace.CLUSTER)
    told.world.change(told.task_of(DB).id, state="failed")
    assert told.remembering.check(told.world.swarm(), told.store.snapshot(), told.world).steps == ()
    told.store.heal()
    assert told.remembering.check(told.world.swarm(), told.store.snapshot(), told.world).steps
    assert told.store.all(Cluster)
