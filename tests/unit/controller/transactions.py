"""Carries out plans on a store in memory, one transaction a step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Network

from controller.planning.planner import plan
from controller.steps import Plan, Step
from controller.swarm.model import SwarmTask
from controller.transactions import transaction as made_transaction
from mesh.model import keyspace
from mesh.model.records import Endpoint, Node
from mesh.model.snapshot import Op
from tests.support.swarm_world import SUBNET, World, secret
from tests.unit.controller.memory_store import MemoryStore
from tests.unit.controller.plan_safety import Auditor, check_moment


def transaction(step: Step) -> tuple[Op, ...]:
    """Make a step's transaction as the controller does."""
    return made_transaction(step, secret)


def carry_out(store: MemoryStore, steps: Iterable[Step]) -> int:
    """Do what holds; return how many steps did."""
    return sum(store.commit(transaction(step)) is not None for step in steps)


def made_of(store: MemoryStore, world: World, subnet: IPv4Network = SUBNET) -> Plan:
    return plan(world.swarm(), store.snapshot(), subnet, world.now, world.members)


def settled(store: MemoryStore, world: World, subnet: IPv4Network = SUBNET) -> Plan:
    for _ in range(5):
        made = made_of(store, world, subnet)
        if not made.steps:
            return made
        assert carry_out(store, made.steps) == len(made.steps)
        check_moment(store, world)
    raise AssertionError(made)


def fresh() -> tuple[MemoryStore, World]:
    store = MemoryStore(Auditor())
    return store, World(lambda options: options[0], store)


def endpoint_of(store: MemoryStore, task: SwarmTask) -> Endpoint:
    record = store.entries[keyspace.endpoint(task.service, task.id)].record
    assert isinstance(record, Endpoint)
    return record


def set_ports(store: MemoryStore, node: str, first: int, last: int) -> None:
    record = store.entries[keyspace.node(node)].record
    assert isinstance(record, Node)
    store.write(replace(record, first_port=first, last_port=last))
