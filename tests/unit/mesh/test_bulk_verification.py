"""What a manifest vouches for: a store is read as with every signature checked, whoever did what to it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.crypto.multiset_hash import Entry
from mesh.crypto.signed_envelope import Keyring, Signer, SigningKey, unwrap, wrap
from mesh.errors import InvalidRecordError
from mesh.integrity import bulk_verification
from mesh.integrity.bulk_verification import Vouched
from mesh.integrity.record_signing import RecordSigner
from mesh.integrity.verification import verify_snapshot
from mesh.model import codec, keyspace
from mesh.model.records import Record, Service
from mesh.model.snapshot import SignedSet, Snapshot
from mesh.store.follower import Batch, MaterializedView, RecordChange
from tests.unit.mesh.test_codec import ONE_OF_EACH

CLUSTER = "cluster"
OLD, NEW, STRANGER = (Signer(CLUSTER, SigningKey(bytes([n]) * 32)) for n in (1, 2, 3))
ELSEWHERE = Signer("another cluster", NEW.key)
RINGS = [(NEW,), (OLD, NEW), (NEW, OLD), (OLD,), (STRANGER,), (STRANGER, NEW)]

SERVICE = next(record for _, record in ONE_OF_EACH if isinstance(record, Service))
RECORDS: list[Record] = [
    *(record for key, record in ONE_OF_EACH if keyspace.writer(key) == "controller" and key != keyspace.MANIFEST),
    *(dataclasses.replace(SERVICE, id=f"s{n}", name=f"s{n}", vip=IPv4Address(f"10.80.1.{n}")) for n in range(3)),
]
KEYS = sorted({keyspace.key_of(record) for record in RECORDS})
COVERED = [key for key in KEYS if keyspace.covered(key)]


@pytest.fixture(autouse=True, scope="module")
def threads() -> Iterator[None]:
    """Of few values too the signatures are checked by threads, as of many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk_verification, "LEAST", 1)
        yield


@dataclasses.dataclass(frozen=True, slots=True)
class EachByItself(RecordSigner):
    """Nothing is vouched for: every signature is checked, as it is said in `RecordSigner.open`."""

    def vouch(self, values: Mapping[str, bytes]) -> Vouched:
        del values
        return Vouched()


def ring(*signers: Signer) -> Keyring:
    return Keyring(CLUSTER, tuple(signer.key.verify_key for signer in signers))


def manifest(signer: Signer, values: Mapping[str, bytes], generation: int = 9) -> bytes:
    """What a controller signs that holds these values."""
    picture = MaterializedView(EachByItself(ring(OLD, NEW)))
    picture.replace(batch(values.items()))
    return wrap(signer, "manifest", generation, codec.encode(picture.snapshot(complete=True).contents.record()))


def batch(values: object) -> Batch:
    pairs: Sequence[tuple[str | bytes, bytes | None]] = list(values)  # type: ignore[call-overload]  # any iterable
    changes = [
        RecordChange(key if isinstance(key, bytes) else key.encode(), value, n)
        for n, (key, value) in enumerate(pairs, 1)
    ]
    return Batch(len(changes), whole=True, changes=changes)


def shown(seal: RecordSigner, values: object, *, keep: bool = False) -> Snapshot:
    picture = MaterializedView(seal, with_raw=keep)
    picture.replace(batch(values))
    return picture.snapshot(complete=True)


def facts(snapshot: Snapshot) -> tuple[object, ...]:
    """All that a snapshot says, the total too."""
    maps = (snapshot.records, snapshot.invalid, snapshot.unread, snapshot.contents.entries)
    total = snapshot.contents.total.state()
    return (snapshot.revision, *(dict(one) for one in maps), total, verify_snapshot(snapshot))


def same(signers: Sequence[Signer], values: object, *, keep: bool = False) -> Snapshot:
    """What is shown, which must be what is shown where each is checked by itself."""
    pairs = list(values)  # type: ignore[call-overload]  # any iterable
    told = shown(RecordSigner.reader(ring(*signers)), pairs, keep=keep)
    assert facts(told) == facts(shown(EachByItself(ring(*signers)), pairs, keep=keep))
    own = RecordSigner.controller(ring(*signers), signers[0].key)  # knows its own signatures another way
    assert facts(shown(own, pairs, keep=keep)) == facts(told)
    return told


def store(sign: Callable[[str], Signer] = lambda _: NEW, by: Signer = NEW, generation: int = 9) -> dict[str, bytes]:
    values = {
        key: wrap(sign(key), key, generation, codec.encode(record))
        for record in RECORDS
        for key in [keyspace.key_of(record)]
    }
    return values | {keyspace.MANIFEST: manifest(by, values, generation)}


EARLIER = store(lambda _: OLD, OLD, generation=5)
PLAIN = store()
MIXED = store(lambda key: OLD if "s" in key else NEW)


def forged(values: Mapping[str, bytes], key: str, how: int) -> bytes:  # noqa: PLR0911 - one a way
    """Somebody else's value, who has no key that may sign here."""
    value = values.get(key) or EARLIER[key]
    body = codec.encode(dataclasses.replace(SERVICE, id=key.rpartition("/")[2], strict=False))
    made = wrap(STRANGER, key, 9, body)
    match how:
        case 0:
            return made
        case 1:  # in the name of who signed what was there
            return made[:4] + value[4:20] + made[20:]
        case 2:  # and with the signature that was there
            return made[:4] + value[4:20] + made[20:-64] + value[-64:]
        case 3:
            return value[:-1] + bytes([value[-1] ^ 1])
        case 4:  # in another generation
            return value[:20] + (8).to_bytes(8, "big") + value[28:]
        case 5:
            return wrap(ELSEWHERE, key, 9, body)
        case _:
            return value[:-3]


def meddled(data: st.DataObject, values: dict[str, bytes]) -> None:
    key = data.draw(st.sampled_from([*COVERED, *COVERED, *KEYS, "manifest"]))
    other = data.draw(st.sampled_from([*KEYS, "services/more", "endpoints/x/y"]))
    match data.draw(st.integers(0, 8)):
        case 0:
            values.pop(key, None)
        case 1:
            values[key] = EARLIER[key]
        case 2:
            values[other] = values.get(key, b"junk")
        case 3 | 4:
            values[key] = forged(values, key, data.draw(st.integers(0, 6)))
        case 5:
            values[other] = data.draw(st.sampled_from([b"", b"junk", b"LWS\1" + bytes(100)]))
        case 6:  # what its signer wrote so that this version does not read it
            values[key] = wrap(data.draw(st.sampled_from([OLD, NEW])), key, 9, b'{"v":2}')
        case 7:  # a manifest of somebody's over what is there now, in his own name or in another's
            made = wrap(data.draw(st.sampled_from([STRANGER, ELSEWHERE])), "manifest", 9, over_all(values))
            at = slice(4, 20 if data.draw(st.booleans()) else 4)
            values["manifest"] = made[:4] + NEW.key.verify_key.id[: at.stop - 4] + made[at.stop :]
        case _:  # a controller that is there signs what it then believes
            values["manifest"] = manifest(data.draw(st.sampled_from([OLD, NEW])), values)


def over_all(values: Mapping[str, bytes]) -> bytes:
    """What a manifest over all values would say, were they checked or not."""
    entries = [Entry.of(key, int.from_bytes(v[20:28], "big") % 2**63, v) for key, v in values.items() if len(v) > 96]
    return codec.encode(SignedSet().after(entries, ()).record())


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_bulk_verification_equals_checking_every_signature(data: st.DataObject) -> None:
    values = dict(data.draw(st.sampled_from([PLAIN, PLAIN, MIXED, EARLIER])))
    for _ in range(data.draw(st.integers(0, 4))):
        meddled(data, values)
    pairs = list(values.items())
    if data.draw(st.booleans()):  # keys that change, come and go while they are listed
        again = data.draw(st.lists(st.sampled_from([*values.items(), *PLAIN.items()]), max_size=3))
        pairs += again + [(key, None) for key, _ in again[:1]]  # type: ignore[misc]  # a deletion
    if data.draw(st.booleans()):
        pairs = data.draw(st.permutations(pairs))
    same(data.draw(st.sampled_from(RINGS)), pairs, keep=data.draw(st.booleans()))


@pytest.mark.parametrize("signers", RINGS, ids=str)
@pytest.mark.parametrize("values", [PLAIN, MIXED, EARLIER], ids=["one key", "two keys", "the old key"])
def test_what_is_as_it_was_signed(signers: Sequence[Signer], values: Mapping[str, bytes]) -> None:
    for by in (OLD, NEW, STRANGER):
        same(signers, {**values, "manifest": manifest(by, values)}.items())


@pytest.mark.parametrize("how", range(7))
@pytest.mark.parametrize("key", COVERED)
def test_one_forged_among_all_others(key: str, how: int) -> None:
    for told in (PLAIN["manifest"], EARLIER["manifest"], wrap(STRANGER, "manifest", 9, over_all(PLAIN))):
        found = same((NEW, OLD), (PLAIN | {key: forged(PLAIN, key, how), "manifest": told}).items())
        assert key in found.invalid
        assert not verify_snapshot(found).verified


def test_revoked_signer_counts_for_nothing_despite_manifest() -> None:
    found = same((NEW,), MIXED.items())
    assert "signed by a key that may not sign this" in found.invalid["services/s"]
    assert not verify_snapshot(found).verified
    assert verify_snapshot(same((OLD, NEW), MIXED.items())).verified


def test_vouched_but_unread_records_do_not_count() -> None:
    values = dict(PLAIN)
    values["services/s"] = wrap(NEW, "services/s", 9, b'{"v":2}')
    values["manifest"] = wrap(NEW, "manifest", 9, over_all({key: v for key, v in values.items() if key in COVERED}))
    found = same((NEW,), values.items())
    assert "services/s" in found.invalid
    assert found.contents.total.count == len(COVERED) - 1
    assert not verify_snapshot(found).verified


def test_records_gone_during_listing_do_not_count() -> None:
    junk = wrap(STRANGER, "services/s", 9, b"{}")
    assert not same((NEW,), [("services/s", junk), *PLAIN.items()]).invalid
    assert "services/s" in same((NEW,), [*PLAIN.items(), ("services/s", junk)]).invalid
    assert not same((NEW,), [*PLAIN.items(), ("services/more", junk), ("services/more", None)]).invalid


def test_holder_of_the_key_could_sign_anyway() -> None:
    """The one difference, and it takes the signing key: his manifest is over a record that he has not signed."""
    broken = forged(PLAIN, "services/s", 1)
    values = PLAIN | {"services/s": broken}
    for signer, believed in ((NEW, True), (OLD, False), (STRANGER, False), (ELSEWHERE, False)):
        covered = {key: value for key, value in values.items() if key in COVERED}
        told = values | {"manifest": wrap(signer, "manifest", 9, over_all(covered))}
        found = shown(RecordSigner.reader(ring(NEW, OLD)), told.items())
        assert ("services/s" in found.records) == believed
        changed = shown(RecordSigner.reader(ring(NEW, OLD)), (told | {"services/s0": EARLIER["services/s0"]}).items())
        assert "services/s" in changed.invalid


def test_whole_snapshot_is_the_base_for_changes() -> None:
    picture = MaterializedView(RecordSigner.reader(ring(NEW)))
    picture.replace(batch(PLAIN.items()))
    picture.apply(Batch(100, whole=False, changes=[RecordChange(b"services/s0", None, 100)]))
    picture.apply(
        Batch(101, whole=False, changes=[RecordChange(b"services/s1", forged(PLAIN, "services/s1", 1), 101)])
    )
    left = {key: value for key, value in PLAIN.items() if key not in ("services/s0", "services/s1")}
    assert picture.snapshot(complete=True).contents == shown(EachByItself(ring(NEW)), left.items()).contents
    assert picture.snapshot(complete=True).contents.total.count == len(COVERED) - 2
    picture.apply(Batch(103, whole=False, changes=[RecordChange(b"services/s0", PLAIN["services/s0"], 102)]))
    picture.apply(Batch(103, whole=False, changes=[RecordChange(b"services/s1", PLAIN["services/s1"], 103)]))
    assert verify_snapshot(picture.snapshot(complete=True)).verified


def test_threads_find_what_holds_and_nothing_else() -> None:
    values = MIXED | {f"services/s{n}": forged(MIXED, f"services/s{n}", n) for n in range(3)}
    values |= {"services/new": b"", "services/old": MIXED["cluster"]}
    for signers in RINGS:
        single = set()
        for key, value in values.items():
            with contextlib.suppress(InvalidRecordError):
                unwrap(ring(*signers), key, value)
                single.add(key)
        for own in (None, OLD.key, NEW.key, STRANGER.key):
            assert bulk_verification.valid_keys(ring(*signers), list(values.items()), own) == single
        assert not single & {"services/s0", "services/s1", "services/new", "services/old"} or STRANGER in signers
