"""Limits of what is read: a value that is larger than any of its kind is refused before it is decoded."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.crypto.signed_envelope import MAX_BODY, OVERHEAD, Keyring, Signer, SigningKey, wrap
from mesh.integrity.bulk_verification import NOTHING, Vouched
from mesh.integrity.record_signing import RecordSigner
from mesh.model import codec, device_readings, keyspace
from mesh.model.records import DeviceStatus, PeerStatus
from mesh.model.snapshot import unreadable
from mesh.store.follower import Batch, MaterializedView, RecordChange
from tests.support.swarm_ca import CLUSTER
from tests.unit.mesh.test_codec import KEY, NODE, ONE_OF_EACH

AGENT = SigningKey.generate()
READER = RecordSigner.reader(Keyring(CLUSTER, ()))
OF_AGENTS = [key for key in dict(ONE_OF_EACH) if keyspace.writer(key) == "agent"]


def read(key: str, value: bytes, *, whole: bool) -> MaterializedView:
    view = MaterializedView(READER)
    change = RecordChange(key.encode(), value, 7)
    if whole:
        view.replace(Batch(7, whole=True, changes=[change]))
    else:
        view.apply(Batch(7, whole=False, changes=[change]))
    return view


def padded(key: str, size: int) -> bytes:
    """An honest record of its kind, with blanks to the given size, signed by an agent."""
    body = codec.encode(dict(ONE_OF_EACH)[key])
    return wrap(Signer(CLUSTER, AGENT), key, 1, body + b" " * (size - len(body)))


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("key", [*OF_AGENTS, "leader", "tenure", "space"])
def test_larger_than_any_honest_is_not_decoded(key: str, monkeypatch: pytest.MonkeyPatch, *, whole: bool) -> None:
    limit = keyspace.limit(key)
    signed = keyspace.writer(key) == "agent"
    largest = padded(key, min(limit, MAX_BODY)) if signed else b" " * limit
    assert "limit" not in "".join(read(key, largest, whole=whole).snapshot(complete=True).invalid.values())

    def never(*_: object) -> None:
        raise AssertionError("it was opened")

    def vouched(_: RecordSigner, values: Mapping[str, bytes]) -> Vouched:
        assert not values, "it was checked"
        return NOTHING

    monkeypatch.setattr(RecordSigner, "open", never)
    monkeypatch.setattr(RecordSigner, "vouch", vouched)
    monkeypatch.setattr(codec, "decode", never)
    snapshot = read(key, b"x" * (limit + OVERHEAD + 1), whole=whole).snapshot(complete=True)
    assert dict(snapshot.invalid) == {key: f"{key}: {limit + OVERHEAD + 1} bytes, the limit is {limit}"}
    assert snapshot.revision_of(key) == 7


def test_no_limit_refuses_what_an_agent_writes() -> None:
    """The largest views are cut by count of peers, and whoever has 200 tasks reports in as many records."""
    peers = tuple(PeerStatus(KEY, 1.5, 2**60, 2**60, "[2001:db8:ffff:ffff::1]:65535") for _ in range(5000))
    views = device_readings.pack("n" * 25, 1.0, [DeviceStatus("t" * 25, KEY, peers, ())])
    assert all(len(codec.encode(view)) < keyspace.limit(keyspace.key_of(view)) for view in views)
    assert len(codec.encode(NODE)) < keyspace.limit("nodes/n") / 8


@given(st.dictionaries(st.sampled_from([f"tasks/n{n % 3}/t{n}" for n in range(30)]), st.text(max_size=20)))
def test_problems_of_records_are_one_a_node(invalid: dict[str, str]) -> None:
    lines = list(unreadable(invalid))
    assert len(lines) == len({key.split("/")[1] for key in invalid})
    assert list(unreadable({"services/a": "a", "services/b": "b"})) == ["store: a", "store: b"]


def test_types_are_known_before_threads_read_them() -> None:
    """Two threads in which msgspec learns of one type at once crash; the election reads beside the follower."""
    unknown = "[kind for kind, its in keyspace.KINDS.items() if '__msgspec_cache__' not in vars(its)]"
    learn = f"from mesh.model import codec, keyspace; print({unknown})"
    done = subprocess.run([sys.executable, "-c", learn], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
