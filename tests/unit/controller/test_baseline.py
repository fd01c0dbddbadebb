"""A decision that found nothing to do is made again when, and only when, one of its inputs has changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from agent.state.verified_state import followed
from controller.index.baseline import WHOLE_S, Baseline
from controller.swarm.list_cache import ListCache
from controller.swarm.model import Swarm, SwarmNode, SwarmTask
from mesh.model import keyspace
from mesh.model.records import Address, Leader, Port, Record, Status
from mesh.model.snapshot import Snapshot
from mesh.store.follower import Batch, MaterializedView, RecordChange
from mesh.store.watch_stream import Ranges
from tests.support.signing import RECORD_SIGNER, value
from tests.support.swarm_world import DB, WEB

NOW = 1_800_000_000.0
LISTS = ListCache()
LISTS.update_services({WEB.id: WEB})
SWARM = LISTS.swarm("cluster", ())
STATUS = Status("n1", 1.0, ())
PORT = Port("n1", 51820, "t1")


class Stored:
    """A picture of a store, with what changes in it."""

    def __init__(self) -> None:
        self._picture = MaterializedView(RECORD_SIGNER)
        records: tuple[Record, ...] = (STATUS, PORT, Address(IPv4Address("10.1.0.1"), None))
        changes = [RecordChange(keyspace.key_of(record).encode(), value(record), 1) for record in records]
        self._picture.replace(Batch(1, whole=True, changes=changes))

    def snapshot(self, *, complete: bool = True) -> Snapshot:
        return self._picture.snapshot(complete=complete)

    def put(self, record: Record) -> Snapshot:
        return self.change(keyspace.key_of(record), value(record))

    def change(self, key: str, written: bytes | None) -> Snapshot:
        revision = self._picture.revision + 1
        self._picture.apply(Batch(revision, whole=False, changes=[RecordChange(key.encode(), written, revision)]))
        return self.snapshot()


@pytest.fixture
def stored() -> Stored:
    return Stored()


@pytest.fixture
def quiet(stored: Stored) -> Baseline:
    made = Baseline()
    assert not made.decides_alike(SWARM, stored.snapshot(), NOW)
    made.move(SWARM, stored.snapshot(), NOW)
    return made


def test_nothing_has_changed(quiet: Baseline, stored: Stored) -> None:
    assert quiet.decides_alike(SWARM, stored.snapshot(), NOW)
    assert quiet.decides_alike(replace(SWARM), stored.snapshot(), NOW + WHOLE_S - 1)


def test_what_no_decision_reads_may_change(quiet: Baseline, stored: Stored) -> None:
    assert quiet.decides_alike(SWARM, stored.put(replace(STATUS, written=2.0)), NOW)
    assert quiet.decides_alike(SWARM, stored.put(Leader("another")), NOW)


def test_any_other_record_counts(quiet: Baseline, stored: Stored) -> None:
    assert not quiet.decides_alike(SWARM, stored.put(replace(PORT, task="t2")), NOW)


def test_a_record_that_ended_counts(quiet: Baseline, stored: Stored) -> None:
    assert not quiet.decides_alike(SWARM, stored.change(keyspace.key_of(PORT), None), NOW)


def test_garbage_counts_wherever_it_lies(quiet: Baseline, stored: Stored) -> None:
    assert not quiet.decides_alike(SWARM, stored.change(keyspace.status("n2"), b"garbage"), NOW)


def test_the_same_garbage_written_again_is_alike(stored: Stored) -> None:
    quiet, key = Baseline(), keyspace.status("n2")
    quiet.move(SWARM, stored.change(key, b"garbage"), NOW)
    assert quiet.decides_alike(SWARM, stored.change(key, b"garbage"), NOW)


def test_swarms_lists_count(stored: Stored) -> None:
    lists = ListCache()
    lists.update_services({WEB.id: WEB})
    quiet = Baseline()
    quiet.move(lists.swarm("cluster", ()), stored.snapshot(), NOW)
    assert quiet.decides_alike(lists.swarm("cluster", ()), stored.snapshot(), NOW)
    assert not quiet.decides_alike(lists.swarm("cluster", (b"another",)), stored.snapshot(), NOW)
    assert not quiet.decides_alike(lists.swarm("another", ()), stored.snapshot(), NOW)
    updates: tuple[Callable[[], object], ...] = (
        lambda: lists.update_services({DB.id: DB}),
        lambda: lists.update_tasks({"t1": SwarmTask("t1", DB.id, 1, "n1", "running", "running")}),
        lambda: lists.update_nodes({"n1": SwarmNode("n1", "n1", down=False, address=None)}),
    )
    for update in updates:
        update()
        swarm = lists.swarm("cluster", ())
        assert not quiet.decides_alike(swarm, stored.snapshot(), NOW)
        quiet.move(swarm, stored.snapshot(), NOW)
        assert quiet.decides_alike(swarm, stored.snapshot(), NOW)
    assert not quiet.decides_alike(Swarm("cluster", {}, {}, {}), stored.snapshot(), NOW), "of unknown changes"


def test_time_counts(quiet: Baseline, stored: Stored) -> None:
    assert not quiet.decides_alike(SWARM, stored.snapshot(), NOW + WHOLE_S)
    assert not quiet.decides_alike(SWARM, stored.snapshot(), NOW - 1), "a clock that was set back"
    quiet.move(SWARM, stored.snapshot(), NOW + 9, whole=False)
    assert not quiet.decides_alike(SWARM, stored.snapshot(), NOW + WHOLE_S), "not everything was looked at since"


def test_a_gap_counts(quiet: Baseline, stored: Stored) -> None:
    assert not quiet.decides_alike(SWARM, stored.snapshot(complete=False), NOW)
    assert not quiet.decides_alike(SWARM, Stored().snapshot(), NOW), "listed anew"


def test_what_was_done_counts(quiet: Baseline, stored: Stored) -> None:
    quiet.clear()
    assert not quiet.decides_alike(SWARM, stored.snapshot(), NOW)


def test_changes_are_known_between_any_two_snapshots(stored: Stored) -> None:
    first = stored.snapshot()
    second = stored.put(replace(PORT, task="t2"))
    third = stored.change(keyspace.status("n1"), None)
    assert second.changed_since(first) == frozenset({keyspace.key_of(PORT)})
    assert third.changed_since(first) == frozenset({keyspace.key_of(PORT), keyspace.status("n1")})
    assert third.changed_since(third) == frozenset()
    assert first.changed_since(third) is None
    assert third.changed_since(replace(third, records={})) is None


def test_records_by_kind_are_those_of_all(stored: Stored) -> None:
    found = stored.put(Port("n1", 51821, "t2"))
    plain = replace(found, records=dict(found.records))
    for kind in (Status, Port, Address, Leader):
        assert list(found.all(kind)) == list(plain.all(kind))
        assert list(found.keys_of(kind)) == list(plain.keys_of(kind))
    assert not list(replace(found, records={}).all(Port)), "what is made of other records has those alone"


def test_no_status_wakes_another_nodes_agent() -> None:
    first, end = Ranges.of(b"/", [name.encode() for name in followed("zzzz")]).span()
    assert not first <= b"/" + keyspace.status("0").encode() < end
