"""Watcher of this node's task containers, in a thread of its own.

Docker may take long to answer, above all while it starts containers, and the loop that wires tasks must not wait for
it: it takes what is known here and is woken when that changes.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import structlog

from agent.containers import start_gate
from agent.containers.docker_client import Containers, Heard, Joined, LocalTask
from agent.containers.netns_discovery import NetnsDiscovery
from mesh.errors import LinkwireError
from mesh.model.records import Attachment
from mesh.process.wakeup import Wake
from mesh.topology.isolation import in_order
from mesh.topology.policy import Exit

log = structlog.get_logger(__name__)

RESYNC_S = 15.0
RETRY_S = 0.5


@dataclass(frozen=True, slots=True)
class LocalContainers:
    """Task containers of this node, by container id.

    Attributes:
        tasks: as last seen.
        lists: how many times they were listed whole; 0: nothing is known yet.
        exits: the bridges by which they leave the node.
        stopping: those that were told to stop, some of which have ended.
    """

    tasks: Mapping[str, LocalTask]
    lists: int
    exits: tuple[Exit, ...]
    stopping: frozenset[str]


@dataclass(slots=True)
class _Starting:
    """Facts about a container that is being started, from others than Docker's list."""

    netns: str | None = None
    is_guess: bool = True
    attachments: tuple[Attachment, ...] = ()
    joins: int = 0


class ContainerWatcher:
    """Watch of Docker's events: asks for the containers that they name; now and then, and after a break, for all."""

    def __init__(self, containers: Containers, changed: Callable[[], None]) -> None:
        """Start the threads; `changed` is called from them after every change of `local`."""
        self._containers = containers
        self._changed = changed
        self._wake = Wake()
        self._lock = threading.Lock()
        self._tasks: dict[str, LocalTask] = {}
        self._starting: defaultdict[str, _Starting] = defaultdict(_Starting)
        self._stopping: set[str] = set()
        self._lists = 0
        self._exits: tuple[Exit, ...] = ()
        self._resync_at = 0.0
        self._sandboxes = NetnsDiscovery(self._sandbox_found, said=start_gate.waiting)
        sandboxes = self._sandboxes
        containers.follow(
            Heard(self._heard, sandboxes.announce, self._connected, sandboxes.forget, self._told_to_stop)
        )
        threading.Thread(target=self._run, name="container-watch", daemon=True).start()

    @property
    def local(self) -> LocalContainers:
        """The containers as last seen; where Docker does not answer, they stay."""
        with self._lock:
            return LocalContainers(
                MappingProxyType(dict(self._tasks)), self._lists, self._exits, frozenset(self._stopping)
            )

    def _run(self) -> None:
        while True:
            hints = self._wake.wait(max(0.0, self._resync_at - time.monotonic()))
            try:
                if ("resync", "") in hints or time.monotonic() >= self._resync_at:
                    self._list()
                else:
                    for _, container in hints:
                        self._look(container)
            except LinkwireError as error:
                log.warning("containers not read, retrying", error=str(error))
                self._resync_at = time.monotonic() + RETRY_S
            except Exception:
                # Whatever it is: a node that does not see its containers any more, and does not say so, is worse.
                log.exception("container watch crashed, retrying")
                self._resync_at = time.monotonic() + RETRY_S

    def _list(self) -> None:
        with self._lock:
            before = self._tasks.keys() | self._starting.keys()
        exits = self._containers.exits()
        seen = self._containers.all()
        asked = start_gate.waiting()
        with self._lock:
            self._exits = exits
            for container, path in asked.items():
                # No guess; and nobody else tells it of what began to start before this agent.
                self._starting[container].netns, self._starting[container].is_guess = path, False
            self._tasks = {container: self._completed(local) for container, local in seen.items()}
            # Containers that are no tasks have namespaces too, and what is found of them is nobody's; but what came
            # to be known since the list was asked for may be that of a task which is not in it yet.
            for container in before - seen.keys():
                self._starting.pop(container, None)
            self._stopping &= seen.keys()
            self._lists += 1
        self._resync_at = time.monotonic() + RESYNC_S
        self._changed()

    def _look(self, container: str) -> None:
        seen = self._containers.one(container)
        with self._lock:
            if seen is None:
                self._tasks.pop(container, None)
                self._forget(container)
            else:
                self._tasks[container] = self._completed(seen)
        self._changed()

    def _completed(self, local: LocalTask) -> LocalTask:
        """Add what Docker does not tell of a container that is being started, where it has been found."""
        if local.state == "created" and local.netns is None and local.problem is None:
            before = self._tasks.get(local.container, local).elsewhere
            seen = self._starting.get(local.container, _Starting())
            elsewhere = in_order((*local.elsewhere, *seen.attachments, *before))
            is_guess = seen.netns is not None and seen.is_guess
            return replace(local, netns=seen.netns, is_guess=is_guess, elsewhere=elsewhere, joins=seen.joins)
        self._forget(local.container)
        return local

    def _forget(self, container: str) -> None:
        self._sandboxes.forget(container)
        self._starting.pop(container, None)

    def _heard(self, container: str) -> None:
        if not container:
            self._sandboxes.unsettle()
        self._wake("container" if container else "resync", container)

    def _told_to_stop(self, container: str) -> None:
        with self._lock:
            self._stopping.add(container)
        self._changed()

    def _connected(self, joined: Joined) -> None:
        """Add a container's addresses on one more network: it is being started, or runs already."""
        self._sandboxes.expect(joined.container, joined.mac)
        with self._lock:
            starting = self._starting[joined.container]
            starting.attachments = in_order((*starting.attachments, *joined.attachments))
            starting.joins += 1
            local = self._tasks.get(joined.container)
            if local is not None and local.state != "gone":
                merged = in_order((*local.elsewhere, *joined.attachments))
                self._tasks[joined.container] = replace(local, elsewhere=merged, joins=starting.joins)
        if local is not None:
            self._changed()
            if local.state != "created" or local.netns is not None:
                self._wake("container", joined.container)  # what Docker says of one that runs is all there is

    def _sandbox_found(self, container: str, path: str, *, is_guess: bool) -> None:
        with self._lock:
            starting = self._starting[container]
            starting.netns, starting.is_guess = path, is_guess
            local = self._tasks.get(container)
            if local is not None and local.netns is None:
                self._tasks[container] = replace(local, netns=path, is_guess=is_guess)
        self._changed()
