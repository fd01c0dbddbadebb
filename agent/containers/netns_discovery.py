"""Discovery of a container's network namespace while Docker is still starting it.

Docker answers no question about a container that it is starting: an inspect waits for its lock and comes back after
the process has begun. But it connects the container to its networks first, and says so in an event; what it connects
has a MAC address, which the network can be asked for. The namespace, which appears some 100 ms before the process
begins, is the one that has a device with that address, if nobody else can have set it (`candidates`). The result is a
guess until Docker confirms it. On a node with the start gate the runtime says it, and that is no guess.
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
from pathlib import Path
from typing import Protocol

import structlog

from agent.containers.netns_choice import Candidates
from agent.linux.netns import TaskNetns
from mesh.errors import LinkwireError, Retryable

log = structlog.get_logger(__name__)

FOLDER = Path("/run/docker/netns")
LOOK_S = 0.003
ASK_S = 0.03
"""Seconds between two looks at what the start gate says."""
_SIOCGIFHWADDR = 0x8927  # linux/sockios.h
_IFREQ = struct.Struct("16s2x22s")  # linux/if.h, struct ifreq with a struct sockaddr: its address follows 2 bytes
_MAC_BYTES = 6
_HEAD_LINES = 2  # of /proc/net/dev, net/core/net-procfs.c
_MOST_BYTES = 1 << 16
_CONTAINERS = re.compile(r"[0-9a-f]{12}")
"""Names of containers' namespaces; those of overlay networks and of their load balancers look different."""


class Found(Protocol):
    """Takes note of the namespace of a container."""

    def __call__(self, container: str, path: str, *, is_guess: bool) -> None:
        """Note it; `is_guess` is false where the container's runtime named it."""


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

    def __init__(self, found: Found, folder: Path = FOLDER, said: Callable[[], Mapping[str, str]] = dict) -> None:
        """Start the thread, which calls the functions.

        Args:
            found: called with a container, the path of its namespace, and whether that is a guess.
            folder: Docker's, of the namespaces.
            said: returns the namespaces of containers as their runtime names them.
        """
        self._found = found
        self._said = said
        self._folder = folder
        self._lock = threading.Lock()
        self._candidates = Candidates(self._names(), time.monotonic())
        self._ruled_out: dict[str, str] = {}
        self._open: dict[str, NetnsDevices] = {}
        self._ask_at = 0.0
        self._awake = threading.Event()
        threading.Thread(target=self._run, name="sandboxes", daemon=True).start()

    def unsettle(self) -> None:
        """Note that containers may be starting that nobody announced."""
        with self._lock:
            self._candidates.unsettle(time.monotonic())

    def announce(self, container: str) -> None:
        """Search for a container that is being connected to its first network, in what appears from now on."""
        log.debug("namespace expected", container=container[:12])
        with self._lock:
            self._candidates.announce(container, self._names(), time.monotonic())
        self._awake.set()

    def expect(self, container: str, mac: str) -> None:
        """Note the MAC address of a container that was announced; "" for none."""
        with self._lock:
            self._candidates.learn(container, mac.lower())

    def forget(self, container: str) -> None:
        """Search no longer for a container that has started or gone: Docker can be asked."""
        with self._lock:
            if self._candidates.awaits(container):
                self._candidates.forget(container, self._names(), time.monotonic())

    def _names(self) -> list[str]:
        try:
            return [path.name for path in self._folder.iterdir() if _CONTAINERS.fullmatch(path.name)]
        except OSError as error:
            log.warning("namespaces not listed", file=str(self._folder), error=str(error))
            return []

    def _run(self) -> None:
        while True:
            if not self._candidates.waits and not self._open:
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
        with self._lock:
            now = time.monotonic()
            self._candidates.see(self._names(), now)
            young = self._candidates.young(now)
        for name in self._open.keys() - young:
            self._open.pop(name).close()
        looks = []
        for name in young:
            began = time.monotonic()
            if (macs := self._addresses(name)) is not None:
                looks.append((name, macs, began, time.monotonic()))
        with self._lock:
            for look in looks:
                self._candidates.look(*look)
            guessed = {container: str(self._folder / name) for container, name in self._candidates.choose(now)}
            self._log_ruled_out()
        told = self._told()
        for container, path in (*guessed.items(), *told.items()):
            log.debug("namespace found", container=container[:12], namespace=path)
            self._found(container, path, is_guess=container not in told)

    def _addresses(self, name: str) -> frozenset[str] | None:
        """Read the MAC addresses in a namespace; None where it cannot be looked at.

        Docker gives a device its address only some time after moving it in. The namespace is kept open meanwhile:
        opening it takes longer than asking. It is closed as soon as nobody looks.
        """
        try:
            devices = self._open.get(name)
            if devices is None:
                devices = self._open[name] = NetnsDevices(str(self._folder / name))
            return devices.addresses()
        except Retryable:
            return frozenset()  # made, but not yet mounted
        except (LinkwireError, OSError):
            return None

    def _told(self) -> Mapping[str, str]:
        """Return what the start gate says of containers that are looked for; they are looked for no longer."""
        now = time.monotonic()
        if now < self._ask_at:
            return {}
        self._ask_at = now + ASK_S
        said = self._said()
        with self._lock:
            told = {container: path for container, path in said.items() if self._candidates.found(container)}
            for path in told.values():
                self._candidates.take(Path(path).name)
        return told

    def _log_ruled_out(self) -> None:
        reasons = self._candidates.reasons()
        for name, reason in reasons.items() if self._candidates.waits else ():
            if name not in self._ruled_out:
                log.debug("namespace ruled out", namespace=name, reasons=reason)
        self._ruled_out = reasons
