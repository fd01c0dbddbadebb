"""Tasks that come and go for long in a small pool of addresses (moby#37338).

There addresses were released and yet not given again: "no address left" on a network that was nearly empty.
"""

from __future__ import annotations

import os
from ipaddress import IPv4Address, IPv4Network
from random import Random

from mesh.model.records import Address, Endpoint, Service
from tests.support.swarm_world import DB, NODES, WEB, World
from tests.unit.controller.memory_store import MemoryStore
from tests.unit.controller.transactions import carry_out, made_of, set_ports

CYCLES = int(os.environ.get("LINKWIRE_POOL_CYCLES") or 150)
"""The report's 500 with `make chaos`."""
SUBNET = IPv4Network("10.1.0.0/27")
POOL = frozenset(SUBNET.hosts())


def held(store: MemoryStore) -> list[IPv4Address]:
    """Return all addresses that somebody has, as often as somebody has them, and those that rest."""
    read = store.snapshot()
    resting = [found.address for found in read.all(Address) if found.holder is None]
    return [found.address for found in read.all(Endpoint)] + [found.vip for found in read.all(Service)] + resting


def test_small_pool_is_never_full_while_addresses_rested() -> None:
    """Each cycle gives or releases one; a task goes without an address only where all are held or rest."""
    store = MemoryStore()
    world = World(lambda options: options[0], store)
    random = Random(37338)  # noqa: S311 - an order is no secret
    world.add(WEB, "n1")
    world.add(DB, "n2")
    for node in NODES:
        set_ports(store, node, 2000, 2999)
    given = full = 0
    for _ in range(CYCLES):
        tasks = sorted(task.id for task in world.tasks.values() if task.service == DB.id)
        if len(tasks) > random.randrange(60):
            ended = random.choice(tasks)
            world.change(ended, state="failed")
            del world.tasks[ended]
        else:
            world.start(DB.id, random.choice(NODES))
            given += 1
        for key in store.resting():
            if random.random() < 0.1:
                store.end_rest(key)
        while (made := made_of(store, world, SUBNET)).steps:
            assert carry_out(store, made.steps) == len(made.steps)
        problems = made.problems
        addresses = held(store)
        assert len(addresses) == len(set(addresses)), "an address is held twice"
        assert POOL.issuperset(addresses)
        without = {*world.tasks} - {found.task for found in store.snapshot().all(Endpoint)}
        assert bool(without) == any("are taken" in problem for problem in problems)
        assert not without or len(addresses) == len(POOL), problems
        full += bool(without)
    assert given > CYCLES / 4
    assert full > CYCLES / 50
