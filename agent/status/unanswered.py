"""Peers that do not answer though they should, as their nodes tell it. Pure.

An answer is awaited between tasks that are wired, from when their nodes have said so: a node sends to others' tasks
as soon as there are records of them, and those may pull their image for minutes.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable

from agent.wireguard.peer_health import ANSWER_S
from mesh.model import keyspace
from mesh.model.records import Endpoint, Status, TaskReport
from mesh.model.snapshot import Snapshot
from mesh.topology.link_graph import LinkGraph

Age = Callable[[int], float | None]
_MOST_S = 2.0**53
"""A node may say any number: more than a reader takes would break the whole answer."""


def unanswered(snapshot: Snapshot, graph: LinkGraph, age: Age) -> dict[str, dict[str, float]]:
    """Return for how many seconds peers have not answered: by their public keys, by task, as its own node tells it.

    Args:
        snapshot: with what nodes say.
        graph: the index of the controller's records.
        age: returns how many seconds ago the store was at a revision; None where that is not known.
    """
    told = [(status, broken) for status in snapshot.all(Status) for broken in status.broken]
    found: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for status, broken in told:
        owner = graph.by_task.get(broken.task)
        if owner is None or owner.node != status.node:
            continue
        read = age(snapshot.revision_of(keyspace.key_of(status))) or 0.0
        own = _wired_for(snapshot, owner, age)
        for key in broken.peers:
            peer = graph.by_task.get(graph.keys.get(key, ""))
            if peer is None:
                continue
            other = _wired_for(snapshot, peer, age)
            seconds = round(min(broken.seconds, own - read, other - read, _MOST_S), 1)
            if seconds >= ANSWER_S:
                found[broken.task][str(key)] = seconds
    return dict(found)


def _wired_for(snapshot: Snapshot, endpoint: Endpoint, age: Age) -> float:
    """Return for how many seconds a task's node has said that it is wired; infinite where nobody knows."""
    report_key = keyspace.report(endpoint.node, endpoint.task)
    report = snapshot.get(report_key, TaskReport)
    if report is not None and not report.wired:
        return 0.0
    since = age(snapshot.revision_of(report_key)) if report is not None else None
    return math.inf if since is None else since
