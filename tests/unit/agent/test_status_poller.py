"""The rounds in which an agent reads its devices."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

import pytest

from agent.containers.docker_client import LocalTask
from agent.interface.task import TaskState
from agent.reporting import status_poller
from agent.reporting.status_poller import StatusPoller
from mesh.model.records import DeviceStatus

if TYPE_CHECKING:
    from agent.wireguard.backend import Backend

BACKEND = cast("Backend", None)  # is only handed on


class Read(TaskState):
    """A task whose device takes some CPU to read."""

    takes = 0.0
    reads = 0

    def status(self, backend: Backend) -> DeviceStatus | None:  # noqa: ARG002 - as it is
        self.reads += 1
        until = time.thread_time() + self.takes
        while time.thread_time() < until:
            pass
        return DeviceStatus(self.local.task, None, (), ())


def tasks(count: int, takes: float = 0.0) -> dict[str, Read]:
    found = {}
    for number in range(count):
        local = LocalTask(f"c{number}", f"t{number}", "s", "n", "running", None, "", None, (), gated=False)
        found[f"c{number}"] = Read(local)
        found[f"c{number}"].takes = takes
    return found


def read_of(states: dict[str, Read]) -> dict[str, int]:
    return {name: state.reads for name, state in states.items()}


def test_round_reads_each_once_next_is_later() -> None:
    states, rounds = tasks(3), StatusPoller()
    assert rounds.due_in() <= 0
    found = rounds.read(states, BACKEND, lambda: False)
    assert found is not None
    assert sorted(status.task for status in found) == ["t0", "t1", "t2"]
    assert 0 < rounds.due_in() <= status_poller.STATUS_S
    assert rounds.read(states, BACKEND, lambda: False) is None
    assert read_of(states) == dict.fromkeys(states, 1)


def test_reading_yields_and_resumes_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_poller, "SLICE_S", 0.0)
    states, rounds = tasks(4), StatusPoller()
    for number in range(1, 4):
        assert rounds.read(states, BACKEND, lambda: True) is None
        assert sum(read_of(states).values()) == number
        assert rounds.due_in() == 0
    del states["c0"]  # ended meanwhile
    assert len(rounds.read(states, BACKEND, lambda: True) or ()) == 3
    assert read_of(states) == dict.fromkeys(states, 1)


def test_round_progresses_whatever_else_is_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_poller, "SLICE_S", 60.0)
    states, rounds = tasks(50), StatusPoller()
    assert rounds.read(states, BACKEND, lambda: True) is not None


def test_longer_rounds_delay_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_poller, "STATUS_S", 0.0)
    states, rounds = tasks(2, takes=0.05), StatusPoller()
    began = time.monotonic()
    rounds.read(states, BACKEND, lambda: False)
    assert time.monotonic() + rounds.due_in() - began >= status_poller.SHARE * 0.1 * 0.99


def test_unread_changes_are_read_singly_when_due() -> None:
    states = tasks(4)
    for name, at in (("c0", 1.0), ("c1", 3.0), ("c3", 2.0)):
        states[name].schedule.confirm_at = at
        states[name].schedule.dirty = False
    states["c2"].schedule.dirty = False
    assert list(status_poller.to_confirm(states.values(), 0.5, lambda: False)) == []
    assert list(status_poller.to_confirm(states.values(), 2.0, lambda: True)) == [states["c0"]]
    assert list(status_poller.to_confirm(states.values(), 2.0, lambda: True)) == [states["c3"]]
    assert [state.schedule.dirty for state in states.values()] == [True, False, False, True]
    states["c0"].schedule.confirm_at = 3.0
    assert list(status_poller.to_confirm(states.values(), 3.0, lambda: False)) == [states["c0"], states["c1"]]
    assert all(state.schedule.confirm_at is None for state in states.values())
