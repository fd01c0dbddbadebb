"""Plans after a node was revoked: its tasks lose their places, and every link key that it may know a new epoch."""

from __future__ import annotations

from dataclasses import replace

from controller.steps import Release, Share
from mesh.model import keyspace
from mesh.model.records import Address, Endpoint, LinkKeyEpoch, SealedKey, SealedLinkKey, Service
from mesh.model.snapshot import Delete
from mesh.model.vault.records import EpochHistory
from tests.support.swarm_world import DB, OVERLAY, WEB, World, on, service
from tests.unit.controller.memory_store import MemoryStore
from tests.unit.controller.plan_safety import check_link_keys
from tests.unit.controller.transactions import carry_out, fresh, made_of, settled

OWN = "shop_web:shop_db"
BLOG = service("blog_web", "shop_cache")
OTHER = "blog_web:shop_cache"


def world_of_two() -> tuple[MemoryStore, World]:
    """Nodes n1 and n2 have `shop_web` and `shop_db`, and the latter a second task on n3."""
    store, world = fresh()
    world.add(WEB, "n1")
    world.add(DB, "n2", "n3")
    at_rest(store, world)
    return store, world


def at_rest(store: MemoryStore, world: World) -> None:
    settled(store, world)
    check_link_keys(store, world)
    revoked = {node.id for node in world.nodes.values() if node.revoked is not None}
    assert not [box for box in store.all(SealedLinkKey) if box.node in revoked]
    assert not [box for box in store.all(SealedKey) if box.node in revoked]
    assert not [endpoint for endpoint in store.all(Endpoint) if endpoint.node in revoked]


def revoke(world: World, node: str, since: str | None = "noon") -> None:
    world.nodes[node] = replace(world.nodes[node], revoked=since)
    world.now += 1


def epoch(store: MemoryStore, key: str = OWN) -> int:
    return next(record.epoch for record in store.all(LinkKeyEpoch) if record.key == key)


def holders(store: MemoryStore, key: str = OWN) -> set[str]:
    return {box.node for box in store.all(SealedLinkKey) if box.key == key and box.epoch == epoch(store, key)}


def test_tasks_of_revoked_node_lose_places_first() -> None:
    store, world = world_of_two()
    (gone,) = (endpoint for endpoint in store.all(Endpoint) if endpoint.node == "n3")
    revoke(world, "n3")
    first, second, *_ = made_of(store, world).steps
    assert isinstance(first, Release)
    assert "its node was revoked" in first.reason
    assert isinstance(second, Share)
    at_rest(store, world)
    assert {endpoint.node for endpoint in store.all(Endpoint)} == {"n1", "n2"}
    (resting,) = (address for address in store.all(Address) if address.holder is None)
    assert resting.address == gone.address


def test_key_it_held_is_renewed_for_others() -> None:
    store, world = world_of_two()
    before = epoch(store)
    revoke(world, "n3")
    at_rest(store, world)
    assert epoch(store) > before
    assert holders(store) == {"n1", "n2"}
    after = epoch(store)
    world.now += 100
    at_rest(store, world)
    assert epoch(store) == after, "once"


def test_key_that_it_never_held_stays() -> None:
    store, world = world_of_two()
    world.add(BLOG, "n1")
    world.add(service("shop_cache"), "n2")
    at_rest(store, world)
    before = epoch(store, OTHER)
    revoke(world, "n3")
    at_rest(store, world)
    assert epoch(store, OTHER) == before


def test_key_that_it_once_held_is_renewed() -> None:
    """Its last task on the link ended, and with that its box went; it may have kept the secret."""
    store, world = world_of_two()
    before = epoch(store)
    (last,) = (task for task in world.tasks.values() if task.node == "n3")
    world.change(last.id, state="failed")
    at_rest(store, world)
    assert (epoch(store), holders(store)) == (before, {"n1", "n2"})
    revoke(world, "n3")
    at_rest(store, world)
    assert epoch(store) > before


def test_key_without_note_is_renewed() -> None:
    """So is every key of a store of before, and of one whose notes were lost."""
    store, world = world_of_two()
    world.add(BLOG, "n1")
    world.add(service("shop_cache"), "n2")
    at_rest(store, world)
    notes = [keyspace.history(note.key) for note in store.all(EpochHistory)]
    store.commit([Delete(note, None) for note in notes])
    before = epoch(store, OTHER)
    at_rest(store, world)
    assert epoch(store, OTHER) == before
    revoke(world, "n3")
    at_rest(store, world)
    assert epoch(store, OTHER) > before


def test_silent_node_keeps_no_revoked_key_alive() -> None:
    store, world = world_of_two()
    before = epoch(store)
    store.commit([Delete(keyspace.node("n2"), None)])
    revoke(world, "n3")
    settled(store, world)
    assert epoch(store) > before
    assert "n3" not in holders(store)


def test_silence_of_revoked_node_delays_nothing() -> None:
    store, world = world_of_two()
    before = epoch(store)
    store.commit([Delete(keyspace.node("n3"), None)])
    revoke(world, "n3")
    at_rest(store, world)
    assert epoch(store) > before


def test_box_outlives_an_interrupted_revocation() -> None:
    """Else nothing would say any more that the node knows the epoch's secret."""
    store, world = world_of_two()
    before = epoch(store)
    revoke(world, "n3")
    for step in made_of(store, world).steps:
        if not isinstance(step, Share):
            carry_out(store, [step])
    assert epoch(store) == before
    assert "n3" in holders(store)
    at_rest(store, world)
    assert epoch(store) > before


def test_approved_node_is_wired_again() -> None:
    store, world = world_of_two()
    revoke(world, "n3")
    at_rest(store, world)
    after = epoch(store)
    revoke(world, "n3", None)
    at_rest(store, world)
    assert {endpoint.node for endpoint in store.all(Endpoint)} == {"n1", "n2", "n3"}
    assert (epoch(store), holders(store)) == (after, {"n1", "n2", "n3"})
    revoke(world, "n3", "evening")
    at_rest(store, world)
    assert epoch(store) > after, "it was given the secret in between"


def test_new_task_on_revoked_node_waits() -> None:
    store, world = world_of_two()
    revoke(world, "n3")
    at_rest(store, world)
    task = world.start(DB.id, "n3", "assigned")
    assert made_of(store, world).steps == ()
    revoke(world, "n3", None)
    at_rest(store, world)
    assert keyspace.endpoint(DB.id, task.id) in store.entries


def test_node_that_left_ends_its_keys_epoch() -> None:
    store, world = world_of_two()
    before = epoch(store)
    del world.nodes["n3"]
    world.now += 1
    at_rest(store, world)
    assert epoch(store) > before
    assert holders(store) == {"n1", "n2"}


def test_revocation_has_a_name_of_its_own() -> None:
    _, world = fresh()
    assert world.swarm().revocations() == frozenset()
    revoke(world, "n1")
    once = world.swarm().revocations()
    revoke(world, "n1", "evening")
    assert once.isdisjoint(world.swarm().revocations())


def test_strict_goes_on_refusing_a_revoked_task() -> None:
    store, world = world_of_two()
    (task,) = (task for task in world.tasks.values() if task.node == "n3")
    world.tasks[task.id] = replace(task, attachments=(on(OVERLAY, 7),))
    at_rest(store, world)
    revoke(world, "n3")
    at_rest(store, world)
    (db,) = (found for found in store.all(Service) if found.id == DB.id)
    assert (db.elsewhere, db.revoked) == ((), (on(OVERLAY, 7),)), "its other tasks send by what is `elsewhere`"
    world.change(task.id, state="failed")
    at_rest(store, world)
    (db,) = (found for found in store.all(Service) if found.id == DB.id)
    assert db.revoked == ()
