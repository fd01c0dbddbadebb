"""Worker threads that wire tasks: one task's work in order, tasks beside each other.

Slow work (nft, wireguard-go, the kernel's making of a device, a slow Docker) holds up its own task alone.
A task is changed by the thread that is at work on it, or by the loop while no thread is: `TaskState.busy`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import structlog

from agent.interface.task import TaskState
from mesh.errors import Retryable

log = structlog.get_logger(__name__)

THREADS = 8
URGENT = 4
"""Threads that are kept for tasks which are not wired yet."""


class Workers:
    """Threads of one agent.

    Args:
        ended: called from a thread when it has ended its work on a task.
    """

    def __init__(self, ended: Callable[[], None]) -> None:
        self._ended = ended
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="wire")
        self._lock = threading.Lock()
        self._busy = 0

    def has_room(self, *, is_urgent: bool) -> bool:
        """Tell whether `run` would begin at once."""
        return self._busy < (THREADS if is_urgent else THREADS - URGENT)

    def run(self, state: TaskState, work: Callable[[], None]) -> None:
        """Have a thread do the work on a task that no thread is at work on.

        Raises:
            Retryable: there is no thread for it, and the task is as it was.
        """
        state.busy = True
        with self._lock:
            self._busy += 1
        begins = threading.Lock()  # for who takes the work: a thread, or we that give it up
        try:
            self._threads.submit(self._work, state, work, begins)
        except RuntimeError as error:  # the node, or the agent's container, may have no more threads
            if begins.acquire(blocking=False):  # it is in their queue all the same
                with self._lock:
                    self._busy -= 1
                state.busy = False
                raise Retryable(f"no thread to wire the task: {error}") from error

    def stop(self) -> None:
        """Wait until all work has ended."""
        self._threads.shutdown()

    def _work(self, state: TaskState, work: Callable[[], None], begins: threading.Lock) -> None:
        if not begins.acquire(blocking=False):
            return
        try:
            work()
        except Exception as error:
            # Whatever it is: one task must not keep this node's others from being wired.
            log.exception("task work crashed", task=state.local.task)
            state.fail_unexpectedly(error)
        finally:
            with self._lock:
                self._busy -= 1
            state.busy = False
            self._ended()
