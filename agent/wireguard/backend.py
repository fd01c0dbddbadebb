"""WireGuard backends: the protocol they share, and the choice of one for this node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from agent.errors import PortTakenError
from agent.linux.netns import OWN_NETNS
from agent.wireguard import kernel, userspace

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.holder.processes import Processes
    from agent.linux.netns import TaskNetns
    from mesh.crypto.keys import PublicKey
    from mesh.topology.wgtypes import Device, DeviceChange

__all__ = ["USERSPACE", "Backend", "PortTakenError", "probe"]

USERSPACE = userspace.UserspaceBackend.name


class Backend(Protocol):
    """Makes, reads, changes and deletes the WireGuard devices of a node's tasks.

    Every call may raise NetnsGoneError, Retryable and Terminal besides what it names.
    """

    @property
    def name(self) -> str:
        """How it is reported: "kernel" or "userspace"."""

    def largest(self, room: int) -> int:
        """Return the largest MTU, in bytes, at which no packet is padded to more than `room`."""

    def prepare(self, name: str) -> None:
        """Do the part of `create` that needs no namespace of the task. `discard` undoes it."""

    def discard(self, name: str) -> None:
        """End what serves a device without asking for its namespace: nobody waits for it, or its task has ended."""

    def served(self) -> tuple[str, ...]:
        """Return the names of all devices that something on the node serves, prepared or placed, whoever made them.

        None where the kernel does: there a device ends with its namespace, and nothing is prepared.
        """

    def create(self, netns: TaskNetns, name: str) -> None:
        """Make a device in a task's namespace whose UDP socket is in the node's; one that is there is kept.

        It has no key, no port, no address, and is down. Its name must be unique on the node.
        """

    def make(
        self,
        netns: TaskNetns,
        name: str,
        change: DeviceChange,
        ready: Callable[[], object],
        placed: Callable[[], object],
    ) -> None:
        """`create` a device that is not there, and `apply` a change to it: its key, its port and its peers.

        Args:
            netns: the task's.
            name: of the device.
            change: as in `apply`.
            ready: returns when the device may have peers. What it raises is raised.
            placed: called once the device is in the namespace, down; the rules may still be awaited then.
        """

    def read(self, netns: TaskNetns, name: str) -> Device:
        """Read a device. Raises DeviceNotFoundError."""

    def apply(self, netns: TaskNetns, name: str, change: DeviceChange) -> None:
        """Change a device, in the order key, port, peers; a failure may leave a part done.

        Raises:
            DeviceNotFoundError: there is no such device.
            PortTakenError: its port is in use on the node, and it keeps the port it had. The kernel says so of a
                device that is down only when it is brought up (links.set_up).
        """

    def delete(self, netns: TaskNetns, name: str) -> None:
        """Delete a device if it is there, and whatever served it."""

    def take_back(self, netns: TaskNetns, name: str, key: PublicKey) -> bool:
        """Delete a device with its key from a namespace that proved to be another's, whatever it is called there.

        Args:
            netns: the namespace.
            name: the name that the device was made with.
            key: of the device, public.

        Returns:
            Whether it was there.
        """

    def found(self, netns: TaskNetns) -> tuple[str, ...]:
        """List this backend's devices in a namespace, whoever made them: for adoption after a restart."""

    def close(self) -> None:
        """Release what the backend itself keeps open. The devices stay."""


def probe(home: str = OWN_NETNS, processes: Processes | None = None) -> Backend:
    """Choose this node's backend: the kernel's where it has WireGuard, else wireguard-go.

    Args:
        home: the namespace in which the devices' UDP sockets are to be.
        processes: of wireguard-go; children of this one, if not given.

    Raises:
        Terminal: neither can be had; the text says what to do.
    """
    if kernel.available():
        return kernel.KernelBackend(home)
    userspace.require()
    return userspace.UserspaceBackend(home, processes)
