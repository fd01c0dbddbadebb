"""Watcher of this node's task containers, in a thread of its own.

Docker may take long to answer, above all while it starts containers, and the loop that wires tasks must not wait for
it: it takes what is known here and is woken when that changes. Docker may be slow or fail for one container: that
one stays as it was known, and is asked for again; the others do not wait.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import structlog

from agent.containers import netns_discovery, start_gate
from agent.containers.docker_client import Containers, Heard, Joined, LocalTask
from agent.containers.netns_discovery import NetnsDiscovery
from mesh.errors import LinkwireError
from mesh.model.records import Attachment
from mesh.process.backoff import Backoff
from mesh.process.wakeup import Wake
from mesh.topology.policy import Exit
from mesh.topology.strict_isolation import in_order

log = structlog.get_logger(__name__)

RESYNC_S = 15.0
RETRY_S, MAX_RETRY_S = 0.5, 5.0
GLANCE_S = 1.0
"""Seconds between two glances at Docker's folder of namespaces. Docker tells of every change there by events."""
QUIET_S = 2.0
"""Seconds without an event after such a change until all are listed: events may stall, or be lost."""


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


@dataclass(slots=True)
class _Unread:
    """A container that Docker does not describe."""

    why: str = ""
    again_at: float = 0.0
    backoff: Backoff = field(default_factory=lambda: Backoff(RETRY_S, MAX_RETRY_S))


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
        self._unread: defaultdict[str, _Unread] = defaultdict(_Unread)
        self._heard_at = self._glance_at = 0.0
        self._folder_changed_at: int | None = None
        self._untold_since: float | None = None
        self._sandboxes = NetnsDiscovery(self._sandbox_found, said=start_gate.waiting)
        containers.follow(Heard(self._heard, self._announced, self._connected, self._begun, self._told_to_stop))
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
            hints = self._wake.wait(max(0.0, min(self._due_at(), self._glance_at) - time.monotonic()))
            now = time.monotonic()
            containers = {name for kind, name in hints if kind == "container"}
            containers |= {name for name, unread in self._unread.items() if unread.again_at <= now}
            try:
                missed = self._has_missed_events(now)
                if ("resync", "") in hints or now >= self._resync_at or missed:
                    found = self._list()
                    if missed and found:
                        log.warning("container events missing, listed", container=", ".join(found))
                elif containers:
                    self._look(containers)
            except LinkwireError as error:
                log.warning("containers not read, retrying", error=str(error))
                self._try_later()
            except Exception:
                # Whatever it is: a node that does not see its containers any more, and does not say so, is worse.
                log.exception("container watch crashed, retrying")
                self._try_later()

    def _try_later(self) -> None:
        """List all soon, and ask for no container before that."""
        self._resync_at = time.monotonic() + RETRY_S
        for unread in self._unread.values():
            unread.again_at = max(unread.again_at, self._resync_at)

    def _due_at(self) -> float:
        return min([self._resync_at, *(unread.again_at for unread in self._unread.values())])

    def _has_missed_events(self, now: float) -> bool:
        """Tell whether namespaces came or went, and no event has told of it since."""
        if now < self._glance_at:
            return False
        self._glance_at = now + GLANCE_S
        before = self._folder_changed_at
        try:
            self._folder_changed_at = changed_at = netns_discovery.FOLDER.stat().st_mtime_ns
        except OSError:  # Docker has made none yet
            return False
        if before not in (None, changed_at):
            self._untold_since = now - min(max(time.time() - changed_at / 1e9, 0.0), GLANCE_S)
        if self._untold_since is None or self._heard_at >= self._untold_since:
            self._untold_since = None
            return False
        if now < self._untold_since + QUIET_S:
            return False
        self._untold_since = None
        return True

    def _list(self) -> list[str]:
        """List all containers; return those that nobody has told of."""
        with self._lock:
            before = self._tasks.keys() | self._starting.keys()
        exits = self._read_exits()
        seen = self._containers.all()
        asked = start_gate.waiting()
        with self._lock:
            self._exits = exits
            for container, path in asked.items():
                # No guess; and nobody else tells it of what began to start before this agent.
                self._starting[container].netns, self._starting[container].is_guess = path, False
            self._tasks = {container: self._merged(local) for container, local in seen.items()}
            # Containers that are no tasks have namespaces too, and what is found of them is nobody's; but what came
            # to be known since the list was asked for may be that of a task which is not in it yet.
            for container in before - seen.keys():
                self._starting.pop(container, None)
                self._unread.pop(container, None)
            self._stopping &= seen.keys()
            self._lists += 1
        self._resync_at = time.monotonic() + RESYNC_S
        self._changed()
        return sorted(container[:12] for container in seen.keys() - before)

    def _read_exits(self) -> tuple[Exit, ...]:
        """Read the bridges, which hardly change: where Docker does not tell now, they are as before."""
        try:
            return self._containers.exits()
        except LinkwireError as error:
            if not self._lists:
                raise
            log.warning("node bridges not read", error=str(error))
            return self._exits

    def _look(self, containers: set[str]) -> None:
        seen = self._containers.some(containers)
        with self._lock:
            for container in containers:
                local = seen.get(container)
                if local is None:
                    self._tasks.pop(container, None)
                    self._unread.pop(container, None)
                    self._forget(container)
                else:
                    self._tasks[container] = self._merged(local)
        self._changed()

    def _merged(self, local: LocalTask) -> LocalTask:
        """Return a container as Docker describes it, or where it does not, as it was known; it is asked for again."""
        if not local.unread:
            self._unread.pop(local.container, None)
            return self._completed(local)
        unread = self._unread[local.container]
        unread.again_at = time.monotonic() + unread.backoff.after_failure()
        if unread.why != local.unread:
            unread.why = local.unread
            log.warning("container not read, retrying", container=local.container[:12], error=local.unread)
        known = self._tasks.get(local.container)
        if known is not None and known.netns is not None and known.state != "gone":
            return known
        return self._completed(local)

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

    def _announced(self, container: str) -> None:
        self._heard_at = time.monotonic()
        self._sandboxes.announce(container)

    def _begun(self, container: str) -> None:
        self._heard_at = time.monotonic()
        self._sandboxes.forget(container)

    def _heard(self, container: str) -> None:
        self._heard_at = time.monotonic()
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
