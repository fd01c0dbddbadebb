"""Records of an earlier reading are not decoded again, and never stand in for others."""

from __future__ import annotations

from dataclasses import replace

from mesh.crypto.signed_envelope import Keyring, SigningKey
from mesh.integrity.record_signing import RecordSigner
from mesh.model import codec, keyspace
from mesh.model.records import TaskReport
from mesh.store.follower import Batch, MaterializedView, RecordChange

KEY = SigningKey(bytes(32))
SIGNER = RecordSigner.agent(Keyring("cluster", ()), KEY)
REPORT = TaskReport("t", "s", "n", "running", wired=True, error=None, port_taken=None, elsewhere=())
WHERE = keyspace.key_of(REPORT)


def signed(report: TaskReport) -> bytes:
    return SIGNER.sign(WHERE, 1, codec.encode(report))


def test_known_are_same_bytes_at_same_revision() -> None:
    def read(value: bytes, revision: int, known: MaterializedView | None = None) -> MaterializedView:
        view = MaterializedView(SIGNER, known=known.snapshot(complete=True).records if known else None)
        view.replace(Batch(9, whole=True, changes=[RecordChange(WHERE.encode(), value, revision)]))
        return view

    first = read(signed(REPORT), 5)
    other = replace(REPORT, wired=False)
    before = first.snapshot(complete=True).records[WHERE]
    again = read(signed(REPORT), 5, first).snapshot(complete=True)
    assert again.records[WHERE] is before
    assert again == read(signed(REPORT), 5).snapshot(complete=True)
    for value, revision in ((signed(other), 5), (signed(REPORT), 6), (signed(other), 6)):
        found, plain = (read(value, revision, known).snapshot(complete=True) for known in (first, None))
        assert found == plain
        assert found.records[WHERE] is not before
    assert read(b"nonsense", 5, first).snapshot(complete=True).invalid.get(WHERE)
    empty = MaterializedView(SIGNER, known=first.snapshot(complete=True).records)
    empty.replace(Batch(9, whole=True, changes=[]))
    assert not empty.snapshot(complete=True).records
