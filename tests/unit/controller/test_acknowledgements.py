"""Acknowledgements: what each node has signed itself counts, and nothing older than what was read before."""

from __future__ import annotations

from controller.trust.acknowledgements import Acknowledgements
from mesh.crypto.signed_envelope import Signer, SigningKey, wrap
from mesh.model import codec, keyspace
from mesh.model.encryption.status import EncryptionStatus
from mesh.model.records import Status
from mesh.model.snapshot import Snapshot, Versioned
from tests.support.signing import CLUSTER
from tests.unit.controller.test_presence import ACCEPTED, KEYS

FIRST = EncryptionStatus(7, "accept", 2, 2, 0)
SECOND = EncryptionStatus(8, "send", 2, 2, 0)


def shown(account: EncryptionStatus | None, generation: int, key: SigningKey = KEYS["n1"]) -> Snapshot:
    status = Status("n1", 1.0, (), encryption=account)
    path = keyspace.status("n1")
    raw = wrap(Signer(CLUSTER, key), path, generation, codec.encode(status))
    return Snapshot(generation, complete=True, records={path: Versioned(status, generation, generation, b"", raw)})


def test_account_counts_by_the_nodes_own_signature() -> None:
    read = Acknowledgements(CLUSTER).read
    assert read(shown(FIRST, 1), ACCEPTED) == {"n1": FIRST}
    assert read(shown(SECOND, 2), ACCEPTED) == {"n1": SECOND}
    assert read(shown(FIRST, 1), ACCEPTED) == {}, "replayed"
    assert read(shown(FIRST, 3, KEYS["n2"]), ACCEPTED) == {}, "forged"
    assert read(shown(FIRST, 3), {}) == {}, "of nobody who was accepted"
    assert read(shown(None, 4), ACCEPTED) == {}, "of an agent that knows nothing of it"
