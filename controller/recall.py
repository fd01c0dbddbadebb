"""After the store was emptied, or set back: what nodes hold of what was signed, put back as it was. Pure.

The controller forgets the keys that it makes, and nobody else knows a service's VIP; but every agent holds the last
state that it verified. So the one that has seen the newest brings that state back, each brings back its own keys, and
what is signed as a set counts only if it is the whole set. Then no address and no key has changed, and no packet is
lost. Only how long freed addresses have rested already is not known any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from controller.steps import Change
from controller.witnesses import Witness
from mesh import keyspace
from mesh.records import Address, Endpoint, Port, Recall, Recalled, Service
from mesh.snapshot import Delete, Op, Put, Snapshot, Write
from mesh.verdict import verify_snapshot


@dataclass(frozen=True, slots=True)
class Answers:
    """What the nodes have brought so far.

    Attributes:
        missing: ids of the nodes that have not, or not all of it.
        values: by key; of the shared ones those of the node that was asked for them.
    """

    missing: tuple[str, ...]
    values: Mapping[str, bytes]


def needed(stored: Snapshot, witness: Witness) -> bool:
    """Whether a node has seen something newer than the store holds, which was emptied, set back, or is half filled.

    Args:
        stored: all of the store.
        witness: of the newest.
    """
    manifest = stored.records.get(keyspace.MANIFEST)
    if keyspace.MANIFEST in stored.invalid or not witness.node:
        return False
    # Of one generation there are two where a controller has signed on from an old state that it was shown.
    held = (manifest.generation, manifest.raw) if manifest else (0, None)
    return held[0] < witness.generation or (held[0] == witness.generation and held[1] != witness.manifest)


def answers(stored: Snapshot, asked: str, up: Iterable[str]) -> Answers:
    """Put the parts together.

    Args:
        stored: all of the store.
        asked: id of the node that is asked for the state.
        up: ids of the nodes that are up.
    """
    parts: dict[str, dict[int, Recalled]] = {}
    for found in stored.all(Recalled):
        if found.asked == asked:
            parts.setdefault(found.node, {})[found.part] = found
    whole = {node for node, its in parts.items() if set(its) == set(range(next(iter(its.values())).parts))}
    values: dict[str, bytes] = {}
    for node in sorted(whole):
        for part in parts[node].values():
            counts = keyspace.read_by if node == asked else keyspace.private
            values |= {kept.key: kept.value for kept in part.values if counts(kept.key, node)}
    return Answers(tuple(sorted({asked, *up} - whole)), values)


def put_back(stored: Snapshot, found: Snapshot, witness: Witness) -> tuple[list[Change], str]:
    """What makes the store hold again what was signed.

    Args:
        stored: all of the store.
        found: what the values hold that were brought, opened; those that do not open are not in it.
        witness: of the newest state, which it has to be.

    Returns:
        The changes; and why there are none, in words.
    """
    verdict = verify_snapshot(found, witness.generation, witness.manifest)
    if not verdict.verified:
        return [], verdict.problem
    changes = [
        Change((_as_it_was(stored, found, key),), f"{key}: brought back by a node")
        for key in found.records
        if key != keyspace.MANIFEST
    ]
    changes += [Change((op,), f"{op.key}: held by what was brought back") for op in _held(stored, found)]
    changes += [
        Change((Delete(key, stored.revision_of(key)),), f"{key}: not of what was brought back")
        for key in sorted(stored.contents.entries)
        if key not in found.contents.entries
    ]
    return changes, ""


def ask(stored: Snapshot, node: str) -> Change:
    """Ask for what was signed, of this node above all."""
    op = Put(Recall(node), stored.revision_of(keyspace.RECALL))
    return Change((op,), f"the store was emptied: node {node} has seen the newest state of it")


def end(stored: Snapshot) -> list[Change]:
    """Take back what was asked, if it was; the nodes then take back their answers."""
    revision = stored.revision_of(keyspace.RECALL)
    return [Change((Delete(keyspace.RECALL, revision),), "what was signed is back")] if revision else []


def _as_it_was(stored: Snapshot, found: Snapshot, key: str) -> Op:
    versioned = found.records[key]
    return Write(key, versioned.generation, versioned.raw or b"", stored.revision_of(key))


def _held(stored: Snapshot, found: Snapshot) -> Iterator[Put]:
    held: list[Address | Port] = []
    for endpoint in found.all(Endpoint):
        held.append(Address(endpoint.address, f"task/{endpoint.task}"))
        held.append(Port(endpoint.node, endpoint.underlay.port, endpoint.task))
    held += [Address(service.vip, f"service/{service.id}") for service in found.all(Service)]
    for record in held:
        put = Put(record, stored.revision_of(keyspace.key_of(record)))
        if put.revision == 0:
            yield put
