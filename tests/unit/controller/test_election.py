"""Election: a lead that is found lost is not taken for one that was won meanwhile; silence by the monotonic clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest

from controller.election import SILENCE_S, Election
from mesh.errors import Retryable
from mesh.model import keyspace
from mesh.model.records import Leader
from mesh.model.snapshot import Delete, Holds, Op, Put


class Etcd:
    """Keeps the revisions of two keys; `loading` is called while they are read."""

    def __init__(self) -> None:
        self.revisions = {keyspace.LEADER: 0, keyspace.TENURE: 0}
        self.leader: Leader | None = None
        self.revision = 4
        self.loading: Callable[[], None] = lambda: None

    def commit(self, ops: Sequence[Op]) -> int | None:
        if any(op.revision not in {None, self.revisions[op.key]} for op in ops):
            return None
        self.revision += 1
        for op in ops:
            if isinstance(op, Put):
                self.revisions[op.key] = self.revision
                self.leader = op.record if isinstance(op.record, Leader) else self.leader
            elif isinstance(op, Delete):
                self.revisions[op.key], self.leader = 0, None
        return self.revision

    def load(self, _: Sequence[str]) -> SimpleNamespace:
        self.loading()
        seen = dict(self.revisions)
        return SimpleNamespace(revision_of=seen.__getitem__, get=lambda *_: self.leader)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Run campaigns by hand, at this time of the monotonic clock."""
    clock = [100.0]
    monkeypatch.setattr(Election, "_run", lambda _: None)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    return clock


def campaigner(etcd: Etcd, name: str) -> Election:
    return Election(etcd, name, lambda: None)  # type: ignore[arg-type]


def looks(candidate: Election, now: list[float], seconds: float) -> bool:
    """Look once a second for so long, or until it leads."""
    end = now[0] + seconds
    while now[0] < end and candidate.token is None:
        now[0] += 1
        candidate._campaign()
    return candidate.token is not None


@pytest.mark.parametrize("won_meanwhile", [True, False])
def test_a_lead_won_meanwhile_is_kept(now: list[float], *, won_meanwhile: bool) -> None:
    """The thread wins the lead anew while the loop waits for etcd's answer on the one before."""
    assert now
    etcd = Etcd()
    elected = campaigner(etcd, "c1")
    elected._campaign()
    assert elected.token is not None

    def lose_and_win() -> None:
        etcd.loading = lambda: None
        etcd.commit((Put(Leader("c2", "other"), None),))
        if won_meanwhile:
            etcd.commit((Delete(keyspace.LEADER, None),))
            elected._set(None)
            elected._campaign()

    etcd.loading = lose_and_win
    elected.verify()
    token = elected.token
    assert (token is not None and token.revision == etcd.revisions[keyspace.LEADER]) == won_meanwhile
    elected.stop()
    assert (etcd.leader is None) == won_meanwhile


def test_silent_leader_is_replaced_and_fenced(now: list[float]) -> None:
    etcd = Etcd()
    first, second = campaigner(etcd, "c1"), campaigner(etcd, "c2")
    first._campaign()
    old = first.token
    assert old is not None
    for _ in range(20):  # it lives: it beats every other second
        first._campaign()
        assert not looks(second, now, 2)
    assert not looks(second, now, SILENCE_S - 2)
    assert looks(second, now, 2)
    assert etcd.commit((Holds(old.key, old.revision),)) is None
    first._campaign()
    assert first.token is None
    assert not looks(first, now, SILENCE_S - 2)


def test_sign_of_life_defeats_a_takeover(now: list[float]) -> None:
    """The leader writes between a standby's look and its transaction."""
    etcd = Etcd()
    first, second = campaigner(etcd, "c1"), campaigner(etcd, "c2")
    first._campaign()
    second._campaign()
    now[0] += SILENCE_S
    read = etcd.load

    def late(_: Sequence[str]) -> SimpleNamespace:
        seen = read(_)
        first._campaign()
        return seen

    etcd.load = late  # type: ignore[method-assign]
    second._campaign()
    assert second.token is None
    assert first.token is not None


def test_unfit_controller_gives_its_lead_up(now: list[float]) -> None:
    etcd = Etcd()
    first, second = campaigner(etcd, "c1"), campaigner(etcd, "c2")
    first._campaign()
    first.set_fit(False)
    first._campaign()
    assert (first.token, etcd.leader) == (None, None)
    assert not looks(first, now, 3 * SILENCE_S)
    first.set_fit(True)
    second._campaign()
    assert second.token is not None, "at once: nobody waits for silence"
    assert not looks(first, now, 1)


def test_silence_of_etcd_is_none_of_leader(now: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    etcd = Etcd()
    first, second = campaigner(etcd, "c1"), campaigner(etcd, "c2")
    first._campaign()
    second._campaign()
    monkeypatch.undo()

    def fails(_: Sequence[str]) -> SimpleNamespace:
        second._stopped.set()
        raise Retryable("no answer")

    read, etcd.load = etcd.load, fails  # type: ignore[method-assign]
    second._run()
    etcd.load = read  # type: ignore[method-assign]
    monkeypatch.setattr(time, "monotonic", lambda: now[0] + 10 * SILENCE_S)
    second._campaign()
    assert second.token is None


def test_lead_whose_answer_was_lost_returns(now: list[float]) -> None:
    assert now
    etcd = Etcd()
    elected = campaigner(etcd, "c1")
    elected._campaign()
    before = elected.token
    elected._set(None)
    elected._campaign()
    assert elected.token is not None
    assert elected.token != before


def test_lease_of_an_older_leader_decides_nothing(now: list[float]) -> None:
    etcd = Etcd()
    etcd.commit((Put(Leader("old"), 0),))
    assert looks(campaigner(etcd, "new"), now, SILENCE_S + 1)
