"""Kernel backend: WireGuard devices made by rtnetlink, set and read by generic netlink."""

from __future__ import annotations

import errno
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from agent.linux import interfaces
from agent.linux.netlink_socket import NETLINK_GENERIC, explained
from agent.linux.netns import OWN_NETNS, TaskNetns, in_scratch_netns
from agent.wireguard import genetlink
from mesh.errors import DeviceNotFoundError, Terminal

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.linux.netlink_socket import NetlinkSocket
    from mesh.crypto.keys import PublicKey
    from mesh.topology.wgtypes import Device, DeviceChange

_KIND = "wireguard"


class KernelBackend:
    """The Backend of a kernel with WireGuard (Linux 5.6, or the module).

    Args:
        home: the namespace in which the devices' UDP sockets are to be.
    """

    name = "kernel"

    def __init__(self, home: str = OWN_NETNS) -> None:
        self._home = TaskNetns(home)
        self._family: int | None = None

    def largest(self, room: int) -> int:
        """See Backend. It pads to no more than the MTU (drivers/net/wireguard/send.c, calculate_skb_padding)."""
        return room

    def prepare(self, name: str) -> None:
        """See Backend. Creating is one message: there is nothing to gain."""

    def discard(self, name: str) -> None:
        """See Backend."""

    def served(self) -> tuple[str, ...]:
        """See Backend."""
        return ()

    def create(self, netns: TaskNetns, name: str) -> None:
        """See Backend."""
        if interfaces.kind(netns, name) == _KIND or interfaces.create_wireguard(self._home, netns, name):
            return
        there = interfaces.kind(netns, name)
        if there is None:
            raise Terminal(f"cannot create {name}: the node itself has a device of that name")
        if there != _KIND:
            raise Terminal(f"cannot create {name}: the task has a device of that name that is not WireGuard's")

    def make(
        self,
        netns: TaskNetns,
        name: str,
        change: DeviceChange,
        ready: Callable[[], object],
        placed: Callable[[], object],
    ) -> None:
        """See Backend."""
        self.create(netns, name)
        placed()
        ready()
        self.apply(netns, name, change)

    def read(self, netns: TaskNetns, name: str) -> Device:
        """See Backend."""
        request = genetlink.encode_get(name)
        with explained(f"read {name}"):
            try:
                answer = _socket(netns).dump(self._family_number(netns), request)
            except OSError as error:
                if error.errno == errno.EOPNOTSUPP:
                    raise DeviceNotFoundError(f"{name} is not a WireGuard device") from error
                raise
        decoder = netns.own(genetlink.Decoders)[name]
        return decoder.decode(name, (message.payload for message in answer))

    def apply(self, netns: TaskNetns, name: str, change: DeviceChange) -> None:
        """See Backend."""
        with explained(f"set {name}"):
            for request in genetlink.encode_set(name, change):
                _socket(netns).request(self._family_number(netns), request)

    def delete(self, netns: TaskNetns, name: str) -> None:
        """See Backend."""
        netns.own(genetlink.Decoders).pop(name, None)
        if interfaces.kind(netns, name) == _KIND:
            interfaces.delete(netns, name)

    def take_back(self, netns: TaskNetns, name: str, key: PublicKey) -> bool:
        """See Backend."""
        is_there = False
        for there in interfaces.of_kind(netns, _KIND):
            with suppress(DeviceNotFoundError):  # it was renamed just now
                if there == name or self.read(netns, there).public_key == key:
                    interfaces.delete(netns, there)
                    is_there = True
        return is_there

    def found(self, netns: TaskNetns) -> tuple[str, ...]:
        """See Backend."""
        return interfaces.found(netns, _KIND)

    def close(self) -> None:
        """See Backend."""
        self._home.close()

    def _family_number(self, netns: TaskNetns) -> int:
        """Return the number: the kernel's choice, the same in all namespaces for as long as the module is loaded."""
        if self._family is None:
            answer = _socket(netns).request(genetlink.GENL_ID_CTRL, genetlink.encode_family_request())
            self._family = genetlink.decode_family(answer[0].payload)
        return self._family


def available() -> bool:
    """Tell whether this kernel makes WireGuard devices: tries one, in a namespace that ends with the try.

    Raises:
        Terminal: the agent may not find out.
    """
    return in_scratch_netns(_make_one)


def _make_one() -> bool:
    # /proc/self would be the main thread's namespace, /proc/thread-self another one in each thread.
    with TaskNetns(f"/proc/self/task/{threading.get_native_id()}/ns/net") as scratch:
        try:
            return interfaces.create_wireguard(scratch, scratch, "lwprobe")
        except Terminal as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EOPNOTSUPP:
                return False
            raise


def _socket(netns: TaskNetns) -> NetlinkSocket:
    return netns.socket(NETLINK_GENERIC)
