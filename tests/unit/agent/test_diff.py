"""The diff of an interface, applied to a device in memory that does what WireGuard does with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.firewall.ruleset import render
from agent.interface.diff import InterfaceDiff, Observed, diff
from agent.linux.nft_json import Rules
from agent.wireguard.peer_health import REJECT_AFTER_S
from mesh.crypto.keys import PublicKey
from mesh.crypto.preshared_keys import PresharedKey
from mesh.model.labels.ports import PortRange
from mesh.model.net import IPInterface, IPNetwork, UdpEndpoint
from mesh.topology.ipam import twin, ula
from mesh.topology.policy import Allow, Balance, Policy
from mesh.topology.wgtypes import (
    Device,
    DeviceChange,
    HostEntry,
    Interface,
    InterfaceConfig,
    Peer,
    PeerChange,
    PeerConfig,
    Route,
)
from tests.support.swarm_world import private_key

NOW = 1_000_000.0
SUBNET = IPv4Network("10.1.0.0/16")
SUBNET6 = ula("the diff's")
ADDRESS = IPv4Interface("10.1.0.1/32")
ADDRESS6 = IPv6Interface(twin(SUBNET6, ADDRESS.ip))
ROUTES = (Route(SUBNET), Route(SUBNET6))
VIP = IPv4Address("10.1.9.9")
KEYS = [private_key(n).public for n in range(10, 16)]
NETWORKS: list[IPNetwork] = [IPv4Network(f"10.1.0.{n}/32") for n in range(10, 16)]
KEY, OTHER_KEY = PresharedKey(bytes([1] * 32)), PresharedKey(bytes([2] * 32))
HOSTS = (HostEntry(IPv4Address("10.1.0.10"), ("db",)),)

Hosts = tuple[HostEntry, ...] | None


def place(number: int) -> UdpEndpoint:
    return UdpEndpoint(IPv4Address("192.0.2.1"), 51820 + number)


def wanted(number: int, at: int | None = None) -> PeerConfig:
    return PeerConfig(KEYS[number], place(number if at is None else at), frozenset({NETWORKS[number]}), KEY, 25)


def policy(out: str = "", into: str = "") -> Policy:
    """A consumer of the tasks in `out`, one digit each, behind one VIP; a provider for those in `into`."""

    def tasks(digits: str) -> tuple[IPv4Address, ...]:
        return tuple(IPv4Address(f"10.1.0.1{digit}") for digit in sorted(digits))

    return Policy(
        SUBNET,
        SUBNET6,
        balance=(Balance(VIP, tasks(out), "db"),),
        outbound=(Allow("web", tasks(out), (PortRange("tcp", 80, 80),)),),
        inbound=(Allow("consumer", tasks(into), None),),
    )


def meant(*peers: PeerConfig, rules: Policy | None = None) -> InterfaceConfig:
    addresses = (ADDRESS, ADDRESS6)
    return InterfaceConfig("lw0", private_key(1), 51820, addresses, ROUTES, 1420, peers, HOSTS, rules or policy())


AS_MEANT = ("as meant",)


def diff_of(
    config: InterfaceConfig,
    before: Interface | None,
    hosts: Hosts,
    previous: InterfaceConfig | None,
    now: float,
    *,
    complete: bool = True,
    table: Rules | None = AS_MEANT,
) -> InterfaceDiff:
    """The diff where the rules are as meant, unless the test is about them."""
    found = render(config.policy, config.name) if table == AS_MEANT else table
    return diff(config, Observed(before, found, hosts), previous, now, complete=complete)


def seen(config: InterfaceConfig, handshake: float | None = NOW - 10) -> Interface:
    """An interface that is what is meant; a peer whose key is not known has some older one."""
    peers = {
        p.public_key: Peer(
            p.public_key, p.endpoint, p.allowed_ips, p.preshared_key or OTHER_KEY, p.keepalive, handshake, 1, 1
        )
        for p in config.peers
    }
    device = Device(config.name, config.private_key.public, config.listen_port, peers)
    return Interface(
        device, up=True, mtu=config.mtu, addresses=frozenset(config.addresses), routes=frozenset(config.routes)
    )


def roamed(interface: Interface, number: int, to: int, handshake: float | None = NOW - 10) -> Interface:
    peers = dict(interface.device.peers)
    peers[KEYS[number]] = replace(peers[KEYS[number]], endpoint=place(to), last_handshake=handshake)
    return replace(interface, device=replace(interface.device, peers=peers))


# --- a device in memory


@dataclass
class Model:
    """An interface, changed as the kernel and the hosts file would be."""

    interface: Interface | None
    hosts: Hosts
    table: Rules | None = None

    def apply(self, changes: InterfaceDiff) -> None:
        if changes.create:
            assert self.interface is None
            self.interface = Interface(Device("lw0", None, 0, {}), False, 1420, frozenset(), frozenset())
        if self.interface is None:
            assert not changes
            return
        i = self.interface
        if changes.device is not None:
            i = replace(i, device=_device(i.device, changes.device))
        i = replace(i, mtu=i.mtu if changes.mtu is None else changes.mtu, up=i.up or changes.up)
        addresses = (i.addresses - set(changes.remove_addresses)) | set(changes.add_addresses)
        replaced = {route.network for route in changes.add_routes}
        kept = frozenset(r for r in i.routes - set(changes.remove_routes) if r.network not in replaced)
        routes = kept | set(changes.add_routes)
        self.interface = replace(i, addresses=addresses, routes=routes)
        if changes.hosts is not None:
            self.hosts = changes.hosts
        for rules in (changes.first_rules, changes.rules):
            self.table = rules if rules is not None else self.table


def _device(device: Device, change: DeviceChange) -> Device:
    peers = dict(device.peers)
    for one in change.peers:
        if one.remove:
            peers.pop(one.public_key, None)
        elif one.public_key in peers or not one.update_only:
            _set_peer(peers, one)
    public = change.private_key.public if change.private_key else device.public_key
    return Device(device.name, public, change.listen_port or device.listen_port, peers)


def _set_peer(peers: dict[PublicKey, Peer], one: PeerChange) -> None:
    old = peers.get(one.public_key) or Peer(one.public_key, None, frozenset(), None, 0, None, 0, 0)
    ips = frozenset[IPNetwork]() if one.replace_allowed_ips else old.allowed_ips
    added = one.allowed_ips or frozenset()
    for key, other in peers.items():  # a network has one owner on a device
        peers[key] = replace(other, allowed_ips=other.allowed_ips - added)
    peers[one.public_key] = replace(
        old,
        endpoint=one.endpoint or old.endpoint,
        allowed_ips=ips | added,
        preshared_key=one.preshared_key or old.preshared_key,
        keepalive=old.keepalive if one.keepalive is None else one.keepalive,
    )


# --- any two interfaces

digits = st.sampled_from(["", "0", "1", "01", "012"])
policies = st.builds(policy, digits, digits)
tables = st.none() | st.builds(lambda rules: render(rules, "lw0"), policies)
secrets = st.sampled_from([None, KEY, OTHER_KEY])
numbers = st.lists(st.integers(0, 5), unique=True, max_size=6)


@st.composite
def configs(draw: st.DrawFn) -> InterfaceConfig:
    shift = draw(st.integers(0, 5))
    peers = tuple(
        PeerConfig(KEYS[n], place(draw(st.integers(0, 3))), frozenset({NETWORKS[(n + shift) % 6]}), draw(secrets), 25)
        for n in draw(numbers)
    )
    config = replace(meant(*peers), private_key=private_key(draw(st.integers(1, 2))))
    return replace(
        config,
        mtu=draw(st.sampled_from([1280, 1420])),
        hosts=draw(st.sampled_from([(), HOSTS])),
        routes=(Route(SUBNET, draw(st.sampled_from([None, 1220]))), Route(SUBNET6)),
        policy=draw(policies),
    )


@st.composite
def interfaces(draw: st.DrawFn) -> Interface | None:
    if draw(st.booleans()):
        return seen(draw(configs()))
    owners = {network: draw(st.integers(0, 6)) for network in NETWORKS}
    peers = {
        KEYS[n]: Peer(
            KEYS[n],
            draw(st.none() | st.integers(0, 3).map(place)),
            frozenset(network for network, owner in owners.items() if owner == n),
            draw(secrets),
            draw(st.sampled_from([0, 25])),
            draw(st.sampled_from([None, NOW - 1, NOW - REJECT_AFTER_S, NOW + 5])),
            0,
            0,
        )
        for n in draw(numbers)
    }
    key = draw(st.sampled_from([None, private_key(1).public, private_key(2).public]))
    addresses: frozenset[IPInterface] = frozenset(
        draw(st.sets(st.sampled_from([ADDRESS, ADDRESS6, IPv4Interface("10.1.0.2/32")])))
    )
    some = [ROUTES[0], ROUTES[1], Route(IPv4Network("10.7.0.0/16"))]
    routes = frozenset(draw(st.sets(st.sampled_from(some))))
    device = Device("lw0", key, draw(st.sampled_from([0, 51820, 51821])), peers)
    return draw(st.none() | st.just(Interface(device, draw(st.booleans()), 1420, addresses, routes)))


hosts_read = st.sampled_from([None, (), HOSTS, (HostEntry(IPv4Address("10.1.0.9"), ("old",)),)])
ANY = settings(deadline=None, max_examples=150)


@ANY
@given(configs(), interfaces(), tables, hosts_read, st.none() | configs())
def test_applied_diff_reads_back_as_desired(
    config: InterfaceConfig,
    before: Interface | None,
    table: Rules | None,
    hosts: Hosts,
    previous: InterfaceConfig | None,
) -> None:
    model = Model(before, hosts, table)
    model.apply(diff(config, Observed(before, table, hosts), previous, NOW))
    after = model.interface
    assert after is not None
    assert (after.up, after.mtu, model.hosts or ()) == (True, config.mtu, config.hosts)
    assert (after.addresses, after.routes) == (frozenset(config.addresses), frozenset(config.routes))
    assert model.table == render(config.policy, config.name)
    assert (after.device.public_key, after.device.listen_port) == (config.private_key.public, config.listen_port)
    found = {p.public_key: (p.allowed_ips, p.keepalive, p.preshared_key) for p in after.device.peers.values()}
    keys = {p.public_key: p.preshared_key or _key_before(before, p.public_key) for p in config.peers}
    peers = [peer for peer in config.peers if keys[peer.public_key] is not None]
    assert found == {p.public_key: (p.allowed_ips, p.keepalive, keys[p.public_key]) for p in peers}
    for peer in peers:
        is_at = after.device.peers[peer.public_key].endpoint
        assert is_at == peer.endpoint or is_at == _roamed_to(before, peer.public_key)
    left = diff(config, Observed(after, model.table, model.hosts), config, NOW)
    assert not left, left.reasons
    assert left == InterfaceDiff()


def _key_before(before: Interface | None, key: PublicKey) -> PresharedKey | None:
    """What a peer keeps whose key is not known."""
    peer = before.device.peers.get(key) if before else None
    return peer.preshared_key if peer else None


def _roamed_to(before: Interface | None, key: PublicKey) -> UdpEndpoint | None:
    """Where a live peer was heard of."""
    peer = before.device.peers.get(key) if before else None
    alive = peer is not None and peer.last_handshake is not None and NOW - peer.last_handshake < REJECT_AFTER_S
    return peer.endpoint if peer is not None and alive else None


@ANY
@given(configs())
def test_diff_is_empty_where_all_is_desired(config: InterfaceConfig) -> None:
    for previous in (None, config):
        for complete in (True, False):
            assert diff_of(config, seen(config), config.hosts, previous, NOW, complete=complete) == InterfaceDiff()


@ANY
@given(configs(), interfaces(), tables, hosts_read, st.none() | configs())
def test_on_partial_knowledge_nothing_is_taken_away(
    config: InterfaceConfig,
    before: Interface | None,
    table: Rules | None,
    hosts: Hosts,
    previous: InterfaceConfig | None,
) -> None:
    changes = diff(config, Observed(before, table, hosts), previous, NOW, complete=False)
    assert (changes.first_rules, changes.rules) == (None if table else render(config.policy, config.name), None)
    assert not changes.remove_addresses
    assert not changes.remove_routes
    assert changes.hosts is None or not hosts
    for peer in changes.device.peers if changes.device else ():
        assert not peer.remove
        assert not peer.replace_allowed_ips
    model = Model(before, hosts, table)
    model.apply(changes)
    after = model.interface
    assert after is not None
    if before is not None:
        assert after.device.peers.keys() >= before.device.peers.keys()
        meant_for = {network for peer in config.peers for network in peer.allowed_ips}
        for key, old in before.device.peers.items():
            assert after.device.peers[key].allowed_ips >= old.allowed_ips - meant_for
    for wanted_peer in config.peers:
        if wanted_peer.preshared_key or _key_before(before, wanted_peer.public_key):
            assert after.device.peers[wanted_peer.public_key].allowed_ips >= wanted_peer.allowed_ips
            assert after.device.peers[wanted_peer.public_key].preshared_key is not None
        elif before is None or wanted_peer.public_key not in before.device.peers:
            assert wanted_peer.public_key not in after.device.peers, "a peer without a key"
    left = diff(config, Observed(after, model.table, model.hosts), config, NOW, complete=False)
    assert not left, left.reasons


@ANY
@given(configs(), interfaces(), hosts_read, st.none() | configs())
def test_only_what_differs_is_touched(
    config: InterfaceConfig, before: Interface | None, hosts: Hosts, previous: InterfaceConfig | None
) -> None:
    changes = diff_of(config, before, hosts, previous, NOW)
    assert bool(changes) == (changes != InterfaceDiff())
    if before is None or changes.device is None:
        return
    there = before.device.peers
    for change in changes.device.peers:
        if change.remove:
            assert change.public_key in there
        elif change.public_key in there:
            assert change.update_only, "one that went away meanwhile is not made half"
            old = there[change.public_key]
            parts = [
                change.endpoint not in (None, old.endpoint),
                change.keepalive not in (None, old.keepalive),
                change.preshared_key not in (None, old.preshared_key),
                change.allowed_ips is not None and change.allowed_ips != old.allowed_ips,
            ]
            if changes.device.private_key is not None:
                parts[1] = change.keepalive is not None  # turned off, and on again: it begins a handshake
            assert any(parts)
            said = (change.endpoint, change.keepalive, change.preshared_key, change.allowed_ips)
            assert sum(parts) == sum(part is not None for part in said)
        else:
            assert change.preshared_key is not None, "without its key it is not made"
            assert change.keepalive == 25, "it speaks first"
            assert change.endpoint is not None


# --- preshared keys


def keyed(key: PresharedKey | None) -> PeerConfig:
    return replace(wanted(0), preshared_key=key)


def test_other_preshared_key_is_set_in_place_alone() -> None:
    before = seen(meant(keyed(KEY), wanted(1)))
    changes = diff_of(meant(keyed(OTHER_KEY), wanted(1)), before, HOSTS, None, NOW)
    change = PeerChange(KEYS[0], preshared_key=OTHER_KEY, update_only=True)
    assert changes == InterfaceDiff(device=DeviceChange(peers=(change,)), reasons=("1 preshared keys changed",))
    assert KEY.raw.hex() not in repr(changes)


def test_peer_without_link_key_waits_old_one_stays() -> None:
    new = diff_of(meant(keyed(None), wanted(1)), None, HOSTS, None, NOW)
    assert new.device is not None
    assert [peer.public_key for peer in new.device.peers] == [KEYS[1]]
    assert not diff_of(meant(keyed(None), wanted(1)), seen(meant(wanted(1))), HOSTS, None, NOW)
    there = seen(meant(keyed(KEY), wanted(1)))
    assert not diff_of(meant(keyed(None), wanted(1)), there, HOSTS, None, NOW)
    bare = replace(there.device.peers[KEYS[0]], preshared_key=None)
    there = replace(there, device=replace(there.device, peers={**there.device.peers, KEYS[0]: bare}))
    gone = diff_of(meant(keyed(None), wanted(1)), there, HOSTS, None, NOW)
    assert gone.device == DeviceChange(peers=(PeerChange(KEYS[0], remove=True),)), "one without a key goes"
    moved = replace(keyed(None), endpoint=place(9))
    assert not diff_of(meant(moved, wanted(1)), there, HOSTS, meant(keyed(None), wanted(1)), NOW, complete=False)


# --- examples

LIVE = meant(wanted(0), wanted(1))


@pytest.mark.parametrize("previous", [None, LIVE])
def test_live_roamed_peer_stays_where_it_is(previous: InterfaceConfig | None) -> None:
    assert not diff_of(LIVE, roamed(seen(LIVE), 0, 9), HOSTS, previous, NOW)


@pytest.mark.parametrize("handshake", [None, NOW - REJECT_AFTER_S, NOW - 5000])
def test_dead_peer_returns_to_its_recorded_endpoint(handshake: float | None) -> None:
    changes = diff_of(LIVE, roamed(seen(LIVE), 0, 9, handshake), HOSTS, LIVE, NOW)
    assert changes.device is not None
    assert changes.device.peers == (PeerChange(KEYS[0], endpoint=place(0), update_only=True),)
    assert changes.reasons == ("1 peers set",)


def test_changed_record_moves_only_that_live_peer() -> None:
    config = meant(wanted(0, at=5), wanted(1))
    for before in (seen(LIVE), roamed(seen(LIVE), 0, 9), roamed(seen(LIVE), 1, 9)):
        changes = diff_of(config, before, HOSTS, LIVE, NOW)
        assert changes.device is not None
        assert changes.device.peers == (PeerChange(KEYS[0], endpoint=place(5), update_only=True),)


def test_device_with_same_private_key_keeps_it() -> None:
    before = replace(seen(LIVE), mtu=1280)
    changes = diff_of(LIVE, before, HOSTS, None, NOW)
    assert changes == InterfaceDiff(mtu=1420, reasons=("mtu 1280 -> 1420",))


def test_another_private_key_has_peers_speak_first() -> None:
    """It changes nothing else, like another port."""
    before = seen(LIVE)
    other = replace(before, device=replace(before.device, public_key=private_key(2).public, listen_port=1))
    changes = diff_of(LIVE, other, HOSTS, LIVE, NOW)
    silent = tuple(PeerChange(public, keepalive=0, update_only=True) for public in sorted(before.device.peers))
    speaking = tuple(replace(change, keepalive=25) for change in silent)
    assert changes.device == DeviceChange(LIVE.private_key, LIVE.listen_port, (*silent, *speaking))
    assert changes.reasons == ("another private key", "UDP port 1 -> 51820")
    assert str(LIVE.private_key.raw) not in repr(changes)


def test_departed_peer_is_removed_by_its_key() -> None:
    changes = diff_of(meant(wanted(1)), seen(LIVE), HOSTS, LIVE, NOW)
    assert changes.device == DeviceChange(peers=(PeerChange(KEYS[0], remove=True),))
    assert changes.reasons == ("1 peers removed",)


def test_peer_with_new_key_takes_its_address_over() -> None:
    new = replace(wanted(0), public_key=KEYS[3])
    changes = diff_of(meant(new, wanted(1)), seen(LIVE), HOSTS, LIVE, NOW)
    assert changes.device is not None
    assert [(peer.public_key, peer.remove) for peer in changes.device.peers] == [(KEYS[0], True), (KEYS[3], False)]


@pytest.mark.parametrize(
    ("read", "complete", "expected"),
    [
        (None, True, HOSTS),
        (None, False, HOSTS),
        ((), True, HOSTS),
        (HOSTS, True, None),
        ((HostEntry(IPv4Address("10.1.0.9"), ("old",)),), True, HOSTS),
        ((HostEntry(IPv4Address("10.1.0.9"), ("old",)),), False, None),
    ],
)
def test_names_are_written_whole_or_left(read: Hosts, complete: bool, expected: Hosts) -> None:
    changes = diff_of(LIVE, seen(LIVE), read, LIVE, NOW, complete=complete)
    assert changes.hosts == expected
    assert changes.reasons == (("names of 1 addresses",) if expected else ())


def test_empty_names_need_no_block_and_remove_one() -> None:
    config = replace(LIVE, hosts=())
    assert not diff_of(config, seen(config), None, None, NOW)
    assert diff_of(config, seen(config), HOSTS, None, NOW).hosts == ()


def test_missing_device_is_made_with_all_peers() -> None:
    changes = diff_of(LIVE, None, HOSTS, LIVE, NOW)
    assert changes.create
    assert changes.up
    assert changes.device is not None
    assert [peer.update_only for peer in changes.device.peers] == [False, False]
    assert changes.reasons == ("no device yet; 2 peers",)


def test_a_device_that_is_down_comes_up() -> None:
    assert diff_of(LIVE, replace(seen(LIVE), up=False), HOSTS, LIVE, NOW) == InterfaceDiff(
        up=True, reasons=("was down",)
    )


def test_the_model_gives_a_network_one_owner() -> None:
    model = Model(seen(LIVE), HOSTS)
    change = DeviceChange(peers=(PeerChange(KEYS[1], allowed_ips=frozenset({NETWORKS[0]})),))
    model.apply(InterfaceDiff(device=change, reasons=("x",)))
    assert model.interface is not None
    owners: Mapping[PublicKey, Peer] = model.interface.device.peers
    assert owners[KEYS[0]].allowed_ips == frozenset()
    assert owners[KEYS[1]].allowed_ips == {NETWORKS[0], NETWORKS[1]}


# --- rules

PLAIN = (wanted(0), wanted(1))


@pytest.mark.parametrize(
    ("old", "new", "first", "then"),
    [
        # A backend that comes is connected to when it is a peer, one that goes no longer before it ceases to be one.
        (policy(out="0"), policy(out="01"), None, policy(out="01")),
        (policy(out="01"), policy(out="0"), policy(out="0"), None),
        (policy(out="0"), policy(out="1"), policy(), policy(out="1")),
        # Who may come in is let in before it is a peer.
        (policy(into="0"), policy(into="01"), policy(into="01"), None),
        (policy(into="01"), policy(into="0"), policy(into="0"), None),
        (policy("0", "0"), policy("01", "01"), policy("0", "01"), policy("01", "01")),
    ],
)
def test_rules_and_peers_change_without_losing_connections(
    old: Policy, new: Policy, first: Policy | None, then: Policy | None
) -> None:
    before, after = meant(*PLAIN, rules=old), meant(*PLAIN, rules=new)
    changes = diff_of(after, seen(before), HOSTS, before, NOW, table=render(old, "lw0"))
    assert changes.first_rules == (render(first, "lw0") if first else None)
    assert changes.rules == (render(then, "lw0") if then else None)
    assert changes.device is None
    assert changes.reasons == ("rules",)


@pytest.mark.parametrize("table", [None, (), render(policy("0"), "lw0"), render(policy(), "lw1")])
def test_edited_or_unknown_rules_are_rewritten_at_once(
    table: Rules | None,
) -> None:
    config = meant(*PLAIN, rules=policy("01", "0"))
    changes = diff_of(config, seen(config), HOSTS, None, NOW, table=table)
    assert changes == InterfaceDiff(first_rules=render(config.policy, "lw0"), reasons=("rules",))


def test_a_new_device_has_its_rules_first() -> None:
    changes = diff_of(LIVE, None, HOSTS, None, NOW, table=None)
    assert changes.create
    assert changes.first_rules == render(LIVE.policy, "lw0")
    assert changes.rules is None


def test_route_of_other_mtu_is_replaced_without_gap() -> None:
    config = replace(LIVE, routes=(Route(SUBNET, 1220), Route(SUBNET6)))
    changes = diff_of(config, seen(LIVE), HOSTS, LIVE, NOW)
    assert changes == InterfaceDiff(add_routes=(Route(SUBNET, 1220),), reasons=(f"routes {SUBNET}",))


def test_without_ipv6_only_ipv6_is_missing() -> None:
    hosts = (*HOSTS, HostEntry(twin(SUBNET6, IPv4Address("10.1.0.10")), ("db",)))
    config = replace(LIVE, hosts=hosts)
    assert config.without_ipv6() == replace(LIVE, addresses=(ADDRESS,), routes=(Route(SUBNET),))
