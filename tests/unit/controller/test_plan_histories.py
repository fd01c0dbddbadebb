"""Random histories of a Swarm: wherever a plan was cut off, the store stays safe and ends right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Network
from random import Random
from typing import TypeVar

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.planning.planner import plan
from controller.steps import Plan
from controller.swarm.model import Swarm
from mesh.crypto.hpke import NodePublicKey
from mesh.crypto.keys import PublicKey
from mesh.model import keyspace
from mesh.model.records import Address, Cluster, Endpoint, Node, Port, Record, SealedKey, Service, TaskReport
from mesh.model.snapshot import Snapshot
from mesh.topology.agreed_links import shown
from mesh.topology.ipam import ula
from mesh.topology.strict_isolation import in_order
from tests.support.swarm_world import BRIDGE, LABELLED, NODES, SUBNET, World, home, recorded, service
from tests.unit.controller.memory_store import MemoryStore
from tests.unit.controller.plan_safety import Auditor, check_link_keys, check_moment
from tests.unit.controller.planners import Remembering, Wild
from tests.unit.controller.transactions import carry_out

T = TypeVar("T")

QUICK = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
SWARM_ACTIONS = sorted(World(lambda options: options[0], MemoryStore()).actions)
STARTS: tuple[tuple[tuple[str, ...], ...], ...] = (
    (),
    (("shop_web", "shop_db"), ("shop_db",)),
    (("shop_web", "shop_db", "missing"), ("shop_db", "shop_db"), ("shop_cache", "shop_web")),
)
CONTROLLER_ACTIONS = ("plan", "part of a plan", "look", "stale plan", "settle", "settle")


class History:
    """A world, a store, a controller, and a second controller that does not know that it no longer leads."""

    def __init__(self, data: st.DataObject, store: MemoryStore | None = None) -> None:
        self._data = data
        self.store = MemoryStore(Auditor()) if store is None else store
        self.remembering = Remembering()
        self.world = World(self.choose, self.store)
        self.random = Random(data.draw(st.integers(0, 2**16), "seed"))  # noqa: S311 - an order is no secret
        self.store.write(Cluster("cluster", self.choose((SUBNET, IPv4Network("10.2.0.0/28"))), ula("cluster")))
        for name, *links in self.choose(STARTS):
            self.world.add(service(name, *links), *NODES[: self.choose((1, 2, 3))])
        self.old = self._look()

    def choose(self, options: Sequence[T]) -> T:
        return options[self._data.draw(st.integers(0, len(options) - 1))]

    def _look(self) -> tuple[Swarm, Snapshot, IPv4Network, int, dict[str, NodePublicKey]]:
        return self.world.swarm(), self.store.snapshot(), SUBNET, self.world.now, dict(self.world.members)

    def run(self, actions: Sequence[str]) -> None:
        for action in self._data.draw(st.lists(st.sampled_from(actions), min_size=5, max_size=40), "actions"):
            self.act(action)
            check_moment(self.store, self.world)
            self.remembering.check(self.world.swarm(), self.store.snapshot(), self.world)

    def act(self, action: str) -> None:
        match action:
            case "plan":
                carry_out(self.store, self.plan().steps)
            case "part of a plan":
                steps = self.plan().steps
                carry_out(self.store, steps[: self.choose(range(len(steps) + 1))])
            case "look":
                self.old = self._look()
            case "stale plan":
                carry_out(self.store, plan(*self.old).steps)
            case "settle":
                settle(self.store, self.world)
            case "damage":
                kind = self.choose(sorted({key.partition("/")[0] for key in self.store.entries}))
                self.store.damage(self.choose([key for key in sorted(self.store.entries) if key.startswith(kind)]))
            case "heal":
                self.store.heal()
            case _:
                self.world.act(action)

    def plan(self) -> Plan:
        now, members = self.world.now, self.world.members
        made = plan(self.world.swarm(), self.store.snapshot(), SUBNET, now, members)
        again = plan(self.world.swarm(reverse=True), self.store.snapshot(self.random), SUBNET, now, members)
        assert again == made, "a plan does not depend on the order of what it is made from"
        assert not plan(self.world.swarm(), self.store.snapshot(complete=False), SUBNET, now, members).steps
        return made


def settle(store: MemoryStore, world: World) -> None:
    """Plan and apply until there is nothing to do, looking at every transaction's result."""
    wired_before = wired(store, world)
    for _ in range(6):
        made = plan(world.swarm(), store.snapshot(), SUBNET, world.now, world.members)
        if not made.steps:
            if not store.ever_damaged:
                check_endpoints(store, world, wired_before, made)
            if not store.damaged:
                check_settled(store, world)
                check_link_keys(store, world)
            return
        for step in made.steps:
            assert carry_out(store, [step]), f"a fresh plan's step did not hold: {step.reason}"
            check_moment(store, world)
    raise AssertionError(f"still not at rest: {[step.reason for step in made.steps]}")


def wired(store: MemoryStore, world: World) -> set[str]:
    """Ids of services on either end of a link between services that exist, or that end but have tasks left."""
    swarm = world.swarm()
    links = {s.id: (s.name, {link.provider for link in s.labels.links}) for s in world.services.values()}
    ending = {task.service for task in world.tasks.values() if swarm.live(task)} - links.keys()
    for s in store.all(Service):
        if s.id in ending:
            links[s.id] = s.name, {link.provider for link in s.links}
    found = ending & links.keys()
    for one, (_, providers) in links.items():
        for other, (name, _) in links.items():
            if name in providers:
                found |= {one, other}
    return found | {one for one, (_, providers) in links.items() if providers}


def check_endpoints(store: MemoryStore, world: World, linked: set[str], made: Plan) -> None:
    """Endpoints are exactly those of live tasks of wired services on nodes with an agent; services likewise."""
    swarm = world.swarm()
    endpoints = {endpoint.task: endpoint for endpoint in store.all(Endpoint)}
    stored = {service.id: service for service in store.all(Service)}
    live = {task.id for task in world.tasks.values() if swarm.live(task) and task.service in linked}
    assert endpoints.keys() <= live
    full = [problem for problem in made.problems if " are taken: " in problem]
    for task in live - endpoints.keys():
        found = world.tasks[task]
        waits = not found.wanted or keyspace.node(found.node) not in store.entries
        homeless = found.service not in world.services and found.service not in stored
        observed = world.nodes[found.node]
        nowhere = observed.address is None and not observed.known_at
        assert waits or homeless or full or nowhere, f"{task} has no endpoint"
    assert stored.keys() <= linked
    assert full or stored.keys() >= linked
    for wanted in world.services.values():
        if (held := stored.get(wanted.id)) is not None:
            links = tuple(replace(link, provider=shown(link.provider)) for link in held.links)
            assert (links, held.name, held.dnsrr) == (wanted.labels.links, wanted.name, wanted.dnsrr)
            revoked = [
                attachment
                for task in world.tasks.values()
                if task.service == wanted.id and not task.ended and task.node in world.nodes
                if world.nodes[task.node].revoked is not None
                for attachment in task.attachments
            ]
            assert held.elsewhere == wanted.attachments
            assert held.revoked == in_order(revoked)


def check_settled(store: MemoryStore, world: World) -> None:
    """Keys, ports and readiness of what is at rest."""
    nodes = {node.id: node for node in store.all(Node)}
    endpoints = store.all(Endpoint)
    sealed = {record.task: record for record in store.all(SealedKey)}
    reports = {(record.node, record.task): record for record in store.all(TaskReport)}

    def up(endpoint: Endpoint) -> bool:
        task = world.tasks.get(endpoint.task)
        report = reports.get((endpoint.node, endpoint.task))
        if task is None or report is None or not task.wanted or not report.wired or report.state == "gone":
            return False
        return report.state == "running"

    for endpoint in endpoints:
        told = reports.get((endpoint.node, endpoint.task))
        claims = told.elsewhere if told else ()
        sure = {recorded(a, endpoint.node) for a in claims if a.network == BRIDGE}
        sure.update(world.tasks[endpoint.task].attachments if endpoint.task in world.tasks else ())
        assert sure <= set(endpoint.elsewhere) <= world.said[endpoint.task]
        assert endpoint.elsewhere == in_order(endpoint.elsewhere)
        node = nodes.get(endpoint.node)
        if node is not None:
            assert sealed[endpoint.task].sealed_to == node.sealing_key.fingerprint
            observed = world.nodes.get(endpoint.node)
            if observed is not None and (observed.address or node.address in observed.known_at):
                assert endpoint.underlay.host == (observed.address or node.address)
            assert endpoint.underlay.host in {home(endpoint.node), LABELLED}
            assert endpoint.ready == up(endpoint)
            assert not endpoint.suspect
        else:
            assert endpoint.ready == (up(endpoint) and not world.nodes[endpoint.node].down)
            assert endpoint.suspect == endpoint.ready


@QUICK
@given(st.data())
def test_endpoints_follow_live_wired_tasks_safely_throughout(data: st.DataObject) -> None:
    history = History(data)
    history.run((*SWARM_ACTIONS, "start", "report", "deploy", "relink", *CONTROLLER_ACTIONS))
    settle(history.store, history.world)


@QUICK
@given(st.data())
def test_unreadable_records_keep_their_claims_and_stay(data: st.DataObject) -> None:
    history = History(data)
    history.run((*SWARM_ACTIONS, "start", "report", "deploy", *CONTROLLER_ACTIONS, "damage", "damage", "heal"))
    settle(history.store, history.world)


@settings(QUICK, max_examples=60)
@given(st.data())
def test_nothing_is_left_when_everything_has_ended(data: st.DataObject) -> None:
    history = History(data)
    history.run((*SWARM_ACTIONS, "start", "deploy", *CONTROLLER_ACTIONS, "damage", "heal"))
    store, world = history.store, history.world
    store.heal()
    world.tasks.clear()
    world.services.clear()
    settle(store, world)
    for key in store.resting():
        store.end_rest(key)
    settle(store, world)
    left = [key for key in store.entries if not key.startswith((keyspace.NODES, keyspace.TASKS))]
    assert left in ([keyspace.CLUSTER], []), left


@settings(QUICK, max_examples=60)
@given(st.data())
def test_interrupted_plan_resumed_ends_like_a_whole_one(data: st.DataObject) -> None:
    history = History(data)
    calm = [action for action in SWARM_ACTIONS if action not in ("port taken", "agent")]
    history.run((*calm, "start", "start", "deploy", "relink", "report", "settle"))
    store, world = history.store, history.world
    steps = plan(world.swarm(), store.snapshot(), SUBNET, world.now, world.members).steps
    whole = store.copy()
    settle(whole, world)
    for cut in range(len(steps)):
        part = store.copy()
        for step in steps[:cut]:
            assert carry_out(part, [step])
            check_moment(part, world)
        for step in steps:  # a second planner made the same plan of the same picture, and comes late
            carry_out(part, [step])
            check_moment(part, world)
        settle(part, world)
        assert _up_to_keys(part) == _up_to_keys(whole)


def _up_to_keys(store: MemoryStore) -> list[Record]:
    """All that a controller wrote, but for keys, revisions and leases."""
    found: list[Record] = []
    for key in sorted(store.entries):
        record = store.entries[key].record
        if isinstance(record, Endpoint):
            found.append(replace(record, public_key=PublicKey(bytes(32))))
        elif isinstance(record, SealedKey):
            found.append(replace(record, sealed=b""))
        elif isinstance(record, (Address, Port, Service)):
            found.append(record)
    return found


def test_incremental_planner_equals_one_that_reads_everything() -> None:
    """After every action, and after several; also where nobody changes a store like that."""
    looked: Counter[str] = Counter()
    steps: Counter[str] = Counter()

    @settings(QUICK, max_examples=200)
    @given(st.data())
    def histories(data: st.DataObject) -> None:
        history = History(data, MemoryStore())
        wild = Wild(history.world, history.store, history.choose)
        now_and_then = Remembering()
        tame = (*SWARM_ACTIONS, "start", "start", "report", "deploy", "relink", "damage", "heal")
        planned = ("plan", "part of a plan", "plan", "stale plan", "look")
        actions = st.sampled_from((*tame, *planned, *planned, *wild.actions))
        for action in data.draw(st.lists(actions, min_size=5, max_size=40), "actions"):
            if action in wild.actions:
                wild.actions[action]()
            else:
                history.act(action)
            found = history.world.swarm(), history.store.snapshot()
            made = history.remembering.check(*found, history.world)
            steps.update(type(step).__name__ for step in made.steps)
            if action in planned:
                now_and_then.check(*found, history.world, history.random)
        for one in (history.remembering, now_and_then):
            looked.update(one.looked)

    histories()
    assert min(looked["everything"], looked["less"]) > 100, f"only one way was tried: {looked}"
    assert {"Allocate", "Share", "Release", "PlanStep"} <= steps.keys()
