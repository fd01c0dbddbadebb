"""Restore procedure: each term asks anew, and what was brought back holds its addresses and ports."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from controller.recovery import recall
from controller.recovery.recall_procedure import RestoreProcedure
from controller.trust.witnesses import Witness
from mesh.model import keyspace
from mesh.model.records import Address, Port, Record, Service
from mesh.model.snapshot import Put, Snapshot, Versioned
from tests.support.signing import holding, value
from tests.support.swarm_world import DB, WEB
from tests.unit.controller.transactions import endpoint_of, fresh, settled


def test_a_new_term_asks_anew() -> None:
    """Else a node asked in an earlier term has no time to answer, and an older state is restored over its own."""
    recall = RestoreProcedure(SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]
    recall._asked, recall.waiting = ("n2", 1.0), True
    recall.passed_over.add("n3")
    recall.start_term()
    assert (recall._asked, recall.waiting, recall.passed_over) == (("", 0.0), False, set())


@pytest.mark.parametrize("holder", [None, "task/before", "service/before"])
def test_restored_holder_replaces_the_one_before(holder: str | None) -> None:
    """Else an address does not rest when that holder ends: a second task would get it too soon."""
    store, world = fresh()
    world.add(WEB, "n1")
    (db,) = world.add(DB, "n2")
    settled(store, world)
    endpoint = endpoint_of(store, db)
    service = next(found for found in store.all(Service) if found.id == DB.id)
    brought: tuple[Record, ...] = endpoint, service
    manifest = value(holding(*brought, generation=7).record(), 7)
    records = {keyspace.key_of(record): Versioned(record, 1, 7, raw=value(record, 7)) for record in brought}
    records[keyspace.MANIFEST] = Versioned(holding(*brought, generation=7).record(), 1, 7, raw=manifest)
    newest = Snapshot(1, complete=True, records=records, contents=holding(*brought, generation=7))
    port = Port(endpoint.node, endpoint.underlay.port, "before")
    old = Address(endpoint.address, holder), Address(service.vip, f"service/{service.id}", "shop"), port
    stored = Snapshot(9, complete=True, records={keyspace.key_of(r): Versioned(r, 9, 3) for r in old})
    steps, problem = recall.put_back(stored, newest, Witness("n1", 7, manifest))
    assert problem == ""
    puts = [op for step in steps for op in step.ops if isinstance(op, Put)]
    assert puts == [
        Put(Address(endpoint.address, f"task/{db.id}"), 9),
        Put(Port(endpoint.node, endpoint.underlay.port, db.id), 9),
    ], "and nothing is said anew of what is held already"
