"""Repair of records that another writer has changed, deleted or added. Pure.

Only the leader writes the controller's records, and a leader has seen each state that it signed. So it restores from
memory every record that cannot be read or that is not as it was signed. A leader that is new to such a store deletes
records that cannot be read, and the plan makes them again. The addresses and ports that they held stay allocated: by
the records of the addresses and ports, and if those cannot be read, by their keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network

from controller.steps import PlanStep, Release, Step
from mesh.model import keyspace
from mesh.model.records import Address, Cluster, Endpoint, Port, Record, SealedKey, Service
from mesh.model.snapshot import Delete, Put, Snapshot, Versioned
from mesh.topology.ipam import ula

BATCH = 1000
"""Records that are signed again in one pass."""


def mend(stored: Snapshot, reference: Snapshot | None, *, verified: bool) -> list[Step]:
    """Restore what was tampered with; no steps where everything is as it was signed.

    Args:
        stored: the whole store, complete.
        reference: the last snapshot that this leader saw verified; None if it has seen none.
        verified: whether `stored` holds exactly the set of records that was signed.
    """
    steps: list[Step] = []
    if reference is not None and not verified:
        steps += _as_it_was(stored, reference)
    if reference is not None:
        steps += _replayed(stored, reference)
        steps += _lost_keys(stored, reference)
    done = {op.key for step in steps if isinstance(step, PlanStep) for op in step.ops}
    for key, reason in sorted(stored.invalid.items()):
        if key not in done and key in stored.unread and keyspace.writer(key) == "controller":
            steps += _unreadable(stored, reference, key, reason)
    return steps


def unknown(stored: Snapshot) -> str | None:
    """Explain that an unknown key signed the store, which may not be written then; None where that is not so."""
    unreadable = [key for key in stored.invalid if keyspace.covered(key)]
    if not unreadable or stored.contents.entries:
        return None
    return (
        f"the store holds {len(unreadable)} records and none is signed by one of the verify keys ({unreadable[0]}: "
        f"{stored.invalid[unreadable[0]]}): add the key that signed them to the verify keys, or empty the store"
    )


def cluster_again(stored: Snapshot, cluster: str, subnet: IPv4Network) -> list[Step]:
    """Rewrite the cluster's record if it cannot be read and its subnet is in use."""
    if keyspace.CLUSTER not in stored.invalid:
        return []
    used = [endpoint.address for endpoint in stored.all(Endpoint)] + [s.vip for s in stored.all(Service)]
    if any(address not in subnet for address in used):
        return []
    record = Cluster(cluster, subnet, ula(cluster))
    revision = stored.revision_of(keyspace.CLUSTER)
    return [PlanStep((Put(record, revision),), f"{stored.invalid[keyspace.CLUSTER]}: restored")]


def resign(stored: Snapshot, signer: bytes, done: Snapshot | None = None) -> list[Step]:
    """Sign records again that another key than the controller's own has signed, up to BATCH at a time.

    A resting address is left: its rest ends sooner than the old key.

    Args:
        stored: the whole store, complete.
        signer: id of the controller's own key.
        done: an earlier snapshot in which no record was left to sign.
    """
    steps: list[Step] = []
    changed = stored.changed_since(done) if done is not None else None
    for key in stored.records if changed is None else sorted(changed):
        versioned = stored.records.get(key)
        if versioned is None:
            continue
        resting = isinstance(versioned.record, Address) and versioned.record.holder is None
        if versioned.signer in ("", b"", signer) or keyspace.writer(key) != "controller" or resting:
            continue
        if key != keyspace.MANIFEST:  # which is written with each of them
            steps.append(PlanStep((Put(versioned.record, versioned.revision),), f"{key}: signed with the new key"))
        if len(steps) == BATCH:
            break
    return steps


def _as_it_was(stored: Snapshot, reference: Snapshot) -> Iterator[Step]:
    """Restore the signed set by content: a record that was rewritten has another generation and signature."""
    for key in sorted({*reference.contents.entries, *stored.contents.entries}):
        now, before = stored.records.get(key), reference.records.get(key)
        revision = stored.revision_of(key)
        if before is None:
            yield PlanStep((Delete(key, revision),), f"{key}: not signed, deleted")
        elif now is None or now.record != before.record:
            yield PlanStep((Put(before.record, revision),), f"{key}: not as it was signed, restored")


def _before(stored: Snapshot, reference: Snapshot) -> Iterator[tuple[str, Versioned[Record]]]:
    """Yield the record in the reference of each key that may have changed since."""
    changed = stored.changed_since(reference)
    if changed is None:
        yield from reference.records.items()
        return
    for key in sorted(changed):
        if (versioned := reference.records.get(key)) is not None:
            yield key, versioned


def _replayed(stored: Snapshot, reference: Snapshot) -> Iterator[Step]:
    """Restore records outside the signed set that are older than before: only their own generation tells."""
    for key, before in _before(stored, reference):
        now = stored.records.get(key)
        if now is None or now.generation >= before.generation or keyspace.covered(key) or key == keyspace.MANIFEST:
            continue
        resting = isinstance(before.record, Address) and before.record.holder is None
        if keyspace.writer(key) == "controller" and not resting:
            change = f"{key}: replaced by an older record, restored"
            yield PlanStep((Put(before.record, now.revision),), change)


def _lost_keys(stored: Snapshot, reference: Snapshot) -> Iterator[Step]:
    """Restore deleted private keys: the controller itself deletes them only with their endpoints."""
    sealed = (versioned.record for key, versioned in _before(stored, reference) if not stored.revision_of(key))
    lost = {record.task: record for record in sealed if isinstance(record, SealedKey)}
    for endpoint in stored.all(Endpoint) if lost else ():
        record = lost.get(endpoint.task)
        if record is not None and (record.node, record.epoch) == (endpoint.node, endpoint.epoch):
            yield PlanStep((Put(record, 0),), f"{keyspace.key_of(record)}: deleted while its task lives, restored")


def _unreadable(stored: Snapshot, reference: Snapshot | None, key: str, reason: str) -> Iterator[Step]:
    revision = stored.revision_of(key)
    before = reference.records.get(key) if reference is not None else None
    kind, _, rest = key.partition("/")
    again: Record | None = before.record if before is not None else None
    if again is None and kind in {"addresses", "ports"}:
        again = _holding(stored, key)
    if isinstance(again, Address) and again.holder is None:
        again = None  # it rests anew
    if again is not None:
        yield PlanStep((Put(again, revision),), f"{reason}: restored")
    elif kind == "addresses":
        try:
            yield Release((), ((IPv4Address(rest), revision),), f"{reason}: without a holder, so it rests")
        except ValueError:
            yield PlanStep((Delete(key, revision),), f"{reason}: deleted")
    elif key not in (keyspace.CLUSTER, keyspace.MANIFEST):
        yield PlanStep((Delete(key, revision),), f"{reason}: deleted, to be made again where it is needed")


def _holding(stored: Snapshot, key: str) -> Record | None:
    """Make the record of an address or port from the record of its holder."""
    for endpoint in stored.all(Endpoint):
        if keyspace.address(endpoint.address) == key:
            return Address(endpoint.address, f"task/{endpoint.task}")
        if keyspace.port(endpoint.node, endpoint.underlay.port) == key:
            return Port(endpoint.node, endpoint.underlay.port, endpoint.task)
    for service in stored.all(Service):
        if keyspace.address(service.vip) == key:
            return Address(service.vip, f"service/{service.id}")
    return None
