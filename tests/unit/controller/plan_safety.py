"""What must hold at every moment of the store, and over every change of it, whatever was planned."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Address

from mesh.crypto.hpke import DecryptionError, NodeKey
from mesh.crypto.keys import PublicKey
from mesh.integrity.sealed_keys import open_key, open_link_key
from mesh.model import keyspace
from mesh.model.records import Address, Endpoint, LinkKeyEpoch, Node, Port, Record, SealedKey, SealedLinkKey, Service
from tests.support.swarm_world import World, secret
from tests.unit.controller.memory_store import Entry, MemoryStore


class Auditor:
    """Looks at every change of a store; it shares nothing with the planner."""

    def __init__(self) -> None:
        self.keys_seen: dict[PublicKey, tuple[str, int]] = {}

    def __call__(self, before: dict[str, Entry], store: MemoryStore) -> None:
        """Check one change."""
        for key in before.keys() | store.entries.keys():
            if key.startswith(keyspace.ADDRESSES):
                old, new = before.get(key), store.entries.get(key)
                if old != new:
                    _check_address_change(key, old, new, store)
            elif key.startswith(keyspace.ENDPOINTS) and key in before and key in store.entries:
                _check_kept(before[key].record, store.entries[key].record)
        _check_epochs(before, store)
        for endpoint in store.all(Endpoint):
            place = (endpoint.task, endpoint.epoch)
            assert self.keys_seen.setdefault(endpoint.public_key, place) == place, "no key is ever used twice"


def _check_epochs(before: dict[str, Entry], store: MemoryStore) -> None:
    """A secret that was once in use is not used again."""
    highest: Counter[str] = Counter()
    for old in (entry.record for entry in before.values()):
        if isinstance(old, (LinkKeyEpoch, SealedLinkKey)):
            highest[old.key] = max(highest[old.key], old.epoch)
    for record in store.all(LinkKeyEpoch):
        key = keyspace.key_of(record)
        if before.get(key) != store.entries[key] and key not in store.damaged:
            assert record.epoch > highest[record.key], "an epoch that was there before, or an older one"


def _check_kept(old: Record, new: Record) -> None:
    assert isinstance(old, Endpoint)
    assert isinstance(new, Endpoint)
    assert set(old.elsewhere) <= set(new.elsewhere), "an address that was kept apart no longer is"


def _check_address_change(key: str, old: Entry | None, new: Entry | None, store: MemoryStore) -> None:
    was, now = (entry.record if entry else None for entry in (old, new))
    assert was is None or isinstance(was, Address)
    assert now is None or isinstance(now, Address)
    if was is not None and was.holder is not None:
        assert now is not None, f"{key} was held and is free without a rest"
        assert now.holder in (None, was.holder), f"{key} went from one holder to another"
    elif was is not None and now is not None:
        assert now.holder is None, f"{key} was given while it rested"
    if now is None:
        assert old is not None
        assert key in store.rested, f"{key} did not rest to its end"
    else:
        assert new is not None
        assert new.lease is None, f"{key} is held for a while only"


def check_moment(store: MemoryStore, world: World) -> None:
    """What holds at every revision, with unreadable records counted for what they were."""
    addresses = {record.address: record.holder for record in store.all(Address)}
    ports = {(record.node, record.port): record.task for record in store.all(Port)}
    sealed = {record.task: record for record in store.all(SealedKey)}
    given: list[IPv4Address] = []
    for endpoint in store.all(Endpoint):
        given.append(endpoint.address)
        assert addresses[endpoint.address] == f"task/{endpoint.task}"
        assert ports[endpoint.node, endpoint.underlay.port] == endpoint.task
        _check_sealed(sealed[endpoint.task], endpoint, world)
    for service in store.all(Service):
        given.append(service.vip)
        assert addresses[service.vip] == f"service/{service.id}"
    assert not [address for address, count in Counter(given).items() if count > 1]
    if not store.ever_damaged:
        assert {address for address, holder in addresses.items() if holder} == set(given), "an address leaked"
        assert len(ports) == len(store.all(Endpoint)), "a port leaked"
        assert len(sealed) == len(store.all(Endpoint)), "a sealed key leaked"


def check_link_keys(store: MemoryStore, world: World) -> None:
    """At rest each node has the keys of its tasks' links, of the epoch that counts, and no others."""
    epochs = {record.key: record.epoch for record in store.all(LinkKeyEpoch)}
    nodes = {node.id: node.sealing_key.fingerprint for node in store.all(Node)}
    named = {service.id: service.name for service in store.all(Service)}
    boxes = {(record.node, record.key): record for record in store.all(SealedLinkKey)}
    wanted: set[tuple[str, str]] = set()
    for service in store.all(Service):
        for link in service.links:
            ends = {service.id, *(found for found, name in named.items() if name == link.provider)}
            if link.provider in named.values():
                hosts = {endpoint.node for endpoint in store.all(Endpoint) if endpoint.service in ends}
                wanted |= {(host, link.key or f"{service.name}:{link.provider}") for host in hosts}
    for node, key in wanted:
        assert (node, key) in boxes or node not in nodes, "a node that lacks a link key"
    for (node, key), box in boxes.items():
        if node in nodes and (node, key) in wanted:
            assert box.epoch == epochs[key], "a node with a link key of another epoch"
            assert box.sealed_to == nodes[node], "a link key that its node cannot open"
        assert world.homes[box.sealed_to] == node, "a link key sealed to another node"
        assert open_link_key(box, world.sealing_keys[box.sealed_to]) == secret(key, box.epoch)
    assert {key for _, key in boxes} <= epochs.keys()


def _check_sealed(sealed: SealedKey, endpoint: Endpoint, world: World) -> None:
    assert (sealed.node, sealed.epoch) == (endpoint.node, endpoint.epoch)
    assert world.homes[sealed.sealed_to] == endpoint.node, "sealed to another node"
    assert _opened(sealed, world.sealing_keys[sealed.sealed_to]) == endpoint.public_key


_OPENED: dict[tuple[SealedKey, NodeKey], PublicKey] = {}


def _opened(sealed: SealedKey, key: NodeKey) -> PublicKey | None:
    """The public key of what a sealed box holds; None where this key does not open it."""
    known = _OPENED.get((sealed, key))
    if known is None:
        try:
            known = open_key(sealed, key).public
        except DecryptionError:
            return None
        _OPENED[sealed, key] = known
    return known
