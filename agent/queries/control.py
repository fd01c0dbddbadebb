"""The control plane and the tasks in numbers, as one agent knows them: what `docker linkwire status` shows. Pure."""

from __future__ import annotations

from collections import Counter
from typing import Any

from agent.status.link_status import Reader, is_lasting
from mesh.model import keyspace
from mesh.model.records import Leader, Node, StoreSpace, TaskReport
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
    tasks: Counter[str] = Counter()
    for endpoint in graph.by_task.values():
        report = said.get(keyspace.report(endpoint.node, endpoint.task), TaskReport)
        if report is not None and report.error and is_lasting(said, reader, report):
            tasks["error"] += 1
        else:
            tasks["wired" if report is not None and report.wired else "waiting"] += 1
    return {
        "reached": bool(read.revision),
        "leader": leader.holder if leader else None,
        "etcd": {"size": space.size, "in_use": space.in_use, "quota": space.quota} if space else None,
        "agents": {
            node.id: {"hostname": node.hostname, "backend": node.backend, "version": node.version}
            for node in said.all(Node)
        },
        "tasks": {state: tasks[state] for state in ("wired", "waiting", "error")},
    }
