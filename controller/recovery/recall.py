"""Restore of a store that was wiped or reverted, from the signed records that nodes hold. Pure.

The controller forgets the keys that it makes, and a service's VIP is in the store alone; but every agent holds the
last state that it verified. So the node that has seen the newest state brings it back, each node brings back its own
keys, and the signed set counts only as a whole. Then no address and no key changes, and no packet is lost. Only the
time that released addresses have rested is lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from controller.steps import PlanStep
from controller.trust.witnesses import Witness
from mesh.integrity.verification import verify_snapshot
from mesh.model import keyspace
from mesh.model.records import Address, Endpoint, Port, Recall, Recalled, Service
from mesh.model.snapshot import Delete, Op, Put, Snapshot, Write


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers of the nodes so far.

    Attributes:
        missing: ids of the nodes that have not answered, or not completely.
        values: signed values by key; shared ones from the node that was asked for them.
    """

    missing: tuple[str, ...]
    values: Mapping[str, bytes]


def needed(stored: Snapshot, witness: Witness) -> bool:
    """Tell whether a node has seen a newer state than the store holds: it was wiped or reverted, or is half restored.

    Args:
        stored: the whole store.
        witness: of the newest state.
    """
    manifest = stored.records.get(keyspace.MANIFEST)
    if keyspace.MANIFEST in stored.invalid or not witness.node:
        return False
    # A generation exists twice where a controller has signed on from an old state that it was shown.
    generation, raw = (manifest.generation, manifest.raw) if manifest else (0, None)
    return generation < witness.generation or (generation == witness.generation and raw != witness.manifest)


def answers(stored: Snapshot, asked: str, up: Iterable[str]) -> Answers:
    """Assemble the answers from their parts.

    Args:
        stored: the whole store.
        asked: id of the node that is asked for the state.
        up: ids of the nodes that are up.
    """
    parts: dict[str, dict[int, Recalled]] = {}
    for recalled in stored.all(Recalled):
        if recalled.asked == asked:
            parts.setdefault(recalled.node, {})[recalled.part] = recalled
    whole = {node for node, its in parts.items() if set(its) == set(range(next(iter(its.values())).parts))}
    values: dict[str, bytes] = {}
    for node in sorted(whole):
        for part in parts[node].values():
            counts = keyspace.read_by if node == asked else keyspace.private
            values |= {kept.key: kept.value for kept in part.values if counts(kept.key, node)}
    return Answers(tuple(sorted({asked, *up} - whole)), values)


def put_back(stored: Snapshot, brought: Snapshot, witness: Witness) -> tuple[list[PlanStep], str]:
    """Plan the changes that restore the signed state.

    Args:
        stored: the whole store.
        brought: the records that nodes brought back, without those that cannot be verified.
        witness: of the newest state, which `brought` has to be.

    Returns:
        The changes; and the reason where there are none.
    """
    verdict = verify_snapshot(brought, witness.generation, witness.manifest)
    if not verdict.verified:
        return [], verdict.problem
    changes = [
        PlanStep((_as_it_was(stored, brought, key),), f"{key}: brought back by a node")
        for key in brought.records
        if key != keyspace.MANIFEST
    ]
    changes += [
        PlanStep((op,), f"{op.key}: held by a record that was brought back") for op in _holdings(stored, brought)
    ]
    changes += [
        PlanStep((Delete(key, stored.revision_of(key)),), f"{key}: not in the restored state")
        for key in sorted(stored.contents.entries)
        if key not in brought.contents.entries
    ]
    return changes, ""


def ask(stored: Snapshot, node: str) -> PlanStep:
    """Ask nodes for the signed state, this node for the shared records."""
    op = Put(Recall(node), stored.revision_of(keyspace.RECALL))
    return PlanStep((op,), f"the store was wiped or reverted: node {node} has seen its newest state")


def end(stored: Snapshot) -> list[PlanStep]:
    """Withdraw the request, if there is one; nodes then withdraw their answers."""
    revision = stored.revision_of(keyspace.RECALL)
    return [PlanStep((Delete(keyspace.RECALL, revision),), "the signed state is restored")] if revision else []


def _as_it_was(stored: Snapshot, brought: Snapshot, key: str) -> Op:
    versioned = brought.records[key]
    return Write(key, versioned.generation, versioned.raw or b"", stored.revision_of(key))


def _holdings(stored: Snapshot, brought: Snapshot) -> Iterator[Put]:
    records: list[Address | Port] = []
    for endpoint in brought.all(Endpoint):
        records.append(Address(endpoint.address, f"task/{endpoint.task}"))
        records.append(Port(endpoint.node, endpoint.underlay.port, endpoint.task))
    records += [Address(service.vip, f"service/{service.id}") for service in brought.all(Service)]
    for record in records:
        # An older store may say that an address rests, or is another's: it would not rest when this holder ends.
        key = keyspace.key_of(record)
        found = stored.get(key, type(record))
        if found is None or _holder(found) != _holder(record):
            yield Put(record, stored.revision_of(key))


def _holder(record: Address | Port) -> str | None:
    return record.holder if isinstance(record, Address) else record.task
