"""wireguard-go's processes, one a device: started, ended, and asked about their UDP socket.

The process is started in the node's namespace, where its UDP socket stays, and its TUN device is moved into the
task's. It is a session of its own, and ends when its device does.
"""

from __future__ import annotations

import os
import select
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from agent.holder import sockets
from agent.linux.netlink_socket import explained
from mesh.errors import Retryable, Terminal

PROGRAM = "wireguard-go"
TUN = Path("/dev/net/tun")
_TUN_NUMBER = os.makedev(10, 200)  # Linux, Documentation/admin-guide/devices.txt
_START_SECONDS = 5.0
_POLL_SECONDS = 0.002
_END_SECONDS = 2.0

Child = subprocess.Popen[bytes]


class Processes(Protocol):
    """The wireguard-go processes of a node, by the names of their devices. All calls raise Retryable, Terminal."""

    @property
    def folder(self) -> Path:
        """Folder of their control sockets."""

    def start(self, name: str) -> None:
        """Start one where none serves the device, and wait until it answers; its device is there by then."""

    def end(self, name: str) -> None:
        """End the one that serves a device, and with it the device."""

    def hears(self, name: str, port: int) -> bool:
        """Tell whether one has its UDP socket of IPv4 bound to a port."""

    def reap(self) -> None:
        """Let the kernel forget those that have ended."""

    def close(self) -> None:
        """Release what is kept open here. The processes stay."""


class OwnProcesses:
    """Processes that are children of this one, or were of an earlier one beside the same control sockets.

    Args:
        at_home: calls a function in the namespace in which the UDP sockets are to be; this one's, if not given.
    """

    folder = sockets.SOCKETS

    def __init__(self, at_home: Callable[[Callable[[], Child]], Child] = lambda spawn: spawn()) -> None:
        self._at_home = at_home
        self._lock = threading.Lock()
        self._children: list[Child] = []

    def start(self, name: str) -> None:
        """See Processes."""
        if sockets.process(name) is not None:
            return
        # Nobody answers at it; and one that a killed process left would not be in our way, only in our tests'.
        with explained(f"start {PROGRAM} for {name}"):
            sockets.socket_path(name).unlink(missing_ok=True)
            child = self._at_home(lambda: _spawn(name))
        with self._lock:
            self._children.append(child)
        deadline = time.monotonic() + _START_SECONDS
        while sockets.process(name) is None:
            if child.poll() is not None:
                raise Terminal(
                    f"{PROGRAM} for {name} ended at once with exit code {child.returncode}: "
                    f"LOG_LEVEL=debug {PROGRAM} -f {name} says why (of many on a node, each takes one of "
                    f"fs.inotify.max_user_instances)"
                )
            if time.monotonic() > deadline:
                child.kill()
                child.wait()
                raise Retryable(f"{PROGRAM} for {name} was not ready within {_START_SECONDS:.0f} s")
            time.sleep(_POLL_SECONDS)

    def end(self, name: str) -> None:
        """See Processes."""
        pid = sockets.process(name)
        with explained(f"end the {PROGRAM} of {name}"):
            with suppress(ProcessLookupError):
                if pid:
                    _end_process(pid, name)
            if sockets.process(name) is None:
                sockets.socket_path(name).unlink(missing_ok=True)
        self.reap()

    def hears(self, name: str, port: int) -> bool:
        """See Processes."""
        pid = sockets.process(name)
        return pid is not None and hears(pid, port)

    def reap(self) -> None:
        """See Processes."""
        with self._lock:
            self._children = [child for child in self._children if child.poll() is None]

    def close(self) -> None:
        """See Processes."""
        self.reap()


def make_tun() -> None:
    """Make /dev/net/tun where it is not, and open it once. Raises OSError."""
    if not TUN.exists():
        TUN.parent.mkdir(parents=True, exist_ok=True)
        os.mknod(TUN, stat.S_IFCHR | 0o600, _TUN_NUMBER)
    os.close(os.open(TUN, os.O_RDWR | os.O_CLOEXEC))


def hears(pid: int, port: int) -> bool:
    """Tell whether a process has a UDP socket of IPv4 bound to a port, in the namespace it is in."""
    inodes = set()
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                inodes.add(str(entry.readlink()).removeprefix("socket:[").removesuffix("]"))
        table = Path(f"/proc/{pid}/net/udp").read_text()
    except OSError:  # it has just ended
        return False
    wanted = f":{port:04X}"
    rows = (line.split() for line in table.splitlines()[1:])
    return any(row[1].endswith(wanted) and row[9] in inodes for row in rows)


def _spawn(name: str) -> Child:
    """Start wireguard-go. Nothing secret is in its arguments or environment: keys go by the control socket."""
    return subprocess.Popen(
        [PROGRAM, "-f", name],
        cwd="/",
        env={"PATH": os.environ.get("PATH", os.defpath), "LOG_LEVEL": "error"},
        # A pipe would kill it when the agent ends, a file could fill the disk.
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _end_process(pid: int, name: str) -> None:
    """Ask a process to end, and make it. Raises ProcessLookupError when it has."""
    handle = os.pidfd_open(pid)
    try:
        if sockets.process(name) != pid:  # the number may have become another's before the handle was taken
            return
        ended = select.poll()
        ended.register(handle, select.POLLIN)
        signal.pidfd_send_signal(handle, signal.SIGTERM)
        if not ended.poll(_END_SECONDS * 1000):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            ended.poll(_END_SECONDS * 1000)
    finally:
        os.close(handle)
