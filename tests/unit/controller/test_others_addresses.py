"""Addresses whose record names another holder than the endpoint that claims them, as after damage to the store."""

from __future__ import annotations

from mesh.model import keyspace
from mesh.model.records import Address
from tests.support.swarm_world import DB, WEB
from tests.unit.controller.transactions import carry_out, endpoint_of, fresh, made_of, settled


def test_an_ended_task_frees_only_its_own() -> None:
    store, world = fresh()
    world.add(WEB)
    (db, other) = world.add(DB, "n2", "n2")
    settled(store, world)
    own, others = (endpoint_of(store, task).address for task in (db, other))
    store._watch = None  # what follows no planner would do
    store.write(Address(own, f"task/{other.id}"))
    world.change(db.id, state="failed")
    carry_out(store, made_of(store, world).steps[:1])
    assert store.entries[keyspace.address(own)].record == Address(own, f"task/{other.id}")
    assert store.entries[keyspace.address(others)].record == Address(others, f"task/{other.id}")
