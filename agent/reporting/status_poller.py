"""Poller of this node's devices: rounds in time slices, which give way to tasks that are to be wired.

A round gives way as soon as there is something to do, and goes on afterwards where it was. And it takes no more than
a small part of a processor: the more there is to read, the longer it is until the next round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from agent.interface.task import TaskState
from agent.wireguard.backend import Backend
from mesh.model.records import DeviceStatus

STATUS_S = 1.8
"""From the beginning of a round to that of the next, where reading takes no time. Of a link that broke just after a
reading the second one shows that something is unanswered, and the sixth after that, peer_health.ANSWER_S later, that
it is broken: within 15 s."""
SHARE = 20
"""A round takes at most one part in so many of a processor."""
SLICE_S = 0.02
"""A round gets on by so much even when there is always something else to do."""


class StatusPoller:
    """Rounds of one agent."""

    def __init__(self) -> None:
        self._due = 0.0
        self._began = 0.0
        self._spent = 0.0
        self._left: list[str] | None = None
        self._found: list[DeviceStatus] = []

    def due_in(self) -> float:
        """Return the seconds until `read` has something to do."""
        return 0.0 if self._left is not None else self._due - time.monotonic()

    def read(
        self, states: Mapping[str, TaskState], backend: Backend, is_wanted: Callable[[], bool]
    ) -> tuple[DeviceStatus, ...] | None:
        """Continue the round.

        Args:
            states: of all tasks; those that come during a round are read in the next.
            backend: reads the devices.
            is_wanted: whether there is something else to do.

        Returns:
            What was read, once a round is complete; else None.
        """
        now = time.monotonic()
        if self._left is None:
            if now < self._due:
                return None
            self._began, self._spent, self._found, self._left = now, 0.0, [], list(states)
        spent = time.thread_time()
        while self._left:
            state = states.get(self._left.pop())
            device = state.status(backend) if state is not None else None
            if device is not None:
                self._found.append(device)
            if self._left and is_wanted() and time.monotonic() - now > SLICE_S:
                self._spent += time.thread_time() - spent
                return None
        self._spent += time.thread_time() - spent
        self._left = None
        self._due = self._began + max(STATUS_S, SHARE * self._spent)
        return tuple(self._found)


def to_confirm(states: Iterable[TaskState], now: float, is_wanted: Callable[[], bool]) -> Iterator[TaskState]:
    """Mark tasks dirty whose devices were changed without being read and are due to be; yield them.

    Args:
        states: of all tasks; none comes or goes while they are gone through.
        now: by the monotonic clock.
        is_wanted: whether there is something else to do: then one is enough for this time.
    """
    for state in states:
        schedule = state.schedule
        if not state.busy and schedule.confirm_at is not None and now >= schedule.confirm_at:
            schedule.confirm_at, schedule.dirty = None, True
            yield state
            if is_wanted():
                return
