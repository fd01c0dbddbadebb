"""Discovery of a container's network namespace while Docker is still starting it.

Docker answers no question about a container that it is starting: an inspect waits for its lock and comes back after
the process has begun. But it connects the container to its networks first, and says so in an event; what it connects
has a MAC address, which the network can be asked for. The namespace, which appears some 100 ms before the process
begins, is the one that has a device with that address. The result is a guess until Docker confirms it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from agent.linux.netns import TaskNetns
from mesh.errors import LinkwireError

log = structlog.get_logger(__name__)

FOLDER = Path("/run/docker/netns")
LOOK_S = 0.003
GIVE_UP_S = 60.0
YOUNG_S = 5.0
"""A namespace that is older has its devices' addresses by now: whose it is, is known or does not matter."""
_SIOCGIFHWADDR = 0x8927  # linux/sockios.h
_IFREQ = struct.Struct("16s2x22s")  # linux/if.h, struct ifreq with a struct sockaddr: its address follows 2 bytes
_MAC_BYTES = 6
_HEAD_LINES = 2  # of /proc/net/dev, net/core/net-procfs.c
_MOST_BYTES = 1 << 16
_CONTAINERS = re.compile(r"[0-9a-f]{12}")
"""Names of containers' namespaces; those of overlay networks and of their load balancers look different."""


@dataclass(frozen=True, slots=True)
class _Expected:
    """A container that is about to start: its MAC address, and when to give up."""

    mac: str
    until: float


class NetnsDevices:
    """Devices of a namespace, listed without the kernel's lock of all devices (rtnl).

    Docker holds that lock while it moves a device: a netlink request waits up to 20 ms for it, and Docker for us.

    Args:
        path: of the namespace.

    Raises:
        NetnsGoneError, Retryable, Terminal: as `TaskNetns`.
        OSError: no socket can be opened in it.
    """

    def __init__(self, path: str) -> None:
        with TaskNetns(path) as netns:
            self._names, self._socket = netns.run(_opened)

    def addresses(self) -> frozenset[str]:
        """List their MAC addresses, but for the loopback's. Raises OSError."""
        macs = set()
        for line in os.pread(self._names, _MOST_BYTES, 0).decode().splitlines()[_HEAD_LINES:]:
            name = line.partition(":")[0].strip()
            with contextlib.suppress(OSError):  # it has another name by now
                answer = fcntl.ioctl(self._socket, _SIOCGIFHWADDR, _IFREQ.pack(name.encode(), b""))
                macs.add(_IFREQ.unpack(answer)[1][:_MAC_BYTES].hex(":"))
        return frozenset(macs) - {bytes(_MAC_BYTES).hex(":")}

    def close(self) -> None:
        """Let go of the namespace."""
        os.close(self._names)
        self._socket.close()


def _opened() -> tuple[int, socket.socket]:
    """Return the list of devices of this thread's namespace, and a socket in it."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        return os.open("/proc/thread-self/net/dev", os.O_RDONLY | os.O_CLOEXEC), made
    except OSError:
        made.close()
        raise


class NetnsDiscovery:
    """Search for the namespaces of containers that are about to start, for as long as there are any."""

    def __init__(self, found: Callable[[str, str], None], folder: Path = FOLDER) -> None:
        """Start the thread; `found(container, path)` is called from it."""
        self._found = found
        self._folder = folder
        self._lock = threading.Lock()
        self._expected: dict[str, _Expected] = {}
        self._open: dict[str, NetnsDevices] = {}
        self._first_seen = dict.fromkeys(self._names(), -YOUNG_S)
        self._awake = threading.Event()
        threading.Thread(target=self._run, name="sandboxes", daemon=True).start()

    def expect(self, container: str, mac: str) -> None:
        """Search for a container that was connected to a network with this MAC address."""
        expected = _Expected(mac.lower(), time.monotonic() + GIVE_UP_S)
        log.debug("namespace expected", container=container[:12])
        with self._lock:
            self._expected.setdefault(container, expected)
        self._awake.set()

    def forget(self, container: str) -> None:
        """Search no longer for a container that has started or gone: Docker can be asked."""
        with self._lock:
            self._expected.pop(container, None)

    def _names(self) -> list[str]:
        try:
            return [path.name for path in self._folder.iterdir() if _CONTAINERS.fullmatch(path.name)]
        except OSError as error:
            log.warning("namespaces not listed", file=str(self._folder), error=str(error))
            return []

    def _run(self) -> None:
        while True:
            if not self._expected and not self._open:
                self._awake.wait()
                self._awake.clear()
            try:
                self._look()
            except Exception:
                # Whatever it is: tasks are still wired when Docker names their namespaces, only later.
                log.exception("namespace search crashed")
                time.sleep(1.0)
            time.sleep(LOOK_S)

    def _look(self) -> None:
        now = time.monotonic()
        with self._lock:
            self._expected = {name: one for name, one in self._expected.items() if now < one.until}
            expected = {container: one.mac for container, one in self._expected.items()}
        self._first_seen = {name: self._first_seen.get(name, now) for name in self._names()}
        young = {name for name, at in self._first_seen.items() if expected and now - at < YOUNG_S}
        for name in self._open.keys() - young:
            self._open.pop(name).close()
        for name in young:
            self._match(name, expected)

    def _match(self, name: str, expected: Mapping[str, str]) -> None:
        """Match a namespace to a container. Docker gives the device its address only some time after moving it in.

        It is kept open meanwhile: opening it takes longer than asking. It is closed as soon as nobody looks.
        """
        path = str(self._folder / name)
        try:
            devices = self._open.get(name)
            if devices is None:
                devices = self._open[name] = NetnsDevices(path)
            macs = devices.addresses()
        except (LinkwireError, OSError):
            return  # made, but not yet mounted; or gone again
        mine = [container for container, mac in expected.items() if mac in macs]
        if len(mine) != 1:
            return
        with self._lock:
            if self._expected.pop(mine[0], None) is None:
                return
        log.debug("namespace found", container=mine[0][:12], namespace=path)
        self._first_seen[name] = -YOUNG_S
        self._open.pop(name).close()
        self._found(mine[0], path)
