"""Userspace backend: wireguard-go, one process a device, for nodes whose kernel has no WireGuard.

The process outlives the agent, and the next agent finds it by its control socket: `agent.holder.processes`.
"""

from __future__ import annotations

import errno
import shutil
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from agent.errors import PortTakenError
from agent.holder import sockets
from agent.holder.processes import PROGRAM, TUN, OwnProcesses, Processes, make_tun
from agent.linux import interfaces
from agent.linux.netns import OWN_NETNS, TaskNetns
from agent.wireguard import uapi
from mesh.errors import DeviceNotFoundError, LinkwireError, NetnsGoneError, Retryable, Terminal

if TYPE_CHECKING:
    from collections.abc import Callable

    from mesh.crypto.keys import PublicKey
    from mesh.topology.wgtypes import Device, DeviceChange

_KIND = "tun"
_MTU_AT_HOME = 1420  # wireguard-go, device/tun.go, DefaultMTU
_PADDED_TO = 16  # bytes; WireGuard paper, section 5.4.6
_DEAF_SECONDS = 4.0
"""It opens its socket within milliseconds, or at its next look at the device's state, once a second
(tun_linux.go, routineHackListener)."""


class UserspaceBackend:
    """The Backend of a node that has wireguard-go and /dev/net/tun.

    Args:
        home: the namespace in which the devices' UDP sockets are to be.
        processes: that serve the devices; children of this one, if not given.
    """

    name = "userspace"

    def __init__(self, home: str = OWN_NETNS, processes: Processes | None = None) -> None:
        self._home = TaskNetns(home)
        self._processes = processes or OwnProcesses(self._home.run)
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
        self._processes.start(name)

    def discard(self, name: str) -> None:
        """See Backend."""
        self._processes.end(name)

    def served(self) -> tuple[str, ...]:
        """See Backend."""
        self._processes.reap()
        return sockets.served(self._processes.folder)

    def create(self, netns: TaskNetns, name: str) -> None:
        """See Backend."""
        there = interfaces.kind(netns, name)
        served = self._is_served(name)
        if there == _KIND and served:
            return
        if there is not None:
            raise Terminal(f"cannot create {name}: the task has a device of that name that is not wireguard-go's")
        if not served:
            self._processes.start(name)
        try:
            interfaces.move(self._home, netns, name)
        except DeviceNotFoundError as error:
            raise Retryable(
                f"cannot create {name}: its wireguard-go has its device elsewhere, or is ending"
            ) from error
        except BaseException:
            self._processes.end(name)
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
        if not self._is_served(name):
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
        self._processes.reap()
        up = interfaces.is_up(netns, name)
        if up is None:
            raise DeviceNotFoundError(f"there is no device {name} in {netns.path}")
        device = uapi.get(name, netns.own(uapi.Decoders)[name], self._processes.folder)
        self._check_hearing(name, device.listen_port, up=up)
        return device

    def apply(self, netns: TaskNetns, name: str, change: DeviceChange) -> None:
        """See Backend."""
        if interfaces.kind(netns, name) != _KIND:
            raise DeviceNotFoundError(f"there is no device {name} in {netns.path}")
        self._set(name, change)

    def _set(self, name: str, change: DeviceChange) -> None:
        if port := change.listen_port:
            if self._processes.hears(name, port):
                # It would close its socket and open it again, and lose what arrives in between.
                change = replace(change, listen_port=None)
            else:
                self._check_port(name, port)
        uapi.set_device(name, change, self._processes.folder)

    def delete(self, netns: TaskNetns, name: str) -> None:
        """See Backend."""
        netns.check()
        netns.own(uapi.Decoders).pop(name, None)
        for place in (netns, self._home):  # at home when the agent died between start and move
            if interfaces.kind(place, name) == _KIND:
                self._processes.end(name)
                interfaces.delete(place, name)
        self._processes.reap()

    def take_back(self, netns: TaskNetns, name: str, key: PublicKey) -> bool:
        """See Backend. Its process goes by the name that it was made with, and its device ends with it."""
        del netns, key
        is_there = self._is_served(name)
        self._processes.end(name)
        return is_there

    def found(self, netns: TaskNetns) -> tuple[str, ...]:
        """See Backend."""
        self._processes.reap()
        return tuple(name for name in interfaces.found(netns, _KIND) if self._is_served(name))

    def close(self) -> None:
        """See Backend."""
        self._home.close()
        self._processes.close()

    def _is_served(self, name: str) -> bool:
        return sockets.process(name, self._processes.folder) is not None

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
        if not up or self._processes.hears(name, port) or not self._is_served(name):
            self._deaf_since.pop(name, None)
            return
        if time.monotonic() - self._deaf_since.setdefault(name, time.monotonic()) > _DEAF_SECONDS:
            del self._deaf_since[name]
            self._processes.end(name)
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
        make_tun()
    except OSError as error:
        raise Terminal(f"{needed}, but {TUN} cannot be used: {error.strerror} (modprobe tun, on the node)") from error


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
