"""The control plane and the tasks in numbers, as one agent knows them: what `docker linkwire status` shows. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

from agent.holder.client import OTHER_VERSION
from agent.status.link_status import Reader, has_lasting_error
from mesh.model import keyspace
from mesh.model.encryption.records import EncryptionWanted, NodeEncryption, Underlay
from mesh.model.records import Leader, Node, Status, StoreSpace, TaskReport
from mesh.model.snapshot import Snapshot
from mesh.topology.link_graph import LinkGraph


def control(read: Snapshot, said: Snapshot, graph: LinkGraph, reader: Reader) -> dict[str, Any]:
    """Describe leader, store, agents and tasks as a JSON object.

    Args:
        read: all that was read; nothing where etcd does not answer.
        said: what is believed of it.
        graph: the index of the records that this agent acts on.
        reader: as of `link_status.inspect`.
    """
    leader, space = read.get(keyspace.LEADER, Leader), read.get(keyspace.SPACE, StoreSpace)
    acted_on = read if reader.verified is None else reader.verified
    encryption = acted_on.get(keyspace.ENCRYPTION, NodeEncryption)
    asked = read.get(keyspace.ENCRYPTION_WANTED, EncryptionWanted)
    tasks: Counter[str] = Counter()
    for endpoint in graph.by_task.values():
        report = said.get(keyspace.report(endpoint.node, endpoint.task), TaskReport)
        if report is not None and report.error and has_lasting_error(said, reader, report):
            tasks["error"] += 1
        else:
            tasks["wired" if report is not None and report.wired else "waiting"] += 1
    return {
        "reached": bool(read.revision),
        "leader": leader.holder if leader else None,
        "etcd": {"size": space.size, "in_use": space.in_use, "quota": space.quota} if space else None,
        "agents": {
            node.id: {
                "hostname": node.hostname,
                "backend": node.backend,
                "version": node.version,
                "encryption": _part(node, said, acted_on),
                "holder": _holder(node, said),
            }
            for node in said.all(Node)
        },
        "encryption": asdict(encryption) if encryption is not None else None,
        "node_keys": asdict(asked) if asked is not None else None,
        "tasks": {state: tasks[state] for state in ("wired", "waiting", "error")},
    }


def _holder(node: Node, said: Snapshot) -> dict[str, Any] | None:
    """Describe what is to be known of a node's holder of wireguard-go; None where it is there and as it should be."""
    status = said.get(keyspace.status(node.id), Status)
    if status is None or not status.holder:
        return None
    is_other = status.holder == OTHER_VERSION
    return {"other_version": is_other, "problem": None if is_other else status.holder}


def _part(node: Node, said: Snapshot, acted_on: Snapshot) -> dict[str, Any]:
    """Describe a node's part in node encryption."""
    status = said.get(keyspace.status(node.id), Status)
    account = status.encryption if status is not None else None
    figures = status.tunnel if status is not None else None
    return {
        "able": node.encryption_key is not None,
        "all": node.encryption_all,
        "placed": acted_on.get(keyspace.underlay(node.id), Underlay) is not None,
        "state": asdict(account) if account is not None else None,
        "keys": asdict(status.node_keys) if status is not None and status.node_keys is not None else None,
        "figures": asdict(figures) if figures is not None else None,
    }
