"""Whether a snapshot is what was signed, and what is said of it when it is not."""

from ipaddress import IPv4Address, IPv4Network, IPv6Network

import pytest

from mesh.crypto.signed_envelope import Signer, wrap
from mesh.integrity.verification import verify_snapshot
from mesh.model import codec, keyspace
from mesh.model.records import Cluster, Port, Record, Service
from mesh.model.snapshot import Snapshot
from mesh.store.follower import Batch, MaterializedView, RecordChange
from tests.support.signing import RECORD_SIGNER, STRANGER, holding, value

CLUSTER = Cluster("cluster", IPv4Network("10.1.0.0/16"), IPv6Network("fd00::/96"))


def service(name: str, vip: int = 1) -> Service:
    return Service(name, name, IPv4Address(f"10.1.0.{vip}"), (), None, strict=True, dnsrr=False, elsewhere=())


RECORDS: tuple[Record, ...] = (CLUSTER, service("a", 1), service("b", 2))


def values(*records: Record, generation: int = 1) -> dict[str, bytes]:
    """A store with these and their manifest."""
    made = {keyspace.key_of(record): value(record, generation) for record in records}
    return made | {"manifest": value(holding(*records, generation=generation).record(), generation)}


def shown(store: dict[str, bytes]) -> Snapshot:
    picture = MaterializedView(RECORD_SIGNER)
    changes = [RecordChange(key.encode(), raw, n) for n, (key, raw) in enumerate(store.items(), 1)]
    picture.replace(Batch(len(changes), whole=True, changes=changes))
    return picture.snapshot(complete=True)


def test_signed_records_verify_uncovered_ones_do_not_count() -> None:
    store = values(*RECORDS, generation=7)
    assert verify_snapshot(shown(store)).verified
    assert verify_snapshot(shown(store)).generation == 7
    port = value(Port("n", 1, "t"))
    for more in ({"ports/n/1": port}, {"ports/n/1": b"junk"}, {"services/junk": b"not signed"}):
        assert verify_snapshot(shown(store | more)).verified, "nobody was told that this is there"


OLD = value(service("a", 9), 1)
FORGED = wrap(Signer("cluster", STRANGER), "services/a", 7, codec.encode(service("a", 9)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"services/a": None}, "services/a: gone"),
        ({"services/a": OLD}, "services/a: generation 1 after 7 was seen"),
        ({"services/a": FORGED}, "services/a: signed by a key that may not sign this"),
        ({"services/a": b'{"v":1}'}, "services/a: not signed"),
        ({"services/a": value(service("a", 1), 7)[:-1]}, "services/a: 2"),
        ({"services/a": value(service("b", 2), 7)}, "services/a: the signature does not hold"),
        ({"services/c": value(service("c", 3), 7)}, "services/c: new"),
        ({"services/a": value(service("a", 1), 8)}, "one differs"),
        ({"manifest": None}, "manifest: missing"),
        ({"manifest": b"junk"}, "manifest: not signed"),
        ({"manifest": value(holding(CLUSTER, generation=6).record(), 6)}, "generation 6 after 7 was seen"),
        (
            {"manifest": value(holding(CLUSTER).record(), 7)},
            "differs from the one seen with the same generation 7",
        ),
        ({"manifest": value(holding(CLUSTER, generation=8).record(), 8)}, "3 records where 1 were signed"),
    ],
)
def test_what_differs_is_named(change: dict[str, bytes | None], said: str) -> None:
    store = values(*RECORDS, generation=7)
    before = shown(store)
    changed = {key: raw for key, raw in (store | change).items() if raw is not None}
    verdict = verify_snapshot(shown(changed), 7, store["manifest"], before)
    assert not verdict.verified
    assert said in verdict.problem


def test_old_state_verifies_and_only_its_generation_differs() -> None:
    old = shown(values(CLUSTER, generation=3))
    assert verify_snapshot(old).verified
    assert verify_snapshot(old, 3).verified
    assert "an old state" in verify_snapshot(old, 4).problem


def test_many_differences_are_counted_and_not_all_named() -> None:
    store = values(CLUSTER, *(service(f"s{n}", n) for n in range(1, 21)))
    verdict = verify_snapshot(shown({key: store[key] for key in ("cluster", "manifest")}), 1, before=shown(store))
    assert verdict.problem.count(": gone") == 5
    assert verdict.problem.endswith("and 15 more")


def test_single_changes_add_up_to_a_list() -> None:
    picture = MaterializedView(RECORD_SIGNER)
    store = values(*RECORDS)
    picture.replace(Batch(1, whole=True, changes=[RecordChange(b"services/x", value(service("x")), 1)]))
    for n, (key, raw) in enumerate([*store.items(), ("services/a", b"junk"), *store.items()], 2):
        picture.apply(Batch(n, whole=False, changes=[RecordChange(key.encode(), raw, n)]))
    assert not verify_snapshot(picture.snapshot(complete=True)).verified
    picture.apply(Batch(99, whole=False, changes=[RecordChange(b"services/x", None, 99)]))
    assert verify_snapshot(picture.snapshot(complete=True)).verified
    assert picture.snapshot(complete=True).contents == shown(store).contents
    assert not picture.snapshot(complete=True).unread
