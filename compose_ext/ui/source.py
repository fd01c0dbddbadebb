"""Readings for the page: asks the agent when a browser asks, and never twice for the same second."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from compose_ext.diagnostics import DockerError
from compose_ext.docker_cli import Docker
from compose_ext.observe.diagnosis import events
from compose_ext.swarm import link_states
from compose_ext.swarm.link_states import Answer
from compose_ext.ui import snapshot
from compose_ext.ui.rates import Rates
from compose_ext.ui.snapshot import Document, Reading

FRESH_S, EVENTS_FRESH_S = 2.0, 10.0
"""Several windows share what was read so long ago."""
MOST_EVENTS = 500
"""Of each sort, newest first."""

_T = TypeVar("_T")


def links(docker: Docker) -> Answer:
    """Ask the agent on the endpoint for all links. Raises DockerError."""
    return link_states.judged(link_states.links(docker, None))


def audit_log(docker: Docker) -> list[dict[str, Any]]:
    """Ask the agent on the endpoint for the audit log. Raises DockerError."""
    return list(events.lines(docker, follow=False))


@dataclass(slots=True)
class _Kept(Generic[_T]):
    """The last reading, the time of the last attempt, and the reason why that one failed."""

    value: _T
    tried: float = float("-inf")
    failed: str | None = None


class Source:
    """Readings of one endpoint. Safe for several threads.

    Args:
        ask: returns the agent's answer.
        ask_events: returns the audit log's lines.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        ask: Callable[[], Answer],
        ask_events: Callable[[], Iterable[dict[str, Any]]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ask, self._ask_events, self._clock = ask, ask_events, clock
        self._reading: _Kept[Reading | None] = _Kept(None)
        self._log: _Kept[list[dict[str, Any]]] = _Kept([])
        self._changes: deque[Document] = deque(maxlen=MOST_EVENTS)
        self._reading_lock, self._log_lock = threading.Lock(), threading.Lock()

    def read(self) -> tuple[Reading | None, str | None]:
        """Return the newest reading, and why it is not of now; asks where the last is older than FRESH_S."""
        with self._reading_lock:
            kept = self._reading
            if self._clock() - kept.tried >= FRESH_S:
                try:
                    self._take(self._ask(), self._clock())
                except DockerError as error:
                    kept.failed = str(error)
                kept.tried = self._clock()
            return kept.value, kept.failed

    def known(self) -> tuple[Reading | None, str | None]:
        """Return the newest reading, and why it is not of the last attempt, without asking for another one."""
        return self._reading.value, self._reading.failed

    def _take(self, answer: Answer, at: float) -> None:
        before = self._reading.value
        rates = before.rates if before else Rates()
        reading = Reading(answer, at, rates.after(answer, at))
        self._changes.extend(snapshot.changes(before, reading))
        self._reading.value, self._reading.failed = reading, None

    def timeline(self) -> Document:
        """Return events, newest first: the audit log's, and changes of state that were seen since the page began."""
        with self._log_lock:
            kept = self._log
            if self._clock() - kept.tried >= EVENTS_FRESH_S:
                try:
                    kept.value, kept.failed = list(self._ask_events()), None
                except DockerError as error:
                    kept.failed = str(error)
                kept.tried = self._clock()
            lines, failed = list(kept.value), kept.failed
        logged = [line for line in lines if "kind" in line][-MOST_EVENTS:]
        with self._reading_lock:
            found = sorted([*logged, *self._changes], key=lambda event: float(event["time"]), reverse=True)
        problems = [str(line["problem"]) for line in lines if "problem" in line]
        return {"events": found, "problems": [*problems, *([failed] if failed else [])]}

    def warm(self) -> None:
        """Ask for the first time. Raises DockerError: there is nothing to show, and why."""
        reading, failed = self.read()
        if reading is None:
            raise DockerError(failed or "the agent gave no answer")
