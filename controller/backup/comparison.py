"""Comparison of a backup with the store: what a restore writes, and what it would take from what runs. Pure.

The signed set counts as a whole, as everywhere: the newer one of both by its generation stays. So no key, no epoch of
a link key and no revocation goes back to an earlier one, and links that run go on. Where the store's set is the newer
one, as after the nodes have brought it back, the backup gives what nodes cannot bring: the audit log, the addresses
that rested, statements of nodes, and boxes of what is in that set.

A store without the newer set began anew: nobody was left who knew it. The backup's set then replaces it, and whoever
got another VIP, address or key meanwhile loses that again: only where the operator says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from mesh.integrity.verification import verify_snapshot
from mesh.model import keyspace
from mesh.model.records import (
    Address,
    Cluster,
    Endpoint,
    LinkKeyEpoch,
    Member,
    Record,
    SealedKey,
    SealedLinkKey,
    Service,
)
from mesh.model.snapshot import Delete, Op, Put, Snapshot, Versioned, Write
from mesh.model.vault.records import EpochHistory, Vault

NAMED = 20
"""Services that a list names."""
_REPLACED = (keyspace.KEYS, keyspace.LINK_KEYS, keyspace.PORTS, keyspace.VAULTS, keyspace.ENCRYPTION_WANTED)
"""Records outside the signed set that go with it, besides the vault."""
_WORDS = {
    "keys": "sealed keys of tasks",
    "linkkeys": "sealed link keys",
    "vaults": "notes of epochs",
    "members": "accepted keys of nodes",
    "addresses": "addresses",
    "ports": "UDP ports",
    "services": "services",
    "endpoints": "endpoints",
    "epochs": "link keys",
    "peers": "places in node encryption",
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Effect of a restore.

    Attributes:
        whole: whether the backup's signed set replaces the store's; else only what is missing comes.
        ops: in order, without the audit log.
        restored: number of records by what they are.
        lost: texts: what of the store would go.
        kept: texts: what of the backup stays away, and why.
    """

    whole: bool
    ops: tuple[Op, ...] = ()
    restored: Mapping[str, int] = field(default_factory=dict)
    lost: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


def problems(backup: Snapshot) -> list[str]:
    """List why a backup may not be restored at all.

    Args:
        backup: its values, opened with the verify keys of this Swarm.
    """
    wrong = [f"it has a record that cannot be believed: {reason}" for _, reason in sorted(backup.invalid.items())]
    if len(wrong) > NAMED:
        wrong[NAMED:] = [f"and {len(wrong) - NAMED} more such records"]
    problem = verify_snapshot(backup).problem
    return [*wrong, *([f"its records are not the set that was signed: {problem}"] if problem else [])]


def compare(backup: Snapshot, stored: Snapshot) -> Comparison:
    """Compare a backup that may be restored with the store.

    Args:
        backup: with the signed bytes of its records.
        stored: the whole store, likewise.
    """
    then, now = _generation(backup), _generation(stored)
    if now < then:
        ops = tuple(_replacing(backup, stored))
        return Comparison(True, ops, _counted(ops), tuple(_lost(backup, stored)))
    missing = tuple(_missing(backup, stored))
    return Comparison(False, missing, _counted(missing), (), tuple(_kept(backup, stored, then, now)))


def _generation(snapshot: Snapshot) -> int:
    manifest = snapshot.records.get(keyspace.MANIFEST)
    return manifest.generation if manifest is not None else 0


def _counted(ops: tuple[Op, ...]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for op in ops:
        if isinstance(op, Put | Write):
            kind = op.key.partition("/")[0]
            rests = isinstance(op, Put) and isinstance(op.record, Address)
            counts["addresses that rest" if rests else _WORDS.get(kind, "other records")] += 1
    return dict(sorted(counts.items()))


# --- the backup's set replaces the store's


def _replacing(backup: Snapshot, stored: Snapshot) -> Iterator[Op]:
    """Yield the operations, the manifest last: until then no agent acts on the store."""
    for key in sorted({*stored.records, *stored.unread}):
        goes = keyspace.covered(key) or key == keyspace.VAULT or key.startswith(_REPLACED)
        if key in backup.records or not goes:
            continue
        yield Delete(key, stored.revision_of(key))
    for key, versioned in sorted(backup.records.items(), key=lambda item: (item[0] == keyspace.MANIFEST, item[0])):
        ours = stored.records.get(key)
        if key.startswith(keyspace.AUDIT) or _stays(versioned, ours):
            continue
        yield Write(key, versioned.generation, versioned.raw or b"", stored.revision_of(key))
    for key, address in stored.keys_of(Address):
        if key not in backup.records and address.record.holder is not None:
            yield Put(Address(address.record.address, None, address.record.stack), address.revision)


def _stays(theirs: Versioned[Record], ours: Versioned[Record] | None) -> bool:
    """Tell whether the store's record stays: the same, or a later statement of a node about its keys."""
    if ours is None:
        return False
    if isinstance(ours.record, Member) and isinstance(theirs.record, Member):
        return ours.record.counter >= theirs.record.counter
    return ours.raw == theirs.raw


def _lost(backup: Snapshot, stored: Snapshot) -> Iterator[str]:
    """Name what runs by the store's set and would change."""
    before = {service.id: service for service in backup.all(Service)}
    tasks = {endpoint.task: endpoint for endpoint in backup.all(Endpoint)}
    changed: Counter[str] = Counter()
    for endpoint in stored.all(Endpoint):
        other = tasks.get(endpoint.task)
        if other is None or (other.address, other.public_key) != (endpoint.address, endpoint.public_key):
            changed[endpoint.service] += 1
    texts = []
    for service in sorted(stored.all(Service), key=lambda service: service.name):
        other_service = before.get(service.id)
        parts = []
        if other_service is None:
            parts.append("is not in the backup, so it gets another VIP")
        elif other_service.vip != service.vip:
            parts.append(f"its VIP {service.vip} becomes {other_service.vip}")
        if changed[service.id]:
            parts.append(f"{changed[service.id]} of its tasks get another address or key")
        if parts:
            texts.append(f"service {service.name}: {', and '.join(parts)}")
    yield from texts[:NAMED]
    if len(texts) > NAMED:
        yield f"and {len(texts) - NAMED} more services"


# --- the store's set stays


def _missing(backup: Snapshot, stored: Snapshot) -> Iterator[Op]:
    """Yield what the store lacks and nobody else brings."""
    endpoints = {(e.task, e.node, e.epoch) for e in stored.all(Endpoint)}
    hosts = {node for _, node, _ in endpoints}
    epochs = {record.key: record.epoch for record in stored.all(LinkKeyEpoch)}
    vault = stored.get(keyspace.VAULT, Vault)
    for key, versioned in sorted(backup.records.items()):
        if stored.revision_of(key):
            continue
        match versioned.record:
            case Member():
                fits = True
            case SealedKey(task=task, node=node, epoch=epoch):
                fits = (task, node, epoch) in endpoints
            case SealedLinkKey(key=name, node=node, epoch=epoch):
                fits = epochs.get(name) == epoch and node in hosts
            case EpochHistory(key=name, epoch=epoch, vault=vault_id):
                fits = epochs.get(name) == epoch and vault is not None and vault.id == vault_id
            case _:
                fits = False
        if fits:
            yield Write(key, versioned.generation, versioned.raw or b"", 0)
    yield from _resting(backup, stored)


def _resting(backup: Snapshot, stored: Snapshot) -> Iterator[Op]:
    """Yield addresses that have no record any more: they rest again, or for the first time."""
    cluster = stored.get(keyspace.CLUSTER, Cluster)
    used = {endpoint.address for endpoint in stored.all(Endpoint)} | {service.vip for service in stored.all(Service)}
    for key, versioned in sorted(backup.keys_of(Address)):
        address = versioned.record.address
        inside = cluster is not None and address in cluster.subnet
        if inside and address not in used and not stored.revision_of(key):
            yield Put(Address(address, None, versioned.record.stack), 0)


def _kept(backup: Snapshot, stored: Snapshot, then: int, now: int) -> Iterator[str]:
    if now > then:
        yield (
            f"etcd holds generation {now} of the signed set, which is newer than the backup's {then}: links, VIPs, "
            "addresses and keys stay as they run"
        )
    else:
        yield f"etcd holds generation {now} of the signed set, as the backup does"
    running = {service.id for service in stored.all(Service)}
    gone = sorted(service.name for service in backup.all(Service) if service.id not in running)
    if gone:
        more = f" and {len(gone) - NAMED} more" if len(gone) > NAMED else ""
        yield f"services of the backup that are linked no more: {', '.join(gone[:NAMED])}{more}"
