"""Reconciliation of one task's interface: read it, apply a diff, read it back; or go on from the last reading.

Every function can be killed between any two lines and converges when called again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv6Interface

import structlog

from agent.firewall import nft
from agent.interface.diff import InterfaceDiff, Observed, diff, peer_changes, reasons_of, rules_around
from agent.interface.render_cache import RenderCache
from agent.linux import conntrack, hosts_file, interfaces
from agent.linux.netns import TaskNetns
from agent.wireguard.backend import Backend
from mesh.errors import DeviceNotFoundError, Retryable, Terminal
from mesh.topology.wgtypes import DeviceChange, Interface, InterfaceConfig, resolved

log = structlog.get_logger(__name__)


def observe(backend: Backend, netns: TaskNetns, name: str) -> Interface | None:
    """Read the interface of this name; None for no device. Raises NetnsGoneError, Retryable."""
    link = interfaces.observe(netns, name)
    if link is None:
        return None
    try:
        device = backend.read(netns, name)
    except DeviceNotFoundError:
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
    is_new: bool = False,
) -> tuple[InterfaceDiff, Interface]:
    """Make the interface what is desired, and read back that it is.

    Args:
        backend: how devices are made here.
        netns: the task's.
        hosts: path of the task's hosts file.
        desired: the interface to make.
        previous: what was applied last, as far as is known.
        complete: whether `desired` rests on everything; if not, nothing is removed.
        is_new: whether Docker has only just made the namespace, so that no device of ours need be looked for: each
            look waits up to 20 ms for the kernel's lock of all devices while Docker puts its own in.

    Returns:
        What was changed, and what was read back.

    Raises:
        NetnsGoneError: the task is over.
        Retryable: it did not work this time, or does not read back as it was set.
        Terminal: it cannot work until something else changes (PortTakenError, RouteClashError).
    """
    changes, observed = _diff(backend, netns, hosts, desired, previous, complete=complete, is_new=is_new)
    if not changes and observed is not None:
        return changes, observed
    _apply(backend, netns, hosts, desired, changes)
    left, observed = _diff(backend, netns, hosts, desired, desired, complete=complete)
    if left or observed is None:
        raise Retryable(f"does not read back as it was set: {', '.join(left.reasons)}")
    return changes, observed


def advance(
    backend: Backend, netns: TaskNetns, hosts: str, desired: InterfaceConfig, before: InterfaceConfig
) -> InterfaceDiff | None:
    """Make an interface that was read back as `before` what is desired, without reading device and peers.

    Rules and names are read and read back as ever, where they change. The caller has the device read soon: until then
    the kernel's word counts that it took the peers, and whatever somebody else did to the device stays.

    Args:
        backend: how devices are made here.
        netns: the task's.
        hosts: path of the task's hosts file.
        desired: the interface to make; it rests on everything, as `before` does.
        before: what was applied last, and nothing was applied since.

    Returns:
        What was changed; None where only `reconcile` can tell. It may have been done in part then.

    Raises:
        As `reconcile`, and DeviceNotFoundError.
    """
    peers = peer_changes(before, desired)
    if peers is None:
        return None
    first_rules, rules = None, None
    if desired.policy != before.policy:
        table = nft.read(netns)
        if table is None:
            return None
        first_rules, rules = rules_around(desired, table.rules, before, netns.own(RenderCache), complete=True)
    is_named = desired.hosts == before.hosts or _is_named(hosts, desired)
    new_hosts = None if is_named else desired.hosts
    changes = InterfaceDiff(
        first_rules=first_rules,
        device=DeviceChange(peers=peers) if peers else None,
        rules=rules,
        hosts=new_hosts,
        reasons=reasons_of(peers, first_rules or rules, new_hosts),
    )
    _apply(backend, netns, hosts, desired, changes)
    return changes if _reads_back(netns, hosts, desired, changes) else None


def _reads_back(netns: TaskNetns, hosts: str, desired: InterfaceConfig, changes: InterfaceDiff) -> bool:
    """Tell whether rules and names that were changed are as desired."""
    if changes.first_rules is not None or changes.rules is not None:
        table = nft.read(netns)
        if table is None or table.rules != netns.own(RenderCache).render(desired.policy, desired.name):
            return False
    return changes.hosts is None or _is_named(hosts, desired)


def _is_named(hosts: str, desired: InterfaceConfig) -> bool:
    return resolved(hosts_file.read(hosts)) == resolved(desired.hosts)


def remove(backend: Backend, netns: TaskNetns, hosts: str | None, keep: str | None = None) -> tuple[str, ...]:
    """Take every device of ours out of a task's namespace but `keep`; with none to keep, the names and rules too.

    The rules go last: as long as there is a device or a name, they hold.

    Returns:
        The names of the devices that were there. Raises as `reconcile`.
    """
    if keep is None and hosts is not None:
        hosts_file.write(hosts, ())
    surplus = tuple(name for name in backend.found(netns) if name != keep)
    for name in surplus:
        backend.delete(netns, name)
    if keep is None:
        nft.remove(netns)
    return surplus


def _diff(
    backend: Backend,
    netns: TaskNetns,
    hosts: str,
    desired: InterfaceConfig,
    previous: InterfaceConfig | None,
    *,
    complete: bool,
    is_new: bool = False,
) -> tuple[InterfaceDiff, Interface | None]:
    table = nft.read(netns)
    interface = None if is_new else observe(backend, netns, desired.name)
    seen = Observed(interface, table.rules if table else None, hosts_file.read(hosts))
    changes = diff(desired, seen, previous, time.time(), complete=complete, memo=netns.own(RenderCache))
    return changes, seen.interface


def _apply(backend: Backend, netns: TaskNetns, hosts: str, desired: InterfaceConfig, changes: InterfaceDiff) -> None:
    # The rules' program and the kernel's making of a device are each a wait, and the task's process waits for both.
    with ThreadPoolExecutor(1) as beside:
        first = None
        if changes.first_rules is not None:
            first = beside.submit(nft.apply, netns, changes.first_rules)
            if changes.rules is None:
                # Listed while the device is set. What is read back in the end is that, unless they change once more.
                beside.submit(nft.read, netns)
        # A device that was just made has no peer and is down: nothing passes it before there are rules.
        ready = first.result if first is not None else _at_once
        if changes.create:
            change = changes.device or DeviceChange()
            backend.make(netns, desired.name, change, ready, lambda: _address(netns, desired.name, changes))
        else:
            ready()
            if changes.device is not None:
                backend.apply(netns, desired.name, changes.device)
            _address(netns, desired.name, changes)
        if changes.create:
            _forget_early(netns, desired)
        _route(netns, desired.name, changes)
    if changes.rules is not None:
        nft.apply(netns, changes.rules)
    if not changes.create and (changes.first_rules is not None or changes.rules is not None):
        _forget_who_is_gone(netns, desired)
    if changes.hosts is not None:
        hosts_file.write(hosts, changes.hosts)


def _at_once() -> None:
    """There is nothing to wait for."""


def _forget_who_is_gone(netns: TaskNetns, desired: InterfaceConfig) -> None:
    """End tracked connections with addresses of the mesh that are nobody's any more."""
    living = {network.network_address for peer in desired.peers for network in peer.allowed_ips}
    living.update(address.ip for address in desired.addresses)
    _forget(netns, desired, lambda address: address not in living)


def _forget_early(netns: TaskNetns, desired: InterfaceConfig) -> None:
    """End tracked connections that were begun before there was a device, so that their next packet finds its way.

    The kernel chooses backend and source once for a connection, at the first packet that it tracks.
    """
    _forget(netns, desired, lambda _: True, unanswered=True)


def _forget(
    netns: TaskNetns,
    desired: InterfaceConfig,
    is_gone: Callable[[conntrack.Address], bool],
    *,
    unanswered: bool = False,
) -> None:
    mesh = (desired.policy.subnet, desired.policy.subnet6)

    def is_meant(address: conntrack.Address) -> bool:
        return any(address in subnet for subnet in mesh) and is_gone(address)

    try:
        conntrack.forget(netns, is_meant, unanswered=unanswered)
    except (Retryable, Terminal) as error:  # a kernel without ctnetlink, say: no reason to take a task's links away
        log.warning("stale connections not removed", device=desired.name, error=str(error))


def _address(netns: TaskNetns, name: str, changes: InterfaceDiff) -> None:
    """Set a device's MTU and addresses: each waits for the kernel's lock of all devices, so early on."""
    if changes.mtu is not None:
        interfaces.set_mtu(netns, name, changes.mtu)
    for address in changes.remove_addresses:
        interfaces.remove_address(netns, name, address)
    if any(isinstance(address, IPv6Interface) for address in changes.add_addresses):
        interfaces.enable_ipv6(netns, name)
        # What a task sends to itself passes there, and so does the answer when a packet of its own is refused.
        # Docker turns it on too, from 26.0 on (moby#47062).
        interfaces.enable_ipv6(netns, "lo")
    for address in changes.add_addresses:
        interfaces.add_address(netns, name, address)


def _route(netns: TaskNetns, name: str, changes: InterfaceDiff) -> None:
    """Bring a device up and set its routes, which is when packets begin to pass."""
    if changes.up:
        interfaces.set_up(netns, name)
    for route in changes.remove_routes:
        interfaces.remove_route(netns, name, route)
    for route in changes.add_routes:
        interfaces.add_route(netns, name, route)
