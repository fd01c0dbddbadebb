from __future__ import annotations

import threading

import pytest

from agent.containers.docker_client import LocalTask
from agent.interface.task import TaskState
from agent.interface.workers import THREADS, URGENT, Workers
from mesh.errors import Retryable
from tests.store.waiting import until


def state(number: int) -> TaskState:
    return TaskState(LocalTask(f"c{number}", f"t{number}", "s", "n", "running", None, "", None, (), gated=False))


def waited(go: threading.Event) -> None:
    go.wait(10)


def fail() -> None:
    raise ZeroDivisionError


def test_a_task_that_stalls_holds_up_no_other() -> None:
    ended = threading.Semaphore(0)
    workers = Workers(ended.release)
    stalled, others = state(0), [state(number) for number in range(1, 30)]
    go = threading.Event()
    workers.run(stalled, lambda: waited(go))
    done: list[str] = []
    for other in others:
        until(lambda: workers.has_room(is_urgent=True), 5)
        workers.run(other, lambda task=other.local.task: done.append(task))  # type: ignore[misc]
    until(lambda: len(done) == len(others), 5)
    assert stalled.busy
    assert not any(other.busy for other in others)
    go.set()
    until(lambda: not stalled.busy, 5)
    workers.stop()
    assert all(ended.acquire(timeout=5) for _ in range(30))


def test_some_threads_are_reserved_for_unwired_tasks() -> None:
    workers = Workers(lambda: None)
    go = threading.Event()

    def fill(*, is_urgent: bool) -> int:
        started = 0
        while workers.has_room(is_urgent=is_urgent):
            workers.run(state(started), lambda: waited(go))
            started += 1
        return started

    assert fill(is_urgent=False) == THREADS - URGENT
    assert fill(is_urgent=True) == URGENT
    go.set()
    workers.stop()
    assert workers.has_room(is_urgent=False)


def test_work_that_fails_oddly_is_tried_again() -> None:
    workers = Workers(lambda: None)
    one = state(1)
    workers.run(one, fail)
    workers.stop()
    assert not one.busy
    assert one.error == "an error of Linkwire's own, ZeroDivisionError: see the agent's log"
    assert one.schedule.retry_at is not None


def test_without_a_thread_task_is_not_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else nobody would ever work on it again."""
    workers, task = Workers(lambda: None), state(0)
    done: list[bool] = []

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        with pytest.raises(Retryable, match="no thread to wire the task: can't start new thread"):
            workers.run(task, lambda: done.append(True))
    assert not task.busy
    assert workers.has_room(is_urgent=False)
    workers.run(task, lambda: done.append(True))
    until(lambda: not task.busy, 5)
    assert done == [True], "what was given up is not done later"
    workers.stop()
