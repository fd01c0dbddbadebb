"""Shares of stacks: one stack takes most of a pool, and none takes the last of it from the others."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from ipaddress import IPv4Network

from controller.planning.planner import Planner
from controller.swarm.model import SwarmService
from mesh.model.records import Address, Endpoint, Service
from mesh.model.snapshot import Put
from tests.support.attacks import Attempts
from tests.support.swarm_world import World, service
from tests.unit.controller.memory_store import MemoryStore
from tests.unit.controller.transactions import carry_out, fresh, set_ports

SUBNET = IPv4Network("10.1.0.0/26")  # 62 addresses
SHARE = 0.25


def of_stack(stack: str, *names: str) -> list[SwarmService]:
    """Services of a stack, of which the first links to all others and to itself."""
    full = [f"{stack}_{name}" for name in names]
    return [replace(service(name, *(full if name == full[0] else ())), stack=stack) for name in full]


def planned(store: MemoryStore, world: World, share: float) -> tuple[str, ...]:
    """Carry out plans until there is nothing to do; the problems that are left."""
    for _ in range(10):
        made = Planner(share).plan(world.swarm(), store.snapshot(), SUBNET, world.now, world.members)
        if not carry_out(store, made.steps):
            return made.problems
    raise AssertionError(made)


def wired(store: MemoryStore, stack: str) -> int:
    names = {record.id: record.name for record in store.all(Service)}
    return sum(names[e.service].startswith(f"{stack}_") for e in store.all(Endpoint))


def flood(world: World, tasks: int, *nodes: str) -> None:
    (greedy,) = of_stack("greedy", "all")
    world.add(greedy, *(nodes[n % len(nodes)] for n in range(tasks)))


def wide(store: MemoryStore, nodes: tuple[str, ...] = ("n1", "n2", "n3")) -> None:
    for node in nodes:
        set_ports(store, node, 20000, 20999)


def test_one_stack_leaves_addresses_for_others(attempt: Attempts) -> None:
    tried = attempt("one service of very many tasks takes all addresses of the mesh")
    seen: dict[float, int] = {}
    for share in (1.0, SHARE):
        store, world = fresh()
        wide(store)
        flood(world, 100, "n1", "n2", "n3")
        problems = planned(store, world, share)
        assert len(problems) == 1, "one problem of one service"
        assert problems[0].startswith("service greedy_all: some of its tasks are not wired: ")
        first, second = of_stack("shop", "web", "db")
        world.add(first, "n1", "n2")
        world.add(second, "n2")
        planned(store, world, share)
        seen[share] = wired(store, "shop")
        if share == SHARE:
            assert wired(store, "greedy") == 62 - 15 - 1, "all but a quarter, and its VIP"
            assert (
                "the stack greedy has 47 of the mesh's 62 addresses, and the last 25% are for others" in problems[0]
            )
    tried.works(seen[1.0] == 0)
    tried.stopped(seen[SHARE] == 3)


def test_one_stack_leaves_ports_for_others(attempt: Attempts) -> None:
    tried = attempt("one service of very many tasks takes all UDP ports of a node")
    seen: dict[float, int] = {}
    for share in (1.0, SHARE):
        store, world = fresh()
        set_ports(store, "n1", 20000, 20019)
        flood(world, 40, "n1")
        problems = planned(store, world, share)
        (web,) = of_stack("shop", "web")
        world.add(web, "n1", "n1")
        planned(store, world, share)
        seen[share] = wired(store, "shop")
    tried.works(seen[1.0] == 0)
    tried.stopped(seen[SHARE] == 2)
    assert "the stack greedy has 15 of the 20 UDP ports of host-n1" in problems[0]


def test_addresses_that_rest_count_for_their_stack(attempt: Attempts) -> None:
    """A service whose tasks fail again and again: each new task gets a new address, and the old one rests."""
    tried = attempt("a service restarts again and again, until all addresses rest")
    seen: dict[float, int] = {}
    for share in (1.0, SHARE):
        store, world = fresh()
        wide(store)
        flood(world, 6, "n1", "n2", "n3")
        planned(store, world, share)
        for _ in range(12):
            for task in [task for task in world.tasks.values() if task.state == "running"]:
                world.change(task.id, state="failed")
                world.start(task.service, task.node)
            planned(store, world, share)
        (web,) = of_stack("shop", "web")
        world.add(web, "n1", "n1")
        planned(store, world, share)
        seen[share] = wired(store, "shop")
        rests = Counter(record.stack for record in store.all(Address) if record.holder is None)
        assert set(rests) == {"greedy"}
    tried.works(seen[1.0] == 0)
    tried.stopped(seen[SHARE] == 2)


def test_removed_service_counts_for_its_own_stack() -> None:
    """A name like a stack's is not enough; also where an earlier version, which noted no stack, gave the VIP."""
    store, world = fresh()
    wide(store)
    (other,) = of_stack("other", "a")
    posing = replace(service("shop_a", "shop_a"), stack=None)
    for one in (posing, other):
        world.add(one, "n1", "n2")
    planned(store, world, SHARE)
    for record in [record for record in store.all(Address) if record.stack == "other"]:
        store.commit([Put(replace(record, stack=""), None)])
    planned(store, world, SHARE)
    for task in list(world.tasks.values()):
        world.change(task.id, state="shutdown")
    world.services.clear()
    planned(store, world, SHARE)
    rests = Counter(record.stack for record in store.all(Address) if record.holder is None)
    assert rests == {"": 3, "other": 3}


def test_who_is_alone_gets_most_of_any_pool() -> None:
    store, world = fresh()
    wide(store)
    flood(world, 46, "n1", "n2", "n3")
    assert planned(store, world, SHARE) == ()
    assert wired(store, "greedy") == 46


def test_a_stack_below_its_share_gets_the_last() -> None:
    """Four stacks that are equally large use all of it."""
    store, world = fresh()
    wide(store)
    for stack in ("a", "b", "c", "d"):
        (one,) = of_stack(stack, "x")
        world.add(one, *(("n1", "n2", "n3")[n % 3] for n in range(14)))
    assert planned(store, world, SHARE) == ()
    assert [wired(store, stack) for stack in ("a", "b", "c", "d")] == [14] * 4


def test_refusing_very_many_tasks_is_quick() -> None:
    """Without a word of the first refusal each would look through the whole subnet."""
    store, world = fresh()
    wide(store)
    flood(world, 62, "n1", "n2", "n3")
    planned(store, world, 1.0)
    flood(world, 3000, "n1", "n2", "n3")
    began = time.process_time()
    made = Planner().plan(world.swarm(), store.snapshot(), SUBNET, world.now, world.members)
    assert len(made.problems) == 1
    assert time.process_time() - began < 3
