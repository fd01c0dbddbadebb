"""The index of a snapshot, made from that of an earlier one at the cost of what changed between them. Pure.

It promises to equal `mesh.graph.index` of the snapshot, but that what is indexed by task lies in maps, of which a
copy costs nothing (the first time, they are made of the dicts). Only what changes all the time is done this way:
endpoints that come, go and move while nothing in the records is contradictory. Anything else is indexed anew.
"""

from __future__ import annotations

from dataclasses import replace

from immutables import Map

from mesh import keyspace
from mesh.apart import Outside, moved
from mesh.graph import Graph, index
from mesh.records import Endpoint
from mesh.snapshot import Snapshot

_READ = (keyspace.CLUSTER, keyspace.SERVICES, keyspace.ENDPOINTS)


def reindex(graph: Graph, before: Snapshot, now: Snapshot) -> Graph:
    """Index a snapshot; the same object where nothing in it that an index reads has changed.

    Args:
        graph: the index of `before`.
        before: what was indexed last.
        now: what is to be indexed.
    """
    changed = now.changed_since(before)
    if changed is None:
        return index(now)
    read = sorted(key for key in changed if key.startswith(_READ))
    if graph.problems or not all(key.startswith(keyspace.ENDPOINTS) for key in read):
        return index(now)
    old = [found for key in read if (found := before.get(key, Endpoint)) is not None]
    new = [found for key in read if (found := now.get(key, Endpoint)) is not None]
    if graph.complete != now.complete:
        graph = replace(graph, complete=now.complete)
    if old == new:
        return graph
    return _moved(graph, old, new) or index(now)


def _moved(graph: Graph, old: list[Endpoint], new: list[Endpoint]) -> Graph | None:
    """Without some endpoints and with others; None where these are not each of their own task, address and key."""
    by_task, addresses = Map(graph.by_task).mutate(), Map(graph.addresses).mutate()
    keys, endpoints = Map(graph.keys).mutate(), Map(graph.endpoints).mutate()
    for gone in old:
        del by_task[gone.task], addresses[gone.address], keys[gone.public_key]
    for one in new:
        subnet = graph.cluster.subnet if graph.cluster is not None else None
        clash = one.task in by_task or one.address in addresses or one.public_key in keys
        if clash or (subnet is not None and one.address not in subnet):
            return None
        by_task[one.task], addresses[one.address], keys[one.public_key] = one, one.task, one.task
    for service in {one.service for one in (*old, *new)}:
        left = {one.task: one for one in endpoints.pop(service, ())}
        for gone in old:
            if gone.service == service:
                del left[gone.task]
        left |= {one.task: one for one in new if one.service == service}
        if left:
            endpoints[service] = tuple(left[task] for task in sorted(left))
    around: Outside = moved(graph.outside, graph.services, old, new)
    return replace(
        graph,
        by_task=by_task.finish(),
        addresses=addresses.finish(),
        keys=keys.finish(),
        endpoints=endpoints.finish(),
        outside=around,
    )
