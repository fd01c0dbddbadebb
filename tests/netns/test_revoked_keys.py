"""Captured keys of a revoked node on real devices: what they open before its revocation, and after it."""

from __future__ import annotations

import time
from dataclasses import replace

from controller.planning.planner import plan
from mesh.crypto.hpke import NodeKey
from mesh.crypto.preshared_keys import LinkKey, preshared_key
from mesh.integrity.sealed_keys import open_link_key
from mesh.model.records import Endpoint, SealedLinkKey
from mesh.topology.wgtypes import DeviceChange
from tests.netns.test_linkkeys import NO_HANDSHAKE_S, connects, peer_of, set_key
from tests.netns.world import Task, World, wait_for
from tests.support.attacks import Attempts
from tests.support.swarm_world import DB, SUBNET, WEB
from tests.support.swarm_world import World as Swarm
from tests.unit.controller.memory_store import MemoryStore
from tests.unit.controller.transactions import carry_out, fresh, settled

LINK = "shop_web:shop_db"


def swarm() -> tuple[MemoryStore, Swarm]:
    """`shop_web` on n1, and `shop_db` on n2 and n3."""
    store, found = fresh()
    found.add(WEB, "n1")
    found.add(DB, "n2", "n3")
    settled(store, found)
    return store, found


def captured(store: MemoryStore, found: Swarm, node: str) -> dict[str, LinkKey]:
    """Return everything that a node's sealing keys open of all boxes in the store."""
    keys: list[NodeKey] = [found.sealing_keys[name] for name, home in found.homes.items() if home == node]
    opened = {}
    for box in store.all(SealedLinkKey):
        for key in keys:
            if box.sealed_to == key.public.fingerprint:
                opened[box.key] = open_link_key(box, key)
    return opened


def revoke(store: MemoryStore, found: Swarm, node: str) -> None:
    """Carry out what the controller plans after the revocation."""
    found.nodes[node] = replace(found.nodes[node], revoked="noon")
    found.now += 1
    for _ in range(5):
        carry_out(store, plan(found.swarm(), store.snapshot(), SUBNET, found.now, found.members).steps)


def keyed(one: Task, other: Task, secrets: dict[str, LinkKey]) -> None:
    set_key(one, other, preshared_key(secrets.items(), one.key.public, other.key.public))


def drop(one: Task, other: Task) -> None:
    gone = replace(other.as_peer(), remove=True)
    one.node.backend.apply(one.netns, one.name, DeviceChange(peers=(gone,)))


def test_captured_keys_of_revoked_node_open_nothing(world: World, attempt: Attempts) -> None:
    """The thief has all of n3: its tasks' keys, its link keys, its sealing key, and another task's stolen key too."""
    tried = attempt("a revoked node: its captured keys make a handshake with a task of its links")
    store, found = swarm()
    near, far = world.nodes()
    victim, thief = world.task(near), world.task(far)
    victim.wire()
    thief.wire()
    loot = captured(store, found, "n3")
    keyed(victim, thief, captured(store, found, "n1"))
    keyed(thief, victim, loot)
    tried.works(connects(victim, thief), "before the revocation")
    revoke(store, found, "n3")
    assert {endpoint.node for endpoint in store.all(Endpoint)} == {"n1", "n2"}, "no peer for n3's tasks"
    drop(victim, thief)
    drop(thief, victim)  # so that its next handshake is a new one
    keyed(thief, victim, loot)
    time.sleep(NO_HANDSHAKE_S)
    tried.stopped(peer_of(thief, victim).last_handshake is None)
    assert captured(store, found, "n3") == {}, "its sealing key opens no box of a later epoch"


def test_old_link_key_meets_no_new_peer(world: World, attempt: Attempts) -> None:
    """Even as a peer that it is not: with the private key of a task elsewhere, stolen before."""
    tried = attempt("a revoked node: its captured link key and another task's stolen key meet a new peer")
    store, found = swarm()
    near, far = world.nodes()
    victim, thief = world.task(near), world.task(far)
    victim.wire()
    thief.wire()
    loot = captured(store, found, "n3")
    revoke(store, found, "n3")
    current = captured(store, found, "n1")
    assert current[LINK] != loot[LINK]
    keyed(victim, thief, current)
    keyed(thief, victim, loot)
    tried.stopped(not connects(victim, thief))
    keyed(thief, victim, current)
    wait_for(lambda: peer_of(victim, thief).last_handshake is not None, 60)  # it is tried again every 5 s
    tried.works(peer_of(victim, thief).last_handshake, "with the secret of the new epoch")
