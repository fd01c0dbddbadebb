"""What it costs that nothing is believed unchecked: a store's records opened, hashed as a set and compared."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from itertools import count

from mesh.crypto.multiset_hash import Entry
from mesh.crypto.signed_envelope import Keyring, SigningKey
from mesh.integrity.record_signing import RecordSigner
from mesh.integrity.verification import verify_snapshot
from mesh.model import codec, keyspace
from mesh.model.records import Endpoint, ManifestRecord, Record
from mesh.model.snapshot import SignedSet, Snapshot, Versioned
from mesh.store.follower import Batch, MaterializedView, RecordChange
from tests.bench.measure import Effort, Row, alternate, cpu
from tests.support import cluster

_KEY = SigningKey(bytes(32))
_SEAL = RecordSigner.controller(Keyring("cluster", (_KEY.verify_key,)), _KEY)
_MIB = 2**20


def measure(effort: Effort) -> list[Row]:
    """Load what an agent reads, and sign one change of it."""
    records = [v.record for key, v in cluster.stored(effort.endpoints).records.items() if keyspace.covered(key)]
    plain = [(keyspace.key_of(record), codec.encode(record)) for record in records]
    sealed = {key: _SEAL.sign(key, 1, body) for key, body in plain}
    contents = SignedSet().after((Entry.of(key, 1, value) for key, value in sealed.items()), ())
    sealed[keyspace.MANIFEST] = _sealed(contents.record(), 1)
    changes = [RecordChange(key.encode(), value, 1) for key, value in sealed.items()]

    def ours() -> Snapshot:
        picture = MaterializedView(_SEAL)
        picture.replace(Batch(1, whole=True, changes=changes))
        snapshot = picture.snapshot(complete=True)
        assert verify_snapshot(snapshot).verified
        return snapshot

    def theirs() -> dict[str, Versioned[Record]]:
        return {key: Versioned(codec.decode(key, value), 1) for key, value in plain}

    rounds = max(2, effort.rounds // 3)
    seconds = alternate(rounds, lambda: cpu(ours), lambda: cpu(theirs))
    memory = alternate(2, lambda: _kept(ours), lambda: _kept(theirs))
    one = next(record for record in records if isinstance(record, Endpoint))
    generations = count(2)
    signing = alternate(
        rounds,
        lambda: cpu(lambda: _with_manifest(one, next(generations), contents)),
        lambda: cpu(lambda: _sealed(one, next(generations))),
    )
    what = f"load {len(records)} records, verified"
    return [
        Row("verified.load", what, "decode them", "ms CPU", "lower", *seconds),
        Row("verified.memory", f"{what}: kept", "decode them", "MiB", "lower", *memory),
        Row("verified.commit", "sign an endpoint and the manifest", "sign it alone", "ms CPU", "lower", *signing),
    ]


def _sealed(record: Record, generation: int) -> bytes:
    return _SEAL.sign(keyspace.key_of(record), generation, codec.encode(record))


def _with_manifest(endpoint: Endpoint, generation: int, contents: SignedSet) -> bytes:
    """What the controller does more for each commit."""
    entry = Entry.of(keyspace.key_of(endpoint), generation, _sealed(endpoint, generation))
    record: ManifestRecord = contents.after((entry,), ()).record()
    return _sealed(record, generation)


def _kept(load: Callable[[], object]) -> float:
    """MiB that a load's result takes; decoded values that a cache shares with the one before are not counted."""
    tracemalloc.start()
    try:
        result = load()
        return tracemalloc.get_traced_memory()[0] / _MIB if result is not None else 0.0
    finally:
        tracemalloc.stop()
