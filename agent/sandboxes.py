"""Finds a container's network namespace while Docker is still starting it.

Docker answers no question about a container that it is starting: an inspect waits for its lock and comes back after
the process has begun. But it connects the container to its networks first, and says so in an event; what it connects
has a MAC address, which the network can be asked for. The namespace, which appears some 100 ms before the process
begins, is the one that has a device with that address. What is found so is a guess until Docker confirms it.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from agent import links
from agent.netns import TaskNetns
from mesh.errors import LinkwireError, NetnsGone

log = structlog.get_logger(__name__)

FOLDER = Path("/run/docker/netns")
LOOK_S = 0.005
GIVE_UP_S = 60.0
_CONTAINERS = re.compile(r"[0-9a-f]{12}")
"""Names of containers' namespaces; those of overlay networks and of their load balancers look different."""


class Sandboxes:
    """Looks for the namespaces of containers that are about to start, for as long as there are any."""

    def __init__(self, found: Callable[[str], None], folder: Path = FOLDER) -> None:
        """Start the thread; `found(container)` is called from it."""
        self._found = found
        self._folder = folder
        self._lock = threading.Lock()
        self._expected: dict[str, tuple[str, float]] = {}
        self._paths: dict[str, str] = {}
        self._others: set[tuple[str, int]] = set()
        self._awake = threading.Event()
        threading.Thread(target=self._run, name="sandboxes", daemon=True).start()

    def expect(self, container: str, mac: str) -> None:
        """A container was connected to a network, with this MAC address, and will start."""
        with self._lock:
            self._expected[container] = (mac.lower(), time.monotonic() + GIVE_UP_S)
        self._awake.set()

    def path(self, container: str) -> str | None:
        """The namespace that was found for a container, or None."""
        return self._paths.get(container)

    def forget(self, container: str) -> None:
        """The container has started, or gone: Docker can be asked."""
        with self._lock:
            self._expected.pop(container, None)
            self._paths.pop(container, None)

    def _run(self) -> None:
        while True:
            if not self._expected:
                self._awake.wait()
                self._awake.clear()
            try:
                self._look()
            except OSError as error:
                log.warning("namespaces cannot be listed", folder=str(self._folder), error=str(error))
            time.sleep(LOOK_S)

    def _look(self) -> None:
        now = time.monotonic()
        with self._lock:
            self._expected = {name: (mac, end) for name, (mac, end) in self._expected.items() if now < end}
            expected = dict(self._expected)
        owners: dict[str, list[str]] = {}
        for container, (mac, _) in expected.items():
            owners.setdefault(mac, []).append(container)
        for path in self._folder.iterdir():
            if _CONTAINERS.fullmatch(path.name):
                self._match(path, owners)

    def _match(self, path: Path, owners: dict[str, list[str]]) -> None:
        """See whose namespace this is. One that has devices, but none that is expected, is not looked at again."""
        try:
            identity = (path.name, path.stat().st_ino)
            if identity in self._others:
                return
            with TaskNetns(str(path)) as netns:
                macs = links.hardware_addresses(netns)
        except (NetnsGone, FileNotFoundError):
            return
        except LinkwireError:
            return  # made, but not yet mounted
        if not macs:
            return  # made, but nothing moved in yet
        mine = [container for mac in macs for container in owners.get(mac, ())]
        if len(mine) == 1:
            with self._lock:
                if self._expected.pop(mine[0], None) is None:
                    return
                self._paths[mine[0]] = str(path)
            self._found(mine[0])
        elif not mine:
            self._others = {other for other in self._others if (self._folder / other[0]).exists()} | {identity}
