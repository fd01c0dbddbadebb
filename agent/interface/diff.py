"""Difference between the desired and the observed interface of one task, and the changes that remove it. Pure.

The safety rules (design, section 8), which each value of `InterfaceDiff` keeps:

- a peer is only ever upserted or removed by its own key, never replaced with all others (rule 4);
- an endpoint that the device learned by roaming stays unless the record changed (rule 3);
- nobody's new connection is sent to, or refused from, a peer that is just coming or going: who may come in is let in
  before it is a peer, and who is connected to is a peer before and after;
- a peer has a preshared key or is not there: while it is not known the peer is not made, and one that is there
  keeps the key that it has (a change of it touches no session that runs);
- what rests on knowing everything (removals) is left out where not everything is known (rule 2).

`diff(d, apply(diff(d, s), s))` is empty for every `d` and `s`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from agent.firewall.ruleset import render
from agent.interface.render_cache import RenderCache
from agent.linux.nft_json import Rules
from agent.wireguard.peer_health import REJECT_AFTER_S
from mesh.model.net import IPInterface
from mesh.topology.policy import Allow, Policy
from mesh.topology.wgtypes import (
    Device,
    DeviceChange,
    DeviceConfig,
    HostEntry,
    Interface,
    InterfaceConfig,
    Peer,
    PeerChange,
    PeerConfig,
    Route,
    resolved,
)


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything of ours that is in one task's namespace and hosts file; None for what is not there at all."""

    interface: Interface | None
    rules: Rules | None
    hosts: tuple[HostEntry, ...] | None


@dataclass(frozen=True, slots=True)
class InterfaceDiff:
    """Changes of one task's interface, in the order of the fields; everything empty means nothing to do.

    Attributes:
        create: make the device.
        first_rules: the rules as they must be before the peers change, None to leave them.
        device: key, port and peers.
        mtu: bytes, None to leave it.
        remove_addresses: addresses that are not ours to have.
        add_addresses: addresses that are missing.
        up: bring the device up.
        remove_routes: routes through the device that are not desired.
        add_routes: routes that are missing, or have another MTU.
        rules: the rules as they should be, None to leave them.
        hosts: the names block as it should be, None to leave it.
        reasons: why, a part each, for the log.
    """

    create: bool = False
    first_rules: Rules | None = None
    device: DeviceChange | None = None
    mtu: int | None = None
    remove_addresses: tuple[IPInterface, ...] = ()
    add_addresses: tuple[IPInterface, ...] = ()
    up: bool = False
    remove_routes: tuple[Route, ...] = ()
    add_routes: tuple[Route, ...] = ()
    rules: Rules | None = None
    hosts: tuple[HostEntry, ...] | None = None
    reasons: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.reasons)


def diff(
    desired: InterfaceConfig,
    observed: Observed,
    previous: InterfaceConfig | None,
    now: float,
    *,
    complete: bool = True,
    memo: RenderCache | None = None,
) -> InterfaceDiff:
    """Compute the changes that turn the observed interface into `desired`.

    Args:
        desired: what should be there.
        observed: what was read.
        previous: what was applied last, as far as is known: it tells a roamed endpoint from a changed record.
        now: seconds since the epoch, of the clock that handshakes are dated by.
        complete: whether `desired` rests on everything; if not, nothing is removed.
        memo: what was worked out before of the same interface.
    """
    memo = memo or RenderCache()
    reasons: list[str] = []
    interface, hosts = observed.interface, observed.hosts
    seen = interface.device if interface is not None else None
    device = device_change(desired, seen, previous, now, reasons, memo=memo, complete=complete)
    mtu = desired.mtu if interface is None or interface.mtu != desired.mtu else None
    if mtu is not None and interface is not None:
        reasons.append(f"mtu {interface.mtu} -> {mtu}")
    addresses = interface.addresses if interface else frozenset()
    routes = interface.routes if interface else frozenset()
    add_addresses = tuple(sorted(set(desired.addresses) - addresses, key=_order))
    remove_addresses = tuple(sorted(addresses - set(desired.addresses), key=_order)) if complete else ()
    add_routes = tuple(sorted(set(desired.routes) - routes, key=_route_order))
    # Another MTU replaces a route: it is never taken away first.
    desired_networks = {route.network for route in desired.routes}
    surplus = (route for route in routes if route.network not in desired_networks)
    remove_routes = tuple(sorted(surplus, key=_route_order)) if complete else ()
    up = interface is None or not interface.up
    last = previous if interface is not None else None
    first_rules, rules = rules_around(desired, observed.rules, last, memo, complete=complete)
    differs = resolved(hosts) != resolved(desired.hosts)
    new_hosts = desired.hosts if differs and (complete or not hosts) else None
    for what, changed in (
        ("addresses", tuple(map(str, add_addresses + remove_addresses))),
        ("routes", tuple(str(route.network) for route in add_routes + remove_routes)),
    ):
        if changed and interface is not None:
            reasons.append(f"{what} {', '.join(changed)}")
    if up and interface is not None:
        reasons.append("was down")
    reasons.extend(reasons_of((), first_rules or rules, new_hosts))
    return InterfaceDiff(
        create=interface is None,
        first_rules=first_rules,
        device=device,
        mtu=mtu,
        remove_addresses=remove_addresses,
        add_addresses=add_addresses,
        up=up,
        remove_routes=remove_routes,
        add_routes=add_routes,
        rules=rules,
        hosts=new_hosts,
        reasons=tuple(reasons),
    )


def peer_changes(before: InterfaceConfig, after: InterfaceConfig) -> tuple[PeerChange, ...] | None:
    """Compute the peer changes that turn a device as `before` into one as `after`, which rests on everything.

    An interface that was read back as `before` need not be read again to know what a changed record means for it. On
    such a device the changes are those of `diff`. On another they do no harm: a peer whose record is the same is not
    named at all, wherever it has roamed to; one that has gone is not made half (`update_only`); one is only ever
    removed by its own key.

    Returns:
        None where the two do not tell: something other than peers, rules and names differs, or whether a peer is
        there depends on a preshared key that is not known.
    """
    if replace(before, peers=after.peers, policy=after.policy, hosts=after.hosts, answers=after.answers) != after:
        return None
    # By object: of thousands of peers nearly all are the very same ones, and a look at each costs more than all else.
    old, new = set(map(id, before.peers)), set(map(id, after.peers))
    gone = {peer.public_key: peer for peer in before.peers if id(peer) not in new}
    pairs = [(gone.pop(peer.public_key, None), peer) for peer in after.peers if id(peer) not in old]
    pairs = [(was, peer) for was, peer in pairs if was != peer]
    if any(peer.preshared_key is None for pair in pairs for peer in pair if peer is not None):
        return None
    changes = (
        upsert(peer) if was is None else _update(peer, was, moves=peer.endpoint != was.endpoint, complete=True)
        for was, peer in pairs
    )
    removed = (PeerChange(public, remove=True) for public in sorted(gone))
    return *removed, *(change for change in changes if change is not None)


def _order(address: IPInterface) -> tuple[int, int, int]:
    return address.version, int(address.ip), address.network.prefixlen


def _route_order(route: Route) -> tuple[int, int, int]:
    return route.network.version, int(route.network.network_address), route.network.prefixlen


def rules_around(
    desired: InterfaceConfig,
    present: Rules | None,
    previous: InterfaceConfig | None,
    memo: RenderCache,
    *,
    complete: bool,
) -> tuple[Rules | None, Rules | None]:
    """Return the rules for before the peers change, and those for afterwards; None where they are so already.

    Args:
        desired: what should be there.
        present: the rules as they are, None for none.
        previous: what was applied last, None where there is no device, or that is not known.
        memo: what was worked out before of the same interface.
        complete: whether `desired` rests on everything.
    """
    rendered = memo.render(desired.policy, desired.name)
    if present == rendered or (present is not None and not complete):
        return None, None
    if present is None or previous is None:
        return rendered, None
    first = render(_between(previous.policy, desired.policy), desired.name)
    return first if first != present else None, rendered if rendered != first else None


def _between(old: Policy, new: Policy) -> Policy:
    """Return the policy for while peers change: in as the new one says, out only what both allow."""
    backends = {balance.vip: frozenset(balance.backends) for balance in old.balance}
    peers = {allow.service: frozenset(allow.peers) for allow in old.outbound}

    def still(addresses: tuple[IPv4Address, ...], before: frozenset[IPv4Address]) -> tuple[IPv4Address, ...]:
        return tuple(address for address in addresses if address in before)

    return replace(
        new,
        balance=tuple(replace(b, backends=still(b.backends, backends.get(b.vip, frozenset()))) for b in new.balance),
        outbound=tuple(
            Allow(a.service, still(a.peers, peers.get(a.service, frozenset())), a.ports) for a in new.outbound
        ),
    )


def device_change(
    desired: DeviceConfig,
    device: Device | None,
    previous: DeviceConfig | None,
    now: float,
    reasons: list[str],
    *,
    memo: RenderCache,
    complete: bool,
) -> DeviceChange | None:
    """Compute the change of a device's key, port and peers; None where there is none.

    Args:
        desired: as it should be.
        device: as it was read, None where it is to be made.
        previous: as in `diff`.
        now: as in `diff`.
        reasons: gets why, a part each.
        memo: as in `diff`.
        complete: as in `diff`.
    """
    if device is None:
        peers = tuple(upsert(peer) for peer in desired.peers if peer.preshared_key is not None)
        reasons.append(f"no device yet; {len(peers)} peers")
        return DeviceChange(desired.private_key, desired.listen_port, peers)
    key = desired.private_key if device.public_key != desired.private_key.public else None
    port = desired.listen_port if device.listen_port != desired.listen_port else None
    wanted = {peer.public_key: peer for peer in desired.peers}
    memo.drop_all_but(wanted)
    pairs = ((peer, device.peers.get(public)) for public, peer in wanted.items())
    differing = [(peer, seen) for peer, seen in pairs if seen is None or not memo.alike(peer, seen)]
    surplus = [public for public in device.peers if public not in wanted]
    surplus += [peer.public_key for peer, seen in differing if seen is not None and _is_open(peer, seen)]
    removed = surplus if complete else []
    before = {peer.public_key: peer for peer in previous.peers} if previous and differing else {}
    changed = (_changed(peer, seen, before.get(peer.public_key), now, complete=complete) for peer, seen in differing)
    upserts = tuple(change for change in changed if change is not None)
    if key is not None:
        reasons.append("another private key")
    if port is not None:
        reasons.append(f"UDP port {device.listen_port} -> {port}")
    peers = (*(PeerChange(public, remove=True) for public in sorted(removed)), *upserts)
    reasons.extend(reasons_of(peers))
    if key is not None:
        peers = _speaking_first(peers, [wanted[public] for public in sorted(device.peers.keys() - set(surplus))])
    return DeviceChange(key, port, peers) if key is not None or port is not None or peers else None


def _speaking_first(changes: tuple[PeerChange, ...], staying: list[PeerConfig]) -> tuple[PeerChange, ...]:
    """Have peers that stay begin a handshake by a device's new key.

    Theirs may have come before it, and comes again after 5 s only (WireGuard paper, section 6.1). A device begins one
    at once where a keepalive is turned on (set_peer in drivers/net/wireguard/netlink.c; handlePostConfig in
    wireguard-go), so it is turned off first.
    """
    off = tuple(PeerChange(peer.public_key, keepalive=0, update_only=True) for peer in staying)
    by_key = {change.public_key: change for change in changes}
    for peer in staying:
        change = by_key.get(peer.public_key) or PeerChange(peer.public_key, update_only=True)
        by_key[peer.public_key] = replace(change, keepalive=peer.keepalive)
    return (*off, *by_key.values())


def reasons_of(
    peers: tuple[PeerChange, ...], rules: Rules | None = None, hosts: tuple[HostEntry, ...] | None = None
) -> tuple[str, ...]:
    """Summarise changes of peers, rules and names for the log."""
    removed = sum(change.remove for change in peers)
    keys = sum(_only_the_key(change) for change in peers)
    upserts = len(peers) - removed - keys
    reasons = [
        f"{count} {what}"
        for count, what in ((removed, "peers removed"), (upserts, "peers set"), (keys, "preshared keys changed"))
        if count
    ]
    if rules is not None:
        reasons.append("rules")
    if hosts is not None:
        reasons.append(f"names of {len(hosts)} addresses")
    return tuple(reasons)


def _is_open(wanted: PeerConfig, seen: Peer) -> bool:
    """Tell whether a peer must go since it has no preshared key and there is none to give it."""
    return wanted.preshared_key is None and seen.preshared_key is None


def _only_the_key(change: PeerChange) -> bool:
    others = (change.endpoint, change.allowed_ips, change.keepalive)
    return change.update_only and change.preshared_key is not None and all(other is None for other in others)


def upsert(peer: PeerConfig) -> PeerChange:
    """Return the change that makes a whole peer, which must have a preshared key.

    With the keepalive it speaks first, so the other side drops its dead session at once.
    """
    return PeerChange(
        public_key=peer.public_key,
        endpoint=peer.endpoint,
        allowed_ips=peer.allowed_ips,
        preshared_key=peer.preshared_key,
        keepalive=peer.keepalive,
    )


def _changed(
    wanted: PeerConfig, seen: Peer | None, before: PeerConfig | None, now: float, *, complete: bool
) -> PeerChange | None:
    unknown = wanted.preshared_key is None
    if seen is None or (unknown and seen.preshared_key is None):
        return None if unknown else upsert(wanted)
    return _update(wanted, seen, moves=_endpoint_differs(wanted, seen, before, now), complete=complete)


def _update(wanted: PeerConfig, old: Peer | PeerConfig, *, moves: bool, complete: bool) -> PeerChange | None:
    """Change a peer that is there, in nothing but where it differs; None where it does not.

    Args:
        wanted: the peer as it should be.
        old: the same peer as it is.
        moves: whether its endpoint is to be set.
        complete: whether allowed IPs may be taken away.
    """
    surplus = complete and bool(old.allowed_ips - wanted.allowed_ips)
    ips = wanted.allowed_ips if surplus or wanted.allowed_ips - old.allowed_ips else None
    key = wanted.preshared_key if old.preshared_key != wanted.preshared_key else None
    keepalive = wanted.keepalive if old.keepalive != wanted.keepalive else None
    endpoint = wanted.endpoint if moves else None
    if ips is None and key is None and keepalive is None and endpoint is None:
        return None
    return PeerChange(
        public_key=wanted.public_key,
        endpoint=endpoint,
        allowed_ips=ips,
        replace_allowed_ips=surplus,
        preshared_key=key,
        keepalive=keepalive,
        update_only=True,
    )


def _endpoint_differs(wanted: PeerConfig, seen: Peer, before: PeerConfig | None, now: float) -> bool:
    if seen.endpoint == wanted.endpoint:
        return False
    if seen.endpoint is None:
        return True
    if before is not None and before.endpoint != wanted.endpoint:
        return True
    alive = seen.last_handshake is not None and now - seen.last_handshake < REJECT_AFTER_S
    return not alive
