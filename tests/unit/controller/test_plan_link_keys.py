"""Plans of link keys: who is given which, when a new epoch begins, and when it must not."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network

import pytest

from controller.steps import Allocate, Share
from controller.swarm.model import SwarmService
from controller.transactions import packed
from mesh.model import keyspace
from mesh.model.labels.link_labels import ServiceLabels
from mesh.model.records import Endpoint, LinkKeyEpoch, SealedLinkKey
from mesh.model.snapshot import Delete, Put
from mesh.store.packing import MAX_OPS
from tests.support.swarm_world import DB, NODES, WEB, World, secret, service
from tests.unit.controller.memory_store import MemoryStore
from tests.unit.controller.plan_safety import check_link_keys
from tests.unit.controller.transactions import carry_out, fresh, made_of, settled, transaction

OWN = "shop_web:shop_db"
DAY = 86400


def keyed(found: SwarmService, key: str | None = "shop_shop", rotate: int | None = None) -> SwarmService:
    """The same with a key for all of its links."""
    links = tuple(replace(link, key=key, rotate=rotate) for link in found.labels.links)
    return replace(found, labels=ServiceLabels(links))


def epoch_of(store: MemoryStore, key: str) -> int:
    (found,) = (record.epoch for record in store.all(LinkKeyEpoch) if record.key == key)
    return found


def boxes(store: MemoryStore) -> set[tuple[str, str]]:
    return {(record.node, record.key) for record in store.all(SealedLinkKey)}


def at_rest(store: MemoryStore, world: World) -> None:
    made = settled(store, world)
    assert made.problems == ()
    check_link_keys(store, world)


def linked(web: SwarmService = WEB) -> tuple[MemoryStore, World]:
    store, world = fresh()
    world.add(web, "n1")
    world.add(DB, "n2")
    at_rest(store, world)
    return store, world


def test_link_without_named_key_has_its_own() -> None:
    store, world = linked()
    assert boxes(store) == {("n1", OWN), ("n2", OWN)}
    world.add(service("shop_cache", "shop_db"), "n3")
    at_rest(store, world)
    blog = "shop_cache:shop_db"
    assert boxes(store) == {("n1", OWN), ("n2", OWN), ("n2", blog), ("n3", blog)}
    assert secret(OWN, epoch_of(store, OWN)) != secret(blog, epoch_of(store, blog))


def test_named_key_shared_by_links_is_one_key() -> None:
    store, world = linked(keyed(WEB))
    world.add(keyed(service("shop_cache", "shop_db")), "n3")
    at_rest(store, world)
    assert boxes(store) == {(node, "shop_shop") for node in NODES}
    assert len(store.all(LinkKeyEpoch)) == 1


def test_tasks_endpoint_comes_after_its_nodes_key() -> None:
    store, world = linked()
    world.start(DB.id, "n3", "assigned")
    first, second = made_of(store, world).steps
    assert isinstance(first, Share)
    assert isinstance(second, Allocate)
    (together,) = packed([first, second], secret).batches
    put = [type(op.record) for _, ops in together for op in ops if isinstance(op, Put)]
    assert put.index(SealedLinkKey) < put.index(Endpoint), "in one transaction, so in one revision"


def test_new_link_of_running_tasks_follows_its_keys() -> None:
    store, world = fresh()
    world.add(WEB, "n1")
    world.add(service("shop_db", "shop_cache"), "n2")
    world.add(service("shop_cache"), "n3")
    at_rest(store, world)
    world.services[WEB.id] = service("shop_web", "shop_db", "shop_cache")
    steps = made_of(store, world).steps
    assert isinstance(steps[0], Share)
    assert {(box.node, box.key) for box in steps[0].boxes} == {(n, "shop_web:shop_cache") for n in ("n1", "n3")}
    assert "links or options changed" in steps[1].reason
    at_rest(store, world)


def test_node_loses_key_only_after_last_task() -> None:
    store, world = linked()
    (late,) = world.add(DB, "n3")
    at_rest(store, world)
    world.change(late.id, state="failed")
    steps = made_of(store, world).steps
    assert not any(isinstance(op, Delete) and op.key.startswith(keyspace.LINK_KEYS) for op in ops_of(steps[0]))
    at_rest(store, world)
    assert boxes(store) == {("n1", OWN), ("n2", OWN)}


def ops_of(step: object) -> tuple[object, ...]:
    return transaction(step)  # type: ignore[arg-type]


def test_unlinked_key_is_forgotten_and_returns_renewed() -> None:
    store, world = linked()
    before = epoch_of(store, OWN)
    world.services[WEB.id] = keyed(WEB)
    at_rest(store, world)
    assert boxes(store) == {("n1", "shop_shop"), ("n2", "shop_shop")}
    assert [record.key for record in store.all(LinkKeyEpoch)] == ["shop_shop"]
    world.now += 1
    world.services[WEB.id] = WEB
    at_rest(store, world)
    assert epoch_of(store, OWN) > before


def test_node_with_new_sealing_key_keeps_the_secret() -> None:
    store, world = linked()
    before = epoch_of(store, OWN)
    world.register("n1")
    at_rest(store, world)
    assert epoch_of(store, OWN) == before


def test_key_is_rotated_when_due() -> None:
    store, world = linked(keyed(WEB, rotate=DAY))
    before = epoch_of(store, "shop_shop")
    world.now += DAY - 1
    made = made_of(store, world)
    assert (made.steps, made.due) == ((), before + DAY)
    world.now += 1
    (step,) = made_of(store, world).steps
    assert isinstance(step, Share), "every node in one transaction"
    assert {box.node for box in step.boxes} == {"n1", "n2"}
    at_rest(store, world)
    assert epoch_of(store, "shop_shop") == before + DAY
    assert made_of(store, world).due == before + 2 * DAY


def test_shortest_rotation_wins_and_none_means_never() -> None:
    store, world = linked(keyed(WEB, rotate=DAY))
    world.add(keyed(service("shop_cache", "shop_db"), rotate=3600), "n1")
    world.add(keyed(service("shop_app", "shop_db")), "n1")
    at_rest(store, world)
    assert made_of(store, world).due == epoch_of(store, "shop_shop") + 3600
    store, world = linked()
    world.now += 10 * 365 * DAY
    made = made_of(store, world)
    assert (made.steps, made.due) == ((), None)


def test_silent_node_holds_rotation_up() -> None:
    store, world = linked(keyed(WEB, rotate=DAY))
    before = epoch_of(store, "shop_shop")
    world.now += DAY
    store.commit([Delete(keyspace.node("n2"), None)])
    made = made_of(store, world)
    assert made.steps == ()
    assert any("shop_shop: no new secret while the agents of host-n2 are silent" in p for p in made.problems)
    world.register("n2")
    settled(store, world)
    check_link_keys(store, world)
    assert epoch_of(store, "shop_shop") > before


def test_unproven_node_holds_rotation_up() -> None:
    """It could not be given the new secret, and its links would end with their sessions."""
    store, world = linked(keyed(WEB, rotate=DAY))
    before = epoch_of(store, "shop_shop")
    world.now += DAY
    shown = world.members.pop("n2")
    assert made_of(store, world).steps == ()
    world.members["n2"] = shown
    settled(store, world)
    assert epoch_of(store, "shop_shop") > before


def test_down_node_does_not_hold_rotation_up() -> None:
    store, world = linked(keyed(WEB, rotate=DAY))
    before = epoch_of(store, "shop_shop")
    world.now += DAY
    store.commit([Delete(keyspace.node("n2"), None)])
    world.nodes["n2"] = replace(world.nodes["n2"], down=True)
    settled(store, world)
    assert epoch_of(store, "shop_shop") > before


@pytest.mark.parametrize("lost", ["record", "all"])
def test_epoch_grows_even_after_lost_record(lost: str) -> None:
    store, world = linked()
    before = epoch_of(store, OWN)
    store._watch = None  # what follows no planner would do
    store.commit([Delete(keyspace.epoch(OWN), None)])
    if lost == "all":
        store.commit([Delete(keyspace.link_key(node, OWN), None) for node in ("n1", "n2")])
        world.now += 1
    else:
        world.now -= 1000  # and the clock was set back
    at_rest(store, world)
    assert epoch_of(store, OWN) > before


def test_an_old_record_brings_no_old_secret_back() -> None:
    store, world = linked(keyed(WEB, rotate=DAY))
    old = store.entries[keyspace.epoch("shop_shop")].record
    world.now += DAY
    at_rest(store, world)
    before = epoch_of(store, "shop_shop")
    store._watch = None
    store.write(old)
    at_rest(store, world)
    assert epoch_of(store, "shop_shop") > before


def test_clock_set_back_delays_no_rotation() -> None:
    store, world = linked(keyed(WEB, rotate=DAY))
    before = epoch_of(store, "shop_shop")
    world.now -= 100 * DAY
    at_rest(store, world)
    assert epoch_of(store, "shop_shop") == before + 1
    assert made_of(store, world).due == world.now + DAY


def test_an_unreadable_epoch_is_left_alone() -> None:
    store, world = linked()
    store.damage(keyspace.epoch(OWN))
    world.start(DB.id, "n3", "assigned")
    settled_steps = made_of(store, world).steps
    assert not any(isinstance(step, Share) for step in settled_steps)
    carry_out(store, settled_steps)
    store.heal()
    at_rest(store, world)


def test_oversized_transaction_is_split() -> None:
    store, world = fresh()
    subnet = IPv4Network("10.1.0.0/20")
    nodes = [f"n{number}" for number in range(1, 151)]
    for node in nodes:
        world.nodes[node] = replace(world.nodes["n1"], id=node, hostname=node)
        world.register(node)
    world.add(keyed(service("shop_web", "shop_web"), rotate=DAY), *nodes)
    settled(store, world, subnet)
    check_link_keys(store, world)
    world.now += DAY
    steps = made_of(store, world, subnet).steps
    assert len(steps) == 3
    assert all(len(transaction(step)) <= MAX_OPS for step in steps)
    assert carry_out(store, steps[:1]) == 1  # the controller dies here
    settled(store, world, subnet)
    check_link_keys(store, world)


def renewing(found: SwarmService, token: str | None) -> SwarmService:
    return replace(found, labels=replace(found.labels, renew=token))


def test_requested_rotation_happens_once_per_request() -> None:
    store, world = linked(keyed(WEB))
    other = keyed(service("shop_cache", "shop_db"))
    world.add(other, "n3")
    at_rest(store, world)
    epochs = [epoch_of(store, "shop_shop")]
    asked: list[tuple[str | None, str | None]] = [("1", None), ("1", "2"), ("3", "2")]
    for web, cache in asked:
        world.now += 1
        world.services[WEB.id], world.services[other.id] = renewing(keyed(WEB), web), renewing(other, cache)
        at_rest(store, world)
        epochs.append(epoch_of(store, "shop_shop"))
    assert epochs == sorted(set(epochs)), "a new one each time"
    world.now += 1
    asked = [("3", None), (None, None), (None, "2")]  # docker stack deploy takes the labels away
    for web, cache in asked:
        world.services[WEB.id], world.services[other.id] = renewing(keyed(WEB), web), renewing(other, cache)
        at_rest(store, world)
        assert epoch_of(store, "shop_shop") == epochs[-1]
