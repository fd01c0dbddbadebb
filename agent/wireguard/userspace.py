"""Userspace backend: wireguard-go, one process a device, for nodes whose kernel has no WireGuard.

The process is started in the node's namespace, where its UDP socket stays, and its TUN device is moved into the
task's. It is a session of its own and outlives the agent; the next agent finds it by its control socket. It ends
when its device does.
"""

from __future__ import annotations

import errno
import os
import select
import shutil
import signal
import socket
import stat
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from agent.errors import PortTakenError
from agent.linux import interfaces
from agent.linux.netlink_socket import explained
from agent.linux.netns import OWN_NETNS, TaskNetns
from agent.wireguard import uapi
from mesh.errors import DeviceNotFoundError, LinkwireError, NetnsGoneError, Retryable, Terminal

if TYPE_CHECKING:
    from collections.abc import Callable

    from mesh.crypto.keys import PublicKey
    from mesh.topology.wgtypes import Device, DeviceChange

PROGRAM = "wireguard-go"
_KIND = "tun"
_TUN = Path("/dev/net/tun")
_TUN_NUMBER = os.makedev(10, 200)  # Linux, Documentation/admin-guide/devices.txt
_MTU_AT_HOME = 1420  # wireguard-go, device/tun.go, DefaultMTU
_PADDED_TO = 16  # bytes; WireGuard paper, section 5.4.6
_START_SECONDS = 5.0
_POLL_SECONDS = 0.002
_END_SECONDS = 2.0
_DEAF_SECONDS = 4.0
"""It opens its socket within milliseconds, or at its next look at the device's state, once a second
(tun_linux.go, routineHackListener)."""


class UserspaceBackend:
    """The Backend of a node that has wireguard-go and /dev/net/tun.

    Args:
        home: the namespace in which the devices' UDP sockets are to be.
    """

    name = "userspace"

    def __init__(self, home: str = OWN_NETNS) -> None:
        self._home = TaskNetns(home)
        self._lock = threading.Lock()
        self._children: list[subprocess.Popen[bytes]] = []
        self._deaf_since: dict[str, float] = {}

    def largest(self, room: int) -> int:
        """See Backend. It takes its device's MTU for what it was at home, once the device is in another namespace.

        What is longer is padded as if it were several packets of that length, each but the last a full one
        (wireguard-go, device/send.go, calculatePaddingSize).
        """
        last = room % _MTU_AT_HOME
        return room - last + last // _PADDED_TO * _PADDED_TO

    def prepare(self, name: str) -> None:
        """See Backend. Starting the process is most of the time that `create` takes."""
        if uapi.process(name) is None:
            self._start(name)

    def discard(self, name: str) -> None:
        """See Backend."""
        self._end(name)

    def served(self) -> tuple[str, ...]:
        """See Backend."""
        self._reap()
        return uapi.served()

    def create(self, netns: TaskNetns, name: str) -> None:
        """See Backend."""
        there = interfaces.kind(netns, name)
        served = uapi.process(name) is not None
        if there == _KIND and served:
            return
        if there is not None:
            raise Terminal(f"cannot create {name}: the task has a device of that name that is not wireguard-go's")
        if not served:
            self._start(name)
        try:
            interfaces.move(self._home, netns, name)
        except DeviceNotFoundError as error:
            raise Retryable(
                f"cannot create {name}: its wireguard-go has its device elsewhere, or is ending"
            ) from error
        except BaseException:
            self._end(name)
            raise

    def make(
        self,
        netns: TaskNetns,
        name: str,
        change: DeviceChange,
        ready: Callable[[], object],
        placed: Callable[[], object],
    ) -> None:
        """See Backend. The process is told while the kernel moves its device: that waits for who else moves one."""
        if uapi.process(name) is None:
            self.create(netns, name)
            placed()
            ready()
            self.apply(netns, name, change)
            return

        def tell() -> None:
            ready()
            self._set(name, change)

        with ThreadPoolExecutor(1) as beside:
            told = beside.submit(tell)
            try:
                interfaces.move(self._home, netns, name)
            except NetnsGoneError:
                raise
            except LinkwireError:
                self.create(netns, name)  # it is there already; or this says what is in the way
            placed()
            told.result()

    def read(self, netns: TaskNetns, name: str) -> Device:
        """See Backend."""
        self._reap()
        up = interfaces.is_up(netns, name)
        if up is None:
            raise DeviceNotFoundError(f"there is no device {name} in {netns.path}")
        device = uapi.get(name, netns.own(uapi.Decoders)[name])
        self._check_hearing(name, device.listen_port, up=up)
        return device

    def apply(self, netns: TaskNetns, name: str, change: DeviceChange) -> None:
        """See Backend."""
        if interfaces.kind(netns, name) != _KIND:
            raise DeviceNotFoundError(f"there is no device {name} in {netns.path}")
        self._set(name, change)

    def _set(self, name: str, change: DeviceChange) -> None:
        if port := change.listen_port:
            pid = uapi.process(name)
            if pid and _hears(pid, port):
                # It would close its socket and open it again, and lose what arrives in between.
                change = replace(change, listen_port=None)
            else:
                self._check_port(name, port)
        uapi.set_device(name, change)

    def delete(self, netns: TaskNetns, name: str) -> None:
        """See Backend."""
        netns.check()
        netns.own(uapi.Decoders).pop(name, None)
        for place in (netns, self._home):  # at home when the agent died between start and move
            if interfaces.kind(place, name) == _KIND:
                self._end(name)
                interfaces.delete(place, name)
        self._reap()

    def take_back(self, netns: TaskNetns, name: str, key: PublicKey) -> bool:
        """See Backend. Its process goes by the name that it was made with, and its device ends with it."""
        del netns, key
        is_there = uapi.process(name) is not None
        self._end(name)
        return is_there

    def found(self, netns: TaskNetns) -> tuple[str, ...]:
        """See Backend."""
        self._reap()
        return tuple(name for name in interfaces.found(netns, _KIND) if uapi.process(name) is not None)

    def close(self) -> None:
        """See Backend."""
        self._home.close()
        self._reap()

    def _start(self, name: str) -> None:
        """Start a wireguard-go and wait until it answers; its device is there by then."""
        # Nobody answers at it; and one that a killed process left would not be in our way, only in our tests'.
        with explained(f"start {PROGRAM} for {name}"):
            uapi.socket_path(name).unlink(missing_ok=True)
            child = self._home.run(lambda: _spawn(name))
        with self._lock:
            self._children.append(child)
        deadline = time.monotonic() + _START_SECONDS
        while uapi.process(name) is None:
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

    def _end(self, name: str) -> None:
        """End the process that serves a device, and with it the device."""
        pid = uapi.process(name)
        with explained(f"end the {PROGRAM} of {name}"):
            with suppress(ProcessLookupError):
                if pid:
                    _end_process(pid, name)
            if uapi.process(name) is None:
                uapi.socket_path(name).unlink(missing_ok=True)
        self._reap()

    def _reap(self) -> None:
        with self._lock:
            self._children = [child for child in self._children if child.poll() is None]

    def _check_port(self, name: str, port: int) -> None:
        """Raise PortTakenError before wireguard-go hears of a taken port: it would first close the port it has."""
        try:
            self._home.run(lambda: _bind_once(port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortTakenError(f"cannot set {name}: UDP port {port} is in use on the node") from error
            raise Terminal(f"cannot open UDP port {port} on the node: {error.strerror}") from error

    def _check_hearing(self, name: str, port: int, *, up: bool) -> None:
        """End a wireguard-go that is up and has no UDP socket, so that it is made anew.

        When it cannot open a port it has closed the old one already, and does not try again by itself.
        """
        pid = uapi.process(name)
        if pid is None or not up or _hears(pid, port):
            self._deaf_since.pop(name, None)
            return
        if time.monotonic() - self._deaf_since.setdefault(name, time.monotonic()) > _DEAF_SECONDS:
            del self._deaf_since[name]
            self._end(name)
            raise DeviceNotFoundError(f"the wireguard-go of {name} could not open UDP port {port} and was ended")


def require() -> None:
    """Make sure that wireguard-go can run here.

    Raises:
        Terminal: it cannot; the text says what to do.
    """
    needed = "this kernel has no WireGuard (Linux 5.6, or the wireguard module), so wireguard-go is needed"
    if shutil.which(PROGRAM) is None:
        raise Terminal(f"{needed}, but it is not installed: on Debian, apt-get install {PROGRAM}")
    try:
        if not _TUN.exists():
            _TUN.parent.mkdir(parents=True, exist_ok=True)
            os.mknod(_TUN, stat.S_IFCHR | 0o600, _TUN_NUMBER)
        os.close(os.open(_TUN, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise Terminal(
            f"{needed}, but {_TUN} cannot be used: {error.strerror} (modprobe tun, on the node)"
        ) from error


def _spawn(name: str) -> subprocess.Popen[bytes]:
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
        if uapi.process(name) != pid:  # the number may have become another's before the handle was taken
            return
        ended = select.poll()
        ended.register(handle, select.POLLIN)
        signal.pidfd_send_signal(handle, signal.SIGTERM)
        if not ended.poll(_END_SECONDS * 1000):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            ended.poll(_END_SECONDS * 1000)
    finally:
        os.close(handle)


def _hears(pid: int, port: int) -> bool:
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


def _bind_once(port: int) -> None:
    """Open a UDP port as wireguard-go does, and close it. Raises OSError."""
    for family, everywhere in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):  # noqa: S104 - as it does
        try:
            probe = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        except OSError as error:
            if error.errno == errno.EAFNOSUPPORT:
                continue
            raise
        with probe:
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((everywhere, port))
