"""Node status for `docker linkwire node ls`: every node's statement about its keys, checked by this one. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType
from typing import Any

from mesh.errors import Terminal
from mesh.identity.attestation import InvalidProofError, verify
from mesh.integrity.signature_cache import SignatureCache
from mesh.model import keyspace
from mesh.model.asks.records import Ask, Told
from mesh.model.records import Member, Node, Status, TaskReport, View
from mesh.model.snapshot import Snapshot

_UNPROVEN = {
    "locked": "its Swarm key is encrypted (autolock)",
    "unreadable": "its agent cannot read its Swarm certificate: see the agent's log",
    None: "it gives no proof of its keys",
}


def nodes(snapshot: Snapshot, cluster: str, roots: Sequence[bytes], now: datetime) -> Iterator[dict[str, Any]]:
    """Describe each node that has a record as a JSON object.

    Args:
        snapshot: as it was read.
        cluster: Swarm's id of it.
        roots: Swarm's root certificates as this node has them, in PEM.
        now: the time, with its zone.
    """
    for node in sorted(snapshot.all(Node), key=lambda each: each.hostname):
        member = snapshot.get(keyspace.member(node.id), Member)
        keys = (node.sealing_key, node.report_key)
        yield {
            "id": node.id,
            "hostname": node.hostname,
            "fingerprint": node.statement(cluster).fingerprint,
            "unproven": _unproven(node, cluster, roots, now),
            "address": str(node.address),
            "ports": [node.first_port, node.last_port],
            "accepted": member is not None and (member.sealing_key, member.report_key) == keys,
        }


def believed(snapshot: Snapshot, cluster: str, checked: SignatureCache | None = None) -> Snapshot:
    """Drop agents' records that are not signed by the keys that were accepted of their nodes.

    Args:
        snapshot: as it was read.
        cluster: Swarm's id of it.
        checked: the results of an earlier call, so that nothing is checked twice.
    """
    signatures = checked or SignatureCache(cluster)
    records, invalid = dict(snapshot.records), dict(snapshot.invalid)
    for key, value in snapshot.records.items():
        record = value.record
        if not isinstance(record, Node | TaskReport | Status | View | Ask | Told):
            continue
        member = snapshot.get(keyspace.member(record.id if isinstance(record, Node) else record.node), Member)
        problem = f"{key}: its node has not shown its keys (yet)"
        if member is not None:
            problem = signatures.problem(key, value, member.report_key) or ""
        if problem:
            del records[key]
            invalid[key] = problem
    signatures.drop_stale(snapshot.records, ())
    return replace(snapshot, records=MappingProxyType(records), invalid=MappingProxyType(invalid))


def _unproven(node: Node, cluster: str, roots: Sequence[bytes], now: datetime) -> str | None:
    if node.proof is None:
        return _UNPROVEN[node.unproven]
    try:
        verify(node.proof, node.statement(cluster), roots, now)
    except (InvalidProofError, Terminal) as error:
        return f"its proof does not hold: {error}"
    return None
