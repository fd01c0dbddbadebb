"""Difference between the desired and the observed tunnel of a node, and the changes that remove it. Pure.

What each value of `TunnelDiff` keeps, when applied in the order of its fields:

- refusal comes first and goes first: with `enforce` no plain packet leaves while the rest is made, and none is
  refused while the rest is taken away;
- a packet is sent through a device only while it is there, up and has the peer, and the peer answers: a route is
  added, or led to another device, after its peer is there, and before the peer that it led to is removed;
- what rests on knowing everything is not removed where not everything is known (design, section 8, rule 2).

`diff(d, apply(diff(d, s), s))` is empty for every `d` and `s`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, fields, replace

from agent.interface.diff import device_change, upsert
from agent.interface.render_cache import RenderCache
from agent.linux.nft_json import Rules
from agent.node_encryption.policy_routing import (
    HOST_TABLE,
    NO_PORTS,
    NodeRoute,
    PlainPorts,
    Rule,
    host_rules,
    in_order,
    overlay_rule,
)
from agent.node_encryption.ruleset import render
from agent.node_encryption.tunnel import NodeTunnel, TunnelDevice
from mesh.crypto.keys import PublicKey
from mesh.topology.wgtypes import Device, DeviceChange, PeerConfig


@dataclass(frozen=True, slots=True)
class ObservedDevice:
    """A WireGuard device of the node, as it was read."""

    device: Device
    up: bool
    mtu: int
    """Bytes."""
    has_address: bool
    """Whether it has the address without which the kernel drops what it receives."""


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything of node encryption that is on the node."""

    devices: Mapping[int, ObservedDevice]
    """By slot."""
    routes: Mapping[NodeRoute, int]
    """Each with the slot of the device that it leads through."""
    rules: frozenset[Rule]
    table: Rules | None
    """nftables; None where there is no table of ours."""

    @property
    def is_off(self) -> bool:
        """Whether there is nothing."""
        return not self.devices and not self.routes and not self.rules and self.table is None


@dataclass(frozen=True, slots=True)
class DeviceDiff:
    """Changes of a device that is to be there.

    Attributes:
        slot: of the device.
        create: make it.
        device: its key, its port, and peers that come or change.
        mtu: bytes, None to leave it.
        add_address: give it its address.
        up: bring it up.
    """

    slot: int
    create: bool = False
    device: DeviceChange | None = None
    mtu: int | None = None
    add_address: bool = False
    up: bool = False

    def __bool__(self) -> bool:
        return self != DeviceDiff(self.slot)


@dataclass(frozen=True, slots=True)
class TunnelDiff:
    """Changes of a node's tunnel, in the order of the fields; everything empty means nothing to do.

    Attributes:
        table: the nftables rules as they should be, None to leave them.
        remove_table: take them away.
        devices: changes of those that are to be there.
        remove_rules: routing rules that are not desired.
        remove_routes: routes that are not desired.
        set_routes: routes that are missing or lead through another device, each with the slot of its own.
        add_rules: routing rules that are missing.
        remove_peers: peers that are not desired, by the slot of their device.
        delete: slots of the devices to delete.
    """

    table: Rules | None = None
    remove_table: bool = False
    devices: tuple[DeviceDiff, ...] = ()
    remove_rules: tuple[Rule, ...] = ()
    remove_routes: tuple[NodeRoute, ...] = ()
    set_routes: tuple[tuple[NodeRoute, int], ...] = ()
    add_rules: tuple[Rule, ...] = ()
    remove_peers: tuple[tuple[int, DeviceChange], ...] = ()
    delete: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return self != TunnelDiff()

    @property
    def changed(self) -> tuple[str, ...]:
        """Names of the fields that say something, for the log."""
        nothing = TunnelDiff()
        return tuple(each.name for each in fields(self) if getattr(self, each.name) != getattr(nothing, each.name))


@dataclass(frozen=True, slots=True)
class Way:
    """Facts of this node that a tunnel rests on beside the records.

    Attributes:
        names: of its WireGuard devices, by slot.
        mtu: bytes of the largest packet inside WireGuard.
        now: seconds since the epoch, of the clock that handshakes are dated by.
        ready: the peers that answer.
        memos: what was worked out before of the same devices, by slot.
        plain: ports of what stays outside in mode `all`.
    """

    names: Sequence[str]
    mtu: int
    now: float
    ready: AbstractSet[PublicKey]
    memos: Sequence[RenderCache] = field(compare=False)
    plain: PlainPorts = NO_PORTS


def off(observed: Observed) -> TunnelDiff:
    """Compute the changes that leave nothing on the node."""
    return TunnelDiff(
        remove_table=observed.table is not None,
        remove_rules=in_order(observed.rules)[::-1],
        remove_routes=tuple(sorted(observed.routes, key=_order)),
        delete=tuple(sorted(observed.devices)),
    )


def diff(
    desired: NodeTunnel, observed: Observed, previous: NodeTunnel | None, way: Way, *, complete: bool
) -> TunnelDiff:
    """Compute the changes that turn the observed tunnel into `desired`.

    Args:
        desired: what should be there.
        observed: what was read.
        previous: what was applied last, as far as is known: it tells a roamed endpoint from a changed record.
        way: of this node.
        complete: whether `desired` rests on everything; if not, nothing is removed but routes to peers that are known
            and do not answer.
    """
    before = {device.slot: device for device in previous.devices} if previous is not None else {}
    devices: list[DeviceDiff] = []
    remove_peers: list[tuple[int, DeviceChange]] = []
    for device in desired.devices:
        made, gone = _make(device, observed.devices.get(device.slot), before.get(device.slot), way, complete=complete)
        if made:
            devices.append(made)
        if gone.peers:
            remove_peers.append((device.slot, gone))
    surplus = observed.devices.keys() - {device.slot for device in desired.devices}
    changes = TunnelDiff(
        devices=tuple(devices), remove_peers=tuple(remove_peers), delete=tuple(sorted(surplus)) if complete else ()
    )
    changes = _guard(changes, desired, observed, way, complete=complete)
    return _route(changes, desired, observed, way, complete=complete)


def additions(before: NodeTunnel, after: NodeTunnel) -> TunnelDiff | None:
    """Compute the changes for peers that have come, which rest on everything, on a node that was read as `before`.

    They are those of `diff`, but for what a look at the new peers' ways and answers decides. On a node that is not so
    any more they do no harm: nothing is removed, and no other peer named.

    Returns:
        None where anything else differs: that takes a reading.
    """
    if replace(after, devices=before.devices, names=before.names) != before or len(after.devices) != len(
        before.devices
    ):
        return None
    devices: list[DeviceDiff] = []
    routes: dict[NodeRoute, int] = {}
    for old, new in zip(before.devices, after.devices, strict=True):
        had = set(map(id, old.peers))
        come = [peer for peer in new.peers if id(peer) not in had]
        if replace(new, peers=old.peers) != old or len(new.peers) - len(come) != len(old.peers):
            return None
        if any(peer.preshared_key is None or _has_host(old.peers, peer) for peer in come):
            return None
        if come:
            devices.append(DeviceDiff(new.slot, device=DeviceChange(peers=tuple(map(upsert, come)))))
        for peer in come if after.encryption.step == "enforce" else ():  # which needs no answer (`routed`)
            host, own = peer.endpoint.host, after.host
            if own is not None and host.version == own.version and not _has_host(before.peers, peer):
                routes.setdefault(NodeRoute(host, own), new.slot)
    return TunnelDiff(
        devices=tuple(devices), set_routes=tuple(sorted(routes.items(), key=lambda each: _order(each[0])))
    )


def _has_host(peers: Iterable[PeerConfig], peer: PeerConfig) -> bool:
    return any(other.endpoint.host == peer.endpoint.host for other in peers)


def _guard(changes: TunnelDiff, desired: NodeTunnel, observed: Observed, way: Way, *, complete: bool) -> TunnelDiff:
    encryption = desired.encryption
    refuses = encryption.step == "enforce"
    if not refuses and not complete and observed.table is not None:
        return changes  # it may be one that refuses
    if refuses or desired.has_hosts:
        table = render(way.names, encryption.data_path_port, refuses=refuses, marks=desired.has_hosts)
        return replace(changes, table=table if table != observed.table else None)
    return replace(changes, remove_table=complete and observed.table is not None)


def _make(
    desired: TunnelDevice, observed: ObservedDevice | None, previous: TunnelDevice | None, way: Way, *, complete: bool
) -> tuple[DeviceDiff, DeviceChange]:
    """Compute the changes of a device, and the peers that go."""
    seen, memo = observed.device if observed is not None else None, way.memos[desired.slot]
    change = device_change(desired, seen, previous, way.now, [], memo=memo, complete=complete) or DeviceChange()
    gone = tuple(peer for peer in change.peers if peer.remove)
    change = replace(change, peers=tuple(peer for peer in change.peers if not peer.remove))
    made = DeviceDiff(
        slot=desired.slot,
        create=observed is None,
        device=None if change == DeviceChange() else change,
        mtu=way.mtu if observed is None or observed.mtu != way.mtu else None,
        add_address=observed is None or not observed.has_address,
        up=observed is None or not observed.up,
    )
    return made, DeviceChange(peers=gone)


def _route(changes: TunnelDiff, desired: NodeTunnel, observed: Observed, way: Way, *, complete: bool) -> TunnelDiff:
    wanted: dict[NodeRoute, int] = {}
    rules: frozenset[Rule] = frozenset()
    if desired.host is not None and desired.encryption.step != "accept":
        wanted = {NodeRoute(node, desired.host): slot for node, slot in desired.routed(way.ready).items()}
        rules = frozenset({overlay_rule(desired.host.version, desired.encryption.data_path_port)})
    if desired.host is not None and desired.has_hosts:
        hosts = desired.routed(way.ready, every=False)  # by these a node that lost its device comes back
        wanted |= {NodeRoute(node, desired.host, HOST_TABLE): slot for node, slot in hosts.items()}
        rules |= host_rules(desired.host, way.plain)
    surplus = observed.routes.keys() - wanted.keys()
    if not complete:
        silent = desired.others - desired.routed(way.ready, every=False).keys()
        surplus = {route for route in surplus if route.node in silent and desired.encryption.step != "accept"}
    # Of a device that is made anew there is no route: they went with the one before.
    missing = [route for route, slot in wanted.items() if observed.routes.get(route) != slot]
    return replace(
        changes,
        remove_rules=in_order(observed.rules - rules)[::-1] if complete else (),
        remove_routes=tuple(sorted(surplus, key=_order)),
        set_routes=tuple((route, wanted[route]) for route in sorted(missing, key=_order)),
        add_rules=in_order(rules - observed.rules),
    )


def _order(route: NodeRoute) -> tuple[int, int, int]:
    return route.table, route.node.version, int(route.node)
