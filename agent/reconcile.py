"""One task's interface: reads it, applies a diff, reads it back.

Every function can be killed between any two lines and converges when called again.
"""

from __future__ import annotations

import time

import structlog

from agent import links, names
from agent.diff import Changes, diff
from agent.netns import TaskNetns
from agent.wireguard import Backend
from mesh.errors import DeviceNotFound, Retryable
from mesh.wgtypes import Interface, InterfaceConfig

log = structlog.get_logger(__name__)


def observe(backend: Backend, netns: TaskNetns, name: str) -> Interface | None:
    """What is there under this name; None for no device. Raises NetnsGone, Retryable."""
    link = links.observe(netns, name)
    if link is None:
        return None
    try:
        device = backend.read(netns, name)
    except DeviceNotFound:
        return None
    return Interface(device, link.up, link.mtu, link.addresses, link.routes)


def reconcile(
    backend: Backend,
    netns: TaskNetns,
    hosts: str,
    desired: InterfaceConfig,
    previous: InterfaceConfig | None,
    *,
    complete: bool,
) -> tuple[Changes, Interface]:
    """Make the interface what it is meant to be, and read back that it is.

    Args:
        backend: how devices are made here.
        netns: the task's.
        hosts: path of the task's hosts file.
        desired: what is meant.
        previous: what was applied last, as far as is known.
        complete: whether `desired` rests on everything; if not, nothing is removed.

    Returns:
        What was changed, and what was read back.

    Raises:
        NetnsGone: the task is over.
        Retryable: it did not work this time, or does not read back as it was set.
        Terminal: it cannot work until something else changes (PortTaken, RouteClash).
    """
    changes = _diff(backend, netns, hosts, desired, previous, complete=complete)[0]
    if changes:
        _apply(backend, netns, hosts, desired.name, changes)
    left, observed = _diff(backend, netns, hosts, desired, desired, complete=complete)
    if left or observed is None:
        raise Retryable(f"does not read back as it was set: {', '.join(left.reasons)}")
    return changes, observed


def remove(backend: Backend, netns: TaskNetns, hosts: str | None, keep: str | None = None) -> tuple[str, ...]:
    """Take every device of ours out of a task's namespace but `keep`, and the names with them.

    Returns:
        The names of the devices that were there. Raises as `reconcile`.
    """
    surplus = tuple(name for name in backend.found(netns) if name != keep)
    for name in surplus:
        backend.delete(netns, name)
    if keep is None and hosts is not None:
        names.write(hosts, ())
    return surplus


def _diff(
    backend: Backend,
    netns: TaskNetns,
    hosts: str,
    desired: InterfaceConfig,
    previous: InterfaceConfig | None,
    *,
    complete: bool,
) -> tuple[Changes, Interface | None]:
    observed = observe(backend, netns, desired.name)
    return diff(desired, observed, names.read(hosts), previous, time.time(), complete=complete), observed


def _apply(backend: Backend, netns: TaskNetns, hosts: str, name: str, changes: Changes) -> None:
    if changes.create:
        backend.create(netns, name)
    if changes.device is not None:
        backend.apply(netns, name, changes.device)
    if changes.mtu is not None:
        links.set_mtu(netns, name, changes.mtu)
    for address in changes.remove_addresses:
        links.remove_address(netns, name, address)
    for address in changes.add_addresses:
        links.add_address(netns, name, address)
    if changes.up:
        links.set_up(netns, name)
    for route in changes.remove_routes:
        links.remove_route(netns, name, route)
    for route in changes.add_routes:
        links.add_route(netns, name, route)
    if changes.hosts is not None:
        names.write(hosts, changes.hosts)
