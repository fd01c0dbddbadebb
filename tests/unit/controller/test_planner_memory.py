"""What a controller remembers of the store is the same, whether it looks at what changed or at everything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.recovery.recall import needed
from controller.recovery.startup_barrier import StartupBarrier
from controller.trust.signed_writer import SignedWriter
from controller.trust.witnesses import Witness
from mesh.crypto.signed_envelope import Signer, wrap
from mesh.model import codec, keyspace
from mesh.model.records import ManifestRecord, Service, Status
from mesh.model.snapshot import Snapshot
from mesh.store.client import Store
from mesh.store.follower import Batch, MaterializedView, RecordChange
from tests.support.signing import CLUSTER, RECORD_SIGNER, STRANGER, holding, value

NODES = ("n1", "n2", "n3")
SERVICES = tuple(
    Service(name, name, IPv4Address("10.1.0.1"), (), None, strict=True, dnsrr=False, elsewhere=()) for name in "ab"
)
EMPTY, ONE = holding().record(), holding(SERVICES[0]).record()
MANIFESTS = [value(record, generation) for generation in (1, 2, 3) for record in (EMPTY, ONE)]
FORGED = wrap(Signer(CLUSTER, STRANGER), "manifest", 9, codec.encode(ManifestRecord(0, bytes(32))))

claims = st.sampled_from((b"", FORGED, *MANIFESTS, *MANIFESTS))
statuses = st.tuples(st.sampled_from(NODES), st.sampled_from((1.0, 2.0)), claims).map(
    lambda of: (keyspace.status(of[0]), value(Status(of[0], of[1], (), of[2])))
)
gone = st.sampled_from([*map(keyspace.status, NODES), keyspace.MANIFEST, *map(keyspace.key_of, SERVICES)])
changes = st.one_of(
    statuses,
    statuses,
    st.sampled_from(MANIFESTS).map(lambda raw: (keyspace.MANIFEST, raw)),
    st.sampled_from(SERVICES).map(lambda one: (keyspace.key_of(one), value(one))),
    gone.map(lambda key: (key, None)),
    gone.map(lambda key: (key, b"garbage")),
)
up = st.sets(st.sampled_from(NODES)).map(sorted)
how = st.sampled_from(("on", "on", "on", "anew"))
histories = st.lists(st.tuples(st.lists(changes, max_size=3), up, how), max_size=15)

History = list[tuple[list[tuple[str, bytes | None]], list[str], str]]


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    """Never connected: it opens what was signed, and is asked for nothing else."""
    found = Store(["http://127.0.0.1:1"], RECORD_SIGNER)
    yield found
    found.close()


def shown(history: History) -> Iterator[tuple[Snapshot, list[str]]]:
    """The store after each step of a history, which now and then is listed anew; and the nodes that are up."""
    picture = MaterializedView(RECORD_SIGNER)
    held: dict[str, tuple[bytes, int]] = {}
    for number, (step, nodes, how) in enumerate(history, 1):
        for key, raw in step:
            held.pop(key, None)
            if raw is not None:
                held[key] = raw, number
        if how == "anew":
            whole = [RecordChange(key.encode(), raw, revision) for key, (raw, revision) in held.items()]
            picture.replace(Batch(number, whole=True, changes=whole))
        else:
            picture.apply(
                Batch(number, whole=False, changes=[RecordChange(k.encode(), raw, number) for k, raw in step])
            )
        yield picture.snapshot(complete=True), nodes


@settings(max_examples=150, deadline=None)
@given(history=histories)
def test_what_was_signed(store: Store, history: History) -> None:
    quick, plain = SignedWriter(store), SignedWriter(store)
    for stored, up in shown(history):
        quick.observe(stored)
        plain = again(plain, store)
        plain.observe(replace(stored, trail=None))
        for name in ("verified", "stale", "_manifest", "_highest", "_top"):
            assert getattr(quick, name) == getattr(plain, name)
        for name in ("_claims", "_seen"):
            assert getattr(quick._witnesses, name) == getattr(plain._witnesses, name)
        assert quick.witness(up) == plain.witness(up)
        assert list(quick.unheard(up)) == list(plain.unheard(up))
        if quick.agreed():
            assert not any(needed(stored, quick.witness(some)) for some in ([node] for node in NODES))


def again(ledger: SignedWriter, store: Store) -> SignedWriter:
    """With all that it knows, but for what spares it to look."""
    fresh = SignedWriter(store)
    for name in ("_contents", "_manifest", "_highest", "_used", "_top", "verified"):
        setattr(fresh, name, getattr(ledger, name))
    for name in ("_claims", "_seen"):
        setattr(fresh._witnesses, name, getattr(ledger._witnesses, name))
    return fresh


def test_nodes_words_agree_with_store_contents(store: Store) -> None:
    one = (keyspace.MANIFEST, MANIFESTS[2])
    said = [(keyspace.status(node), value(Status(node, 1.0, (), MANIFESTS[n]))) for n, node in enumerate(NODES)]
    newer = (keyspace.status("n1"), value(Status("n1", 2.0, (), MANIFESTS[4])))
    twin = (keyspace.status("n1"), value(Status("n1", 2.0, (), MANIFESTS[3])))
    ledger = SignedWriter(store)
    agreed = []
    for stored, _ in shown(
        [([one, *said], [], "on"), ([newer], [], "on"), ([said[0]], [], "on"), ([twin], [], "on")]
    ):
        ledger.observe(stored)
        agreed.append(ledger.agreed())
        assert ledger.witness(NODES) != Witness()
    assert agreed[:2] == [True, False]
    assert not agreed[3], "another one of the same generation"


@settings(max_examples=150, deadline=None)
@given(history=histories)
def test_who_was_heard(history: History) -> None:
    quick, plain = StartupBarrier(), StartupBarrier()
    for now, (stored, up) in enumerate(shown(history)):
        quick.observe(stored, tuple(up), now)
        plain.observe(replace(stored, trail=None), tuple(up), now)
        assert quick.silent(stored, NODES, 0) == plain.silent(stored, NODES, 0)
