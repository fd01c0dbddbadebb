"""Poller of Swarm: lists everything now and then, and the tasks of moving services often.

Swarm has no task events (moby#37403), so the tasks of a service that Swarm is moving are listed repeatedly, often at
first and less so the longer nothing changes. One that has no part in links waits for the next list of everything.
Everything is listed after a break and every few seconds, since Swarm does not restart the store watch behind its
events after an error.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from typing import Protocol

from controller.swarm.list_cache import ListCache
from controller.swarm.model import Swarm, SwarmNode, SwarmService, SwarmTask
from mesh.model.encryption.status import DATA_PATH_PORT

RESYNC_S = 5.0
SILENCE_S = 6.0
"""Seconds without an answer of Swarm's after which this controller knows too little of it to lead."""
CLOSE_S = 0.1
"""Seconds between two lists of a moving service."""
CLOSE_MAX_S = 2.0
HEARD_S = 0.005
"""Seconds between two lists of a service that an event or a node's report has named in between."""
HEARD_COST = 4
"""Such lists take at most a fifth of the time."""
HINT_S = 2.0
"""Seconds for which an event keeps a settled service under close watch."""
BACK_OFF = 10
"""A service unchanged for n seconds is listed every n / BACK_OFF seconds."""
COST = 20
"""Full lists take at most a twentieth of the time."""


class SwarmLists(Protocol):
    """Lists of a Swarm; each is complete or raises Retryable."""

    def cluster(self) -> tuple[str, tuple[bytes, ...], int]:
        """Return Swarm's id, its root certificates in PEM, and the UDP port of its VXLAN."""

    def services(self) -> dict[str, SwarmService]:
        """List every service."""

    def tasks(self, services: frozenset[str] | None = None) -> dict[str, SwarmTask]:
        """List every task; or those of some services, all of which exist."""

    def nodes(self) -> dict[str, SwarmNode]:
        """List every node."""


class SwarmPoller:
    """Polls a Swarm and caches its lists."""

    def __init__(self, swarm: SwarmLists, clock: Callable[[], float] = time.monotonic) -> None:
        """Prepare; the first `refresh` lists everything."""
        self._swarm = swarm
        self._clock = clock
        self._cluster = ""
        self._roots: tuple[bytes, ...] = ()
        self._data_path_port = DATA_PATH_PORT
        self._lists = ListCache()
        self._resync_at = 0.0
        self._closely = True
        self._hinted: dict[str, float] = {}
        self._moved: dict[str, float] = {}
        self._listed: dict[str, float] = {}
        self._took = 0.0
        self._silent_since: float | None = float("-inf")  # it has never answered

    @property
    def answers(self) -> bool:
        """Whether Swarm answers, or did not for a moment only."""
        return self._silent_since is None or self._clock() - self._silent_since < SILENCE_S

    def refresh(self, hints: Collection[tuple[str, str]], *, closely: bool = True) -> Swarm:
        """Renew the lists that are due and return the whole picture.

        Args:
            hints: (type, id) of everything that may have changed: `service`, `node`, or `resync` for anything.
            closely: whether hints and moving services count. Without it everything is listed every few seconds, which
                is enough for a standby; at the next call with it, everything is listed at once.

        Raises:
            Retryable: Swarm did not answer; the next call lists everything.
        """
        began = self._clock()
        try:
            swarm = self._refresh(hints, began, closely=closely)
        except Exception:
            if self._silent_since is None:
                self._silent_since = began
            raise
        self._silent_since = None
        return swarm

    def _refresh(self, hints: Collection[tuple[str, str]], now: float, *, closely: bool) -> Swarm:
        kinds = {kind for kind, _ in hints}
        if closely and not self._closely:
            self._resync_at = 0.0
        self._closely = closely
        if not closely and "resync" not in kinds and now < self._resync_at:
            return self._picture()
        for kind, name in hints:
            if kind in ("service", "task"):
                self._hinted[name] = now
                self._moved[name] = now
        if "resync" in kinds or now >= self._resync_at:
            self._resync(now)
        else:
            try:
                if "service" in kinds:
                    linkless = self._lists.linkless
                    self._lists.update_services(self._swarm.services())
                    self._hinted.update(dict.fromkeys(linkless - self._lists.linkless, now))
                if "node" in kinds:
                    self._lists.update_nodes(self._swarm.nodes())
                self._list_close(now)
            except Exception:
                self._resync_at = 0.0
                raise
        return self._picture()

    @property
    def nodes_up(self) -> tuple[str, ...]:
        """Ids of the nodes that Swarm called up at the last `refresh`."""
        return self._lists.nodes_up

    def due_in(self) -> float:
        """Return the seconds until `refresh` has something to do without a hint."""
        now = self._clock()
        close = self._close(now) if self._closely else ()
        at = min((self._due_at(name) for name in close), default=self._resync_at)
        return max(0.0, min(at, self._resync_at) - now)

    def _picture(self) -> Swarm:
        return self._lists.swarm(self._cluster, self._roots, self._data_path_port)

    def _resync(self, now: float) -> None:
        self._resync_at = 0.0
        self._cluster, self._roots, self._data_path_port = self._swarm.cluster()
        # Nodes last: or a task on a node that has just joined would look like one whose node has left.
        services = self._swarm.services()
        tasks = self._swarm.tasks()
        nodes = self._swarm.nodes()
        self._lists.update_services(services)
        self._lists.update_nodes(nodes)
        self._note_moves(self._lists.update_tasks(tasks), now)
        self._note_listed(now)
        done = self._clock()
        self._resync_at = done + max(RESYNC_S, COST * (done - now))
        self._forget(now)

    def _forget(self, now: float) -> None:
        names = self._lists.named()
        self._hinted = {name: at for name, at in self._hinted.items() if now - at < HINT_S}
        self._moved = {name: at for name, at in self._moved.items() if name in names}

    def _note_listed(self, now: float) -> None:
        """Note that all tasks were listed. A service that never moves ages from its first list."""
        self._listed = dict.fromkeys(self._lists.named(), now)
        for name in self._listed:
            self._moved.setdefault(name, now)

    def _close(self, now: float) -> frozenset[str]:
        hinted = {name for name, at in self._hinted.items() if now - at < HINT_S}
        return (self._lists.unsettled(self._picture()) | hinted) - self._lists.linkless

    def _due_at(self, name: str) -> float:
        """Return the time to list a service under close watch again; without a hint it changes only by a list."""
        listed = self._listed.get(name, 0.0)
        wait = min(max((listed - self._moved.get(name, listed)) / BACK_OFF, CLOSE_S), CLOSE_MAX_S)
        if self._hinted.get(name, listed) > listed:  # a hint has come since: list it soon
            wait = min(wait, max(HEARD_S, HEARD_COST * self._took))
        return listed + wait

    def _list_close(self, now: float) -> None:
        due = frozenset(name for name in self._close(now) if now >= self._due_at(name))
        if not due:
            return
        # Swarm answers with an error for a service that is gone: then all tasks are listed.
        of = due if due <= self._lists.services.keys() else None
        fresh = self._swarm.tasks(of)
        self._took = self._clock() - now
        if {task.node for task in fresh.values() if task.node} - self._lists.nodes.keys():
            self._lists.update_nodes(self._swarm.nodes())
        self._note_moves(self._lists.update_tasks(fresh, of), now)
        self._listed.update(dict.fromkeys(due, now))

    def _note_moves(self, services: Iterable[str], now: float) -> None:
        self._moved.update(dict.fromkeys(services, now))
