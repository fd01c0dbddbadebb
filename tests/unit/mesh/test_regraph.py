"""The index made from an earlier one equals the one made anew, whatever changed in between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.model import keyspace
from mesh.model.records import Attachment, Cluster, Endpoint, Record, Service
from mesh.model.snapshot import Snapshot
from mesh.store.follower import Batch, MaterializedView, RecordChange
from mesh.topology.link_graph import LinkGraph, index, reindex
from tests.support.link_graphs import CLUSTER, endpoint, service
from tests.support.signing import RECORD_SIGNER, value

NETWORKS = ("overlay", "bridge")
KINDS = (Cluster, Service, Endpoint)
SERVICES = {
    "A": service("A", "a", ("b", "b"), strict=False),
    "B": service("B", "b", elsewhere=(Attachment("overlay", IPv4Address("10.9.0.1")),)),
}

attachments = st.lists(
    st.builds(Attachment, st.sampled_from(NETWORKS), st.integers(1, 3).map(lambda n: IPv4Address("10.9.0.0") + n)),
    max_size=2,
    unique=True,
).map(tuple)
endpoints = st.builds(
    lambda found, task, number, key, ready, elsewhere: endpoint(
        found, f"t{task}", number, ready=ready, key=key, elsewhere=elsewhere
    ),
    st.sampled_from("ABC"),
    st.integers(1, 4),
    st.integers(1, 5),
    st.sampled_from((None, None, None, 1, 7)),
    st.booleans(),
    attachments,
)
outside_the_mesh = endpoints.map(lambda one: replace(one, address=IPv4Address("192.0.2.77")))
its_own = st.integers(1, 4).flatmap(
    lambda n: st.builds(
        lambda ready, elsewhere: endpoint("A", f"t{n}", n, ready=ready, elsewhere=elsewhere),
        st.booleans(),
        attachments,
    )
)
written = st.one_of(its_own, its_own, endpoints, outside_the_mesh, st.sampled_from((CLUSTER, *SERVICES.values())))
steps = st.lists(st.tuples(st.sampled_from(("put", "put", "put", "end", "garbage", "look")), written), max_size=30)


def _change(picture: MaterializedView, action: str, record: Record) -> None:
    put = {"put": value(record), "end": None, "garbage": b"garbage"}[action]
    key, revision = keyspace.key_of(record), picture.revision + 1
    picture.apply(Batch(revision, whole=False, changes=[RecordChange(key.encode(), put, revision)]))


@settings(max_examples=400, deadline=None)
@given(steps, st.booleans())
def test_incremental_index_equals_a_fresh_one(history: list[tuple[str, Record]], whole: bool) -> None:
    picture = MaterializedView(RECORD_SIGNER)
    first: list[Record] = [CLUSTER, *SERVICES.values()] if whole else []
    changes = [RecordChange(keyspace.key_of(record).encode(), value(record), 1) for record in first]
    picture.replace(Batch(1, whole=True, changes=changes))
    before = picture.snapshot(complete=True)
    graph = index(before)
    seen: list[tuple[LinkGraph, LinkGraph]] = []
    for action, record in history:
        if action != "look":
            _change(picture, action, record)
            if isinstance(record, Endpoint) and record.ready:
                continue  # so that several changes are met at once
        now = picture.snapshot(complete=action != "garbage")
        graph, before = reindex(graph, before, now), now
        assert _plain(graph) == _plain(index(now))
        for one, held in seen:
            assert _plain(one) == held, "an earlier one stays what it was"
        seen.append((graph, _plain(graph)))


def _plain(graph: LinkGraph) -> LinkGraph:
    """The same with dicts, which a map does not equal."""
    networks = replace(graph.networks, neighbours=dict(graph.networks.neighbours), strict=dict(graph.networks.strict))
    return replace(
        graph,
        endpoints=dict(graph.endpoints),
        by_task=dict(graph.by_task),
        addresses=dict(graph.addresses),
        keys=dict(graph.keys),
        networks=networks,
    )


def _of(picture: MaterializedView) -> Snapshot:
    return picture.snapshot(complete=True)


def test_unread_changes_leave_the_index_identical() -> None:
    picture = MaterializedView(RECORD_SIGNER)
    records: list[Record] = [CLUSTER, *SERVICES.values(), endpoint("A", "t1", 1)]
    changes = [RecordChange(keyspace.key_of(record).encode(), value(record), 1) for record in records]
    picture.replace(Batch(1, whole=True, changes=changes))
    before = _of(picture)
    graph = index(before)
    picture.apply(Batch(2, whole=False, changes=[RecordChange(b"keys/n1/t1", None, 2)]))
    assert reindex(graph, before, _of(picture)) is graph
    _change(picture, "put", endpoint("B", "t2", 2))
    moved = reindex(graph, before, _of(picture))
    assert set(moved.by_task) == {"t1", "t2"}
    assert moved.services is graph.services, "what has not changed is shared"


def _held(one: Snapshot) -> list[Mapping[str, object]]:
    """A copy of all that a snapshot holds, which shares nothing with it."""
    by_kind = {f"{kind.__name__} {key}": found for kind in KINDS for key, found in one.keys_of(kind)}
    return [dict(one.records), dict(one.invalid), dict(one.unread), dict(one.contents.entries), by_kind]


@settings(max_examples=200, deadline=None)
@given(steps)
def test_snapshot_stays_unchanged_by_later_changes(history: list[tuple[str, Record]]) -> None:
    """By kind too: somebody may be looking at it while the next change comes in."""
    picture = MaterializedView(RECORD_SIGNER)
    changes = [RecordChange(keyspace.key_of(record).encode(), value(record), 1) for record in SERVICES.values()]
    picture.replace(Batch(1, whole=True, changes=changes))
    first = _of(picture)
    seen = [(first, _held(first))]
    for action, record in history:
        if action != "look":
            _change(picture, action, record)
        now = _of(picture)
        seen.append((now, _held(now)))
        for one, held in seen:
            assert _held(one) == held
            for kind in KINDS:
                found = dict(one.keys_of(kind))
                assert found == {k: v for k, v in one.records.items() if isinstance(v.record, kind)}
                assert list(one.all(kind)) == [versioned.record for versioned in found.values()]
