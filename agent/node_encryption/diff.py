"""Difference between the desired and the observed tunnel of a node, and the changes that remove it. Pure.

What each value of `TunnelDiff` keeps, when applied in the order of its fields:

- refusal comes first and goes first: with `enforce` no plain packet leaves while the rest is made, and none is
  refused while the rest is taken away;
- a packet is sent through the device only while it is there, up and has the peer, and the peer answers: a route is
  added after its peer, and removed before it;
- what rests on knowing everything is not removed where not everything is known (design, section 8, rule 2).

`diff(d, apply(diff(d, s), s))` is empty for every `d` and `s`.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, fields, replace

from agent.interface.diff import device_change
from agent.interface.render_cache import RenderCache
from agent.linux.nft_json import Rules
from agent.node_encryption.policy_routing import NodeRoute, Rule
from agent.node_encryption.ruleset import render
from agent.node_encryption.tunnel import NodeTunnel, addresses
from mesh.crypto.keys import PublicKey
from mesh.topology.wgtypes import Device, DeviceChange


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything of node encryption that is on the node."""

    device: Device | None
    """None where there is none."""
    up: bool
    mtu: int
    """Bytes."""
    has_address: bool
    """Whether the device has the address without which the kernel drops what it receives."""
    routes: frozenset[NodeRoute]
    rules: frozenset[Rule]
    table: Rules | None
    """nftables; None where there is no table of ours."""

    @property
    def is_off(self) -> bool:
        """Whether there is nothing."""
        return self.device is None and not self.routes and not self.rules and self.table is None


@dataclass(frozen=True, slots=True)
class TunnelDiff:
    """Changes of a node's tunnel, in the order of the fields; everything empty means nothing to do.

    Attributes:
        table: the nftables rules as they should be, None to leave them.
        remove_table: take them away.
        create: make the device.
        device: its key, its port, and peers that come or change.
        mtu: bytes, None to leave it.
        add_address: give the device its address.
        up: bring the device up.
        remove_rules: routing rules that are not desired.
        remove_routes: routes that are not desired.
        remove_peers: peers that are not desired.
        add_routes: routes that are missing.
        add_rules: routing rules that are missing.
        delete: delete the device.
    """

    table: Rules | None = None
    remove_table: bool = False
    create: bool = False
    device: DeviceChange | None = None
    mtu: int | None = None
    add_address: bool = False
    up: bool = False
    remove_rules: tuple[Rule, ...] = ()
    remove_routes: tuple[NodeRoute, ...] = ()
    remove_peers: DeviceChange | None = None
    add_routes: tuple[NodeRoute, ...] = ()
    add_rules: tuple[Rule, ...] = ()
    delete: bool = False

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
        device: name of its WireGuard device.
        mtu: bytes of the largest packet inside WireGuard.
        now: seconds since the epoch, of the clock that handshakes are dated by.
        ready: the peers that answer.
    """

    device: str
    mtu: int
    now: float
    ready: AbstractSet[PublicKey]


def off(observed: Observed) -> TunnelDiff:
    """Compute the changes that leave nothing on the node."""
    return TunnelDiff(
        remove_table=observed.table is not None,
        remove_rules=tuple(sorted(observed.rules)),
        remove_routes=tuple(sorted(observed.routes, key=_order)),
        delete=observed.device is not None,
    )


def diff(
    desired: NodeTunnel,
    observed: Observed,
    previous: NodeTunnel | None,
    way: Way,
    memo: RenderCache,
    *,
    complete: bool,
) -> TunnelDiff:
    """Compute the changes that turn the observed tunnel into `desired`.

    Args:
        desired: what should be there.
        observed: what was read.
        previous: what was applied last, as far as is known: it tells a roamed endpoint from a changed record.
        way: of this node.
        memo: what was worked out before of the same device.
        complete: whether `desired` rests on everything; if not, nothing is removed but routes to peers that are known
            and do not answer.
    """
    if desired.place is not None:
        changes = _make(desired, observed, previous, way, memo, complete=complete)
    else:
        changes = TunnelDiff(delete=complete and observed.device is not None)
    changes = _guard(changes, desired, observed, way.device, complete=complete)
    return _route(changes, desired, observed, way.ready, complete=complete)


def _guard(
    changes: TunnelDiff, desired: NodeTunnel, observed: Observed, device: str, *, complete: bool
) -> TunnelDiff:
    encryption = desired.encryption
    if encryption.step == "enforce":
        table = render(device, encryption.data_path_port)
        return replace(changes, table=table if table != observed.table else None)
    return replace(changes, remove_table=complete and observed.table is not None)


def _make(
    desired: NodeTunnel,
    observed: Observed,
    previous: NodeTunnel | None,
    way: Way,
    memo: RenderCache,
    *,
    complete: bool,
) -> TunnelDiff:
    device = observed.device
    change = device_change(desired, device, previous, way.now, [], memo=memo, complete=complete)
    gone = tuple(peer for peer in change.peers if peer.remove) if change is not None else ()
    if change is not None:
        change = replace(change, peers=tuple(peer for peer in change.peers if not peer.remove))
        change = None if change == DeviceChange() else change
    return TunnelDiff(
        create=device is None,
        device=change,
        mtu=way.mtu if device is None or observed.mtu != way.mtu else None,
        add_address=device is None or not observed.has_address,
        up=device is None or not observed.up,
        remove_peers=DeviceChange(peers=gone) if gone else None,
    )


def _route(
    changes: TunnelDiff, desired: NodeTunnel, observed: Observed, ready: AbstractSet[PublicKey], *, complete: bool
) -> TunnelDiff:
    routed = desired.routed(ready)
    wanted: frozenset[NodeRoute] = frozenset()
    rules: frozenset[Rule] = frozenset()
    if desired.place is not None and desired.encryption.step != "accept":
        wanted = frozenset(NodeRoute(node, desired.place.host) for node in routed)
        rules = frozenset({Rule(desired.place.host.version, desired.encryption.data_path_port)})
    surplus = observed.routes - wanted
    if not complete:
        known = {address for peer in desired.peers for address in addresses(peer)}
        surplus = frozenset(route for route in surplus if route.node in known and desired.encryption.step != "accept")
    # Of a device that is made anew there is no route: they went with the one before.
    return replace(
        changes,
        remove_rules=tuple(sorted(observed.rules - rules)) if complete else (),
        remove_routes=tuple(sorted(surplus, key=_order)),
        add_routes=tuple(sorted(wanted - observed.routes, key=_order)),
        add_rules=tuple(sorted(rules - observed.rules)),
    )


def _order(route: NodeRoute) -> tuple[int, int]:
    return route.node.version, int(route.node)
