"""The node's WireGuard devices and all that belongs to them, in the node's own namespace: read, and changed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv4Interface

from agent.firewall import nf_tables_netlink, nft
from agent.interface.path_mtu import OVERHEAD, PathMtu
from agent.linux import interfaces, sysctl
from agent.linux.netns import TaskNetns
from agent.node_encryption import policy_routing, ruleset
from agent.node_encryption.diff import DeviceDiff, Observed, ObservedDevice, TunnelDiff, off
from agent.node_encryption.key import SLOTS
from agent.node_encryption.tunnel import NodeTunnel
from agent.wireguard.backend import Backend
from mesh.errors import DeviceNotFoundError, LinkwireError, Terminal
from mesh.model.encryption.status import DEVICE, NOT_OWN
from mesh.model.net import IPAddress

ADDRESS = IPv4Interface("169.254.76.87/32")
"""The devices', on every node, and nobody's to send to: without one the kernel gives up its look at the way back, and
drops what the device receives (fib_validate_source in net/ipv4/fib_frontend.c)."""
_NO_SLOT = -1  # of a route through another device: there is none that it should lead through
_MIN_MTU = {4: 576, 6: 1280}  # RFC 791, RFC 8200: what every host must take; below it a device has no IPv6


def names(first: str = DEVICE) -> tuple[str, ...]:
    """Return the names of a node's devices, by slot.

    Args:
        first: that of the first.
    """
    return (first, *(f"{first}{number}" for number in range(2, SLOTS + 1)))


NAMES = names()
"""Of the devices of a node that runs one agent, as all do."""


class NodeDevice:
    """The devices of one node: one, and while its keys rotate two.

    Args:
        home: the node's own namespace.
        backend: of its WireGuard devices, with their sockets in the same namespace.
        name: of the first device.

    Attributes:
        names: of the devices, by slot, whether they are there or not.
        path_mtu: of the ways to other nodes.
    """

    def __init__(self, home: TaskNetns, backend: Backend, name: str = DEVICE) -> None:
        self.home = home
        self.backend = backend
        self.names = names(name)
        self.path_mtu = PathMtu(home, learned=(4,))

    def read(self) -> Observed:
        """Read all of it. Raises Retryable, Terminal."""
        found = ((slot, self._read(name)) for slot, name in enumerate(self.names))
        devices = {slot: device for slot, device in found if device is not None}
        indexes = {policy_routing.index(self.home, self.names[slot]): slot for slot in devices}
        routes = policy_routing.routes(self.home)
        table = nft.read(self.home, ruleset.NAME)
        return Observed(
            devices=devices,
            routes={route: indexes.get(through, _NO_SLOT) for route, through in routes.items()},
            rules=policy_routing.rules(self.home),
            table=table.rules if table is not None else None,
        )

    def _read(self, name: str) -> ObservedDevice | None:
        try:
            device = self.backend.read(self.home, name)
        except DeviceNotFoundError:
            return None
        state = interfaces.observe(self.home, name)
        if state is None:
            return None
        has_address = name in interfaces.holders(self.home, ADDRESS.ip)
        return ObservedDevice(device, state.up, state.mtu, has_address)

    def refused(self) -> int:
        """Return how many plain packets were refused since the rules were first put in place."""
        return sum(nf_tables_netlink.counted(self.home, ruleset.NAME).values())

    def mtu(self, hosts: Iterable[IPAddress]) -> int:
        """Return the largest packet, in bytes, that fits inside WireGuard on the ways to all of the nodes.

        More than Ethernet's MTU is not used: a node elsewhere may take no more, and nothing tells.

        By IPv6 learned MTUs do not count. VXLAN lets the kernel refuse to fragment its packets, and the refusal, with
        this device's MTU, is then taken for what the way to the other node has: the device would shrink again and
        again.
        """
        fitting = [interfaces.ETHERNET_MTU - OVERHEAD[4]]
        for host in hosts:
            way = min(self.path_mtu.of(host), interfaces.ETHERNET_MTU)
            fitting.append(max(_MIN_MTU[host.version], way - OVERHEAD[host.version]))
        return self.backend.largest(min(fitting))

    def check(self, desired: NodeTunnel) -> None:
        """Make sure that the node can take part, before anything is switched.

        Raises:
            Terminal: it cannot; the text says what to do.
            Retryable.
        """
        by_ipv4 = desired.host is not None and desired.host.version == 4  # noqa: PLR2004 - IPv6 has no such filter
        if by_ipv4 and self.home.run(sysctl.is_strict_everywhere):
            raise Terminal(
                "net.ipv4.conf.all.rp_filter is 1 (strict) on this node, and the kernel would drop what comes in "
                "encrypted: set it to 2 (loose), or 0"
            )
        if desired.host is not None and not interfaces.holders(self.home, desired.host):
            raise Terminal(f"{desired.host}, where others reach this node, {NOT_OWN}")

    def apply(self, changes: TunnelDiff, version: int = 4) -> Mapping[int, LinkwireError]:
        """Make changes, in their order.

        Args:
            changes: as computed.
            version: of IP, by which nodes reach one another.

        Returns:
            The devices that could not be made so, by slot, and why: one of two is no reason to leave the other as it
            is. No route is led through such a device, and no other is deleted in favour of it.

        Raises:
            Retryable, Terminal: anything else could not be done.
        """
        if changes.table is not None:
            nft.apply(self.home, changes.table, ruleset.NAME)
        if changes.remove_table:
            nft.remove(self.home, ruleset.NAME)
        failed = self._make_each(changes.devices, version)
        self._lead(changes, failed)
        for slot, gone in changes.remove_peers:
            if slot not in failed:
                self.backend.apply(self.home, self.names[slot], gone)
        for slot in changes.delete if not failed else ():
            self.backend.delete(self.home, self.names[slot])
        return failed

    def _lead(self, changes: TunnelDiff, failed: Collection[int]) -> None:
        """Lead packets through the devices, but for those that could not be made."""
        for rule in changes.remove_rules:
            policy_routing.remove_rule(self.home, rule)
        for route in changes.remove_routes:
            policy_routing.remove_route(self.home, route)
        for route, slot in changes.set_routes:
            if slot not in failed:
                policy_routing.set_route(self.home, self.names[slot], route)
        for rule in changes.add_rules:
            policy_routing.add_rule(self.home, rule)

    def _make_each(self, devices: Iterable[DeviceDiff], version: int) -> dict[int, LinkwireError]:
        """Make or change devices; return those that could not be, by slot, and why."""
        failed: dict[int, LinkwireError] = {}
        for device in devices:
            try:
                self._make(device, version)
            except LinkwireError as error:
                failed[device.slot] = error
        return failed

    def _make(self, changes: DeviceDiff, version: int) -> None:
        name = self.names[changes.slot]
        if changes.create:
            self.backend.create(self.home, name)
        if changes.device is not None:
            self.backend.apply(self.home, name, changes.device)
        if changes.mtu is not None:
            interfaces.set_mtu(self.home, name, changes.mtu)
        if changes.create or changes.add_address:
            self.home.run(lambda: sysctl.loosen(name))
        if changes.add_address:
            interfaces.add_address(self.home, name, ADDRESS)
        if version == 6 and (changes.create or changes.up):  # noqa: PLR2004 - IPv6
            interfaces.enable_ipv6(self.home, name)
        if changes.up:
            interfaces.set_up(self.home, name)


def remove(home: TaskNetns, backend: Backend, name: str = DEVICE) -> bool:
    """Take everything off a node, for when no agent is to run there any more; returns whether there was anything.

    Raises:
        Retryable, Terminal: it could not be done.
    """
    device = NodeDevice(home, backend, name)
    changes = off(device.read())
    device.apply(changes)
    return bool(changes)
