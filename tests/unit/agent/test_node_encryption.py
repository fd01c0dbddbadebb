"""A node's tunnel is derived from the records, and changes in an order in which nothing is lost or leaks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.interface.render_cache import RenderCache
from agent.node_encryption import key as node_key
from agent.node_encryption import readiness
from agent.node_encryption.diff import Observed, ObservedDevice, TunnelDiff, Way, diff, off
from agent.node_encryption.key import HeldKey, NodeKeys
from agent.node_encryption.policy_routing import (
    HOST_TABLE,
    NodeRoute,
    PlainPorts,
    Rule,
    host_rules,
    in_order,
    overlay_rule,
)
from agent.node_encryption.ruleset import render
from agent.node_encryption.tunnel import NodeTunnel, desired
from mesh.crypto.keys import PublicKey
from mesh.crypto.preshared_keys import PresharedKey
from mesh.errors import Terminal
from mesh.model.encryption.records import NodeEncryption, Underlay
from mesh.model.encryption.status import MODES, EpochKey, Mode, Step
from mesh.model.net import UdpEndpoint
from mesh.topology.underlay import ports_beside
from mesh.topology.wgtypes import Device, DeviceChange, Peer
from tests.support.swarm_world import private_key

OWN = private_key(1)
KEYS = {f"n{number}": private_key(number) for number in range(1, 5)}
PSK = PresharedKey(bytes([7] * 32))
PORT = 4789
EPOCH = 1001
NOTHING = Observed({}, routes={}, rules=frozenset(), table=None)
NEXT = {f"n{number}": private_key(10 + number) for number in range(1, 5)}
"""Keys of the next epoch."""
FIRST_KEY, NEXT_KEY = HeldKey(0, 0, OWN), HeldKey(EPOCH, 1, NEXT["n1"])
NAMES = ("lwnode", "lwnode2")
MTU = 1440


def host(name: str) -> IPv4Address:
    return IPv4Address(f"192.0.2.{name[1:]}")


def underlay(name: str, at: str | None = None, key: str | None = None) -> Underlay:
    return Underlay(name, KEYS[key or name].public, UdpEndpoint(host(at or name), 51819))


def offered(name: str) -> Underlay:
    """Its place while keys rotate."""
    return replace(underlay(name), next=EpochKey(EPOCH, NEXT[name].public, 51818))


def renewed(name: str) -> Underlay:
    """Its place afterwards."""
    return Underlay(name, NEXT[name].public, UdpEndpoint(host(name), 51818), EPOCH)


def tunnel(
    step: Step = "send",
    nodes: tuple[str, ...] = ("n1", "n2", "n3"),
    *,
    mode: Mode = "strict",
    lacking: frozenset[str] = frozenset(),
) -> NodeTunnel:
    """`lacking`: nodes whose pair's preshared key is not known."""
    unknown = {KEYS[name].public for name in lacking}
    record = NodeEncryption(mode, step, PORT, 7)
    return told(record, map(underlay, nodes), lambda other: None if other in unknown else PSK)


def told(
    record: NodeEncryption,
    places: Iterable[Underlay],
    preshared_key: Callable[[PublicKey], PresharedKey | None] = lambda _: PSK,
) -> NodeTunnel:
    return desired(record, places, "n1", (FIRST_KEY, NEXT_KEY), lambda _, other: preshared_key(other))


def way(*ready: str, newly: Iterable[str] = ()) -> Way:
    """`newly`: nodes that answer by their next key."""
    keys = {KEYS[name].public for name in ready} | {NEXT[name].public for name in newly}
    return Way(NAMES, MTU, 1000.0, frozenset(keys), (RenderCache(), RenderCache()))


def difference(wanted: NodeTunnel, seen: Observed, at: Way, *, complete: bool = True) -> TunnelDiff:
    return diff(wanted, seen, None, at, complete=complete)


def applied(seen: Observed, changes: TunnelDiff) -> Observed:
    """What the kernel would have then."""
    table = None if changes.remove_table else seen.table
    devices = dict(seen.devices)
    for made in changes.devices:
        old = devices.get(made.slot)
        device = Device(NAMES[made.slot], None, 0, {}) if made.create or old is None else old.device
        device = after(device, made.device) if made.device is not None else device
        devices[made.slot] = ObservedDevice(
            device,
            up=made.up or (old is not None and old.up),
            mtu=made.mtu or (old.mtu if old is not None else 0),
            has_address=made.add_address or (old is not None and old.has_address),
        )
    routes = {route: slot for route, slot in seen.routes.items() if route not in changes.remove_routes}
    for route, slot in changes.set_routes:
        assert slot in devices, "a route through no device"
        routes[route] = slot
    for slot, gone in changes.remove_peers:
        devices[slot] = replace(devices[slot], device=after(devices[slot].device, gone))
    for slot in changes.delete:
        del devices[slot]
        routes = {route: through for route, through in routes.items() if through != slot}
    return Observed(
        devices=devices,
        routes=routes,
        rules=(seen.rules - set(changes.remove_rules)) | set(changes.add_rules),
        table=changes.table if changes.table is not None else table,
    )


def after(device: Device, change: DeviceChange) -> Device:
    peers = dict(device.peers)
    for one in change.peers:
        if one.remove:
            peers.pop(one.public_key, None)
            continue
        old = peers.get(one.public_key) or Peer(one.public_key, None, frozenset(), None, 0, None, 0, 0)
        networks = one.allowed_ips or frozenset()
        for key, other in peers.items():  # a network has one owner on a device
            peers[key] = replace(other, allowed_ips=other.allowed_ips - networks)
        peers[one.public_key] = replace(
            old,
            endpoint=one.endpoint or old.endpoint,
            allowed_ips=(frozenset() if one.replace_allowed_ips else old.allowed_ips) | networks,
            preshared_key=one.preshared_key or old.preshared_key,
            keepalive=old.keepalive if one.keepalive is None else one.keepalive,
        )
    public = change.private_key.public if change.private_key else device.public_key
    return Device(device.name, public, change.listen_port or device.listen_port, peers)


def made(wanted: NodeTunnel, *ready: str) -> Observed:
    return applied(NOTHING, difference(wanted, NOTHING, way(*ready)))


steps = st.sampled_from(["accept", "send", "enforce"])
sets_of_nodes = st.sets(st.sampled_from(["n1", "n2", "n3", "n4"])).map(lambda names: tuple(sorted(names)))
modes = st.sampled_from(MODES)
tunnels = st.builds(
    tunnel, steps, sets_of_nodes, mode=modes, lacking=st.sets(st.sampled_from(["n2", "n3"])).map(frozenset)
)


@given(tunnels, tunnels, st.sets(st.sampled_from(["n2", "n3", "n4"])))
def test_one_diff_makes_the_tunnel_so(before: NodeTunnel, wanted: NodeTunnel, ready: set[str]) -> None:
    seen = made(before, *ready)
    assert not difference(before, seen, way(*ready))
    seen = applied(seen, difference(wanted, seen, way(*ready)))
    assert not difference(wanted, seen, way(*ready))
    assert applied(seen, off(seen)).is_off


@given(tunnels, tunnels, st.sets(st.sampled_from(["n2", "n3", "n4"])))
def test_partial_knowledge_removes_nothing(before: NodeTunnel, wanted: NodeTunnel, ready: set[str]) -> None:
    seen = made(before, *ready)
    changes = difference(wanted, seen, way(*ready), complete=False)
    assert changes.delete == ()
    assert not changes.remove_table
    assert changes.table is None or wanted.encryption.step == "enforce" or seen.table is None
    assert changes.remove_rules == ()
    assert changes.remove_peers == ()
    known = {host(name) for name in ("n2", "n3", "n4") if KEYS[name].public not in way(*ready).ready}
    assert {route.node for route in changes.remove_routes} <= known, "only those that do not answer"


def test_each_step_adds_what_it_says() -> None:
    accept, send, enforce = (made(tunnel(step), "n2") for step in ("accept", "send", "enforce"))
    assert set(accept.devices[0].device.peers) == {KEYS["n2"].public, KEYS["n3"].public}
    assert (accept.routes, accept.rules, accept.table) == ({}, frozenset(), None)
    assert send.routes == {NodeRoute(host("n2"), host("n1")): 0}, "n3 does not answer"
    assert send.rules == {overlay_rule(4, PORT)}
    assert send.table is None
    assert {route.node for route in enforce.routes} == {host("n2"), host("n3")}
    assert enforce.table == render(NAMES, PORT)


def test_mode_all_adds_what_nodes_send_themselves() -> None:
    accept, send, enforce = (made(tunnel(step, mode="all"), "n2") for step in ("accept", "send", "enforce"))
    assert (accept.routes, accept.rules, accept.table) == ({}, frozenset(), None)
    for seen, step in ((send, "send"), (enforce, "enforce")):
        own = {route: slot for route, slot in seen.routes.items() if route.table == HOST_TABLE}
        assert own == {NodeRoute(host("n2"), host("n1"), HOST_TABLE): 0}, "a silent node's agent has to be reached"
        assert seen.rules == {overlay_rule(4, PORT), *host_rules(host("n1"), PlainPorts())}
        assert seen.table == render(NAMES, PORT, refuses=step == "enforce", marks=True)
    assert {route.node for route in enforce.routes} == {host("n2"), host("n3")}
    back = applied(enforce, difference(tunnel("enforce"), enforce, way("n2")))
    assert back == made(tunnel("enforce"), "n2")


def test_exceptions_come_first_and_go_last() -> None:
    changes = difference(tunnel(mode="all"), made(tunnel()), way())
    assert set(changes.add_rules) == host_rules(host("n1"), PlainPorts())
    looks_up = [rule.table == HOST_TABLE for rule in changes.add_rules]
    assert looks_up == sorted(looks_up)
    (end,) = [rule for rule in changes.add_rules if not rule.table and not rule.goto]
    assert changes.add_rules[0] == end
    assert {rule.goto for rule in changes.add_rules if rule.goto} == {end.preference}
    seen = made(tunnel(mode="all"))
    assert difference(tunnel(), seen, way()).remove_rules == changes.add_rules[::-1]
    assert off(seen).remove_rules[:5] == in_order(seen.rules)[:-6:-1]


def test_only_packets_of_known_address_are_taken() -> None:
    plain = PlainPorts((51819, 51818), (51820, 53819), (2379, 2380))
    for address in (host("n1"), IPv6Address("2001:db8::1")):
        rules = host_rules(address, plain)
        taken = {rule for rule in rules if rule.table and not rule.mark}
        assert {rule.protocol for rule in taken} == {6, 17}
        assert {rule.source for rule in taken} == {address, IPv4Address(0)} - (
            {IPv4Address(0)} if address.version == 6 else set()
        )
        udp = [rule for rule in rules if rule.goto and rule.protocol == 17 and rule.ports != (7946, 7946)]
        assert {(rule.source_ports, rule.ports) for rule in udp} == {
            ((7946, 7946), (0, 0)),
            ((51818, 51818), (0, 0)),
            ((51819, 51819), (0, 0)),
            ((51820, 53819), (51820, 53819)),
        }
        for port in (22, 2377, 2379, 2380, 7946):
            around = [Rule(address.version, 4790, goto=4792, protocol=6, ports=(port, port))]
            around.append(replace(around[0], ports=(0, 0), source_ports=(port, port)))
            assert rules.issuperset(around)


def test_peer_without_preshared_key_is_not_made() -> None:
    seen = made(tunnel("enforce", lacking=frozenset({"n3"})), "n2")
    assert set(seen.devices[0].device.peers) == {KEYS["n2"].public}
    assert {route.node for route in seen.routes} == {host("n2")}
    assert "link key" in tunnel(lacking=frozenset({"n3"})).problem


def test_peer_that_stops_answering_loses_its_route() -> None:
    seen = made(tunnel("send"), "n2", "n3")
    changes = difference(tunnel("send"), seen, way("n2"), complete=False)
    assert changes == TunnelDiff(remove_routes=(NodeRoute(host("n3"), host("n1")),))


def test_node_without_place_only_refuses() -> None:
    wanted = tunnel("enforce", ("n2", "n3"))
    assert "no place" in wanted.problem
    seen = made(wanted, "n2")
    assert seen == replace(NOTHING, table=render(NAMES, PORT))


def test_other_key_in_the_records_is_named() -> None:
    record = NodeEncryption("prefer", "send", PORT, 7)
    wanted = told(record, [underlay("n1", key="n4"), underlay("n2")])
    assert "another key" in wanted.problem
    assert (wanted.host, wanted.peers) == (None, ())


@pytest.mark.parametrize("twin", [underlay("n3", at="n2"), underlay("n3", key="n2"), underlay("n3", at="n1")])
def test_no_two_peers_share_address_or_key(twin: Underlay) -> None:
    record = NodeEncryption("prefer", "send", PORT, 7)
    records = [underlay("n1"), underlay("n2"), twin, underlay("n4")]
    wanted = told(record, records)
    networks = [network for peer in wanted.peers for network in peer.allowed_ips]
    assert len(networks) == len(set(networks)) == len({peer.public_key for peer in wanted.peers})
    assert IPv4Network("192.0.2.4/32") in networks
    assert "node n3 has the key or the address" in wanted.problem


# --- rotation of keys


@pytest.mark.parametrize("step", ["accept", "send", "enforce"])
def test_second_device_is_made_and_first_stays(step: Step) -> None:
    record = NodeEncryption("strict", step, PORT, 7)
    before = made(tunnel(step), "n2", "n3")
    wanted = told(record, map(offered, ("n1", "n2", "n3")))
    changes = difference(wanted, before, way("n2", "n3"))
    assert changes.changed == ("devices",), "nothing moves before the others answer, and no rule changes"
    seen = applied(before, changes)
    assert seen.devices[0] == before.devices[0]
    assert set(seen.devices[1].device.peers) == {NEXT["n2"].public, NEXT["n3"].public}
    assert not difference(wanted, seen, way("n2", "n3"))


def test_routes_move_to_each_node_that_answers() -> None:
    record = NodeEncryption("prefer", "send", PORT, 7)
    wanted = told(record, map(offered, ("n1", "n2", "n3")))
    seen = made(wanted, "n2", "n3")
    changes = difference(wanted, seen, way("n2", "n3", newly=["n2"]))
    assert changes == TunnelDiff(set_routes=((NodeRoute(host("n2"), host("n1")), 1),))
    seen = applied(seen, changes)
    back = difference(wanted, seen, way("n2", "n3"))
    assert back.set_routes == ((NodeRoute(host("n2"), host("n1")), 0),), "it stopped to answer there"


def test_first_device_and_its_peers_go_last() -> None:
    record = NodeEncryption("strict", "enforce", PORT, 7)
    both = made(told(record, map(offered, ("n1", "n2"))), "n2")
    changes = difference(told(record, map(renewed, ("n1", "n2"))), both, way(newly=["n2"]))
    assert changes == TunnelDiff(set_routes=((NodeRoute(host("n2"), host("n1")), 1),), delete=(0,))
    seen = applied(both, changes)
    assert set(seen.devices) == {1}


places = st.sampled_from([underlay, offered, renewed])


@given(st.tuples(places, places), st.tuples(places, places), st.sets(st.sampled_from(["n2", "n3"])), steps)
def test_mixed_epochs_leave_no_packet_without_peer(
    own_and_others: tuple[Callable[[str], Underlay], Callable[[str], Underlay]],
    later: tuple[Callable[[str], Underlay], Callable[[str], Underlay]],
    newly: set[str],
    step: Step,
) -> None:
    """While the controller writes places one after another, or a node was away."""
    record, seen = NodeEncryption("strict", step, PORT, 7), NOTHING
    for own, others in (own_and_others, later, own_and_others):
        wanted = told(record, [own("n1"), others("n2"), own("n3")])
        peers = {peer.public_key for device in wanted.devices for peer in device.peers}
        at = replace(way("n2", "n3", newly=newly), ready=way("n2", "n3", newly=newly).ready & peers)
        changes = difference(wanted, seen, at)
        moved = applied(seen, replace(changes, remove_peers=(), delete=()))
        assert leads_somewhere(moved), "routes move while all peers are there"
        seen = applied(seen, changes)
        assert leads_somewhere(seen)
        assert not difference(wanted, seen, at)
        left = {slot: set(one.device.peers) for slot, one in seen.devices.items()}
        assert left == {device.slot: {peer.public_key for peer in device.peers} for device in wanted.devices}


def leads_somewhere(seen: Observed) -> bool:
    """Tell whether every route leads through a device that has the node as a peer."""
    return all(
        any(IPv4Network(str(route.node)) in peer.allowed_ips for peer in seen.devices[slot].device.peers.values())
        for route, slot in seen.routes.items()
    )


# --- readiness


@dataclass
class Clock:
    """Two clocks, and a peer's counters."""

    now: float = 100.0
    wall: float = 5000.0
    known: readiness.Readiness | None = None
    handshake: float | None = None
    rx: int = 0
    tx: int = 0

    def look(self, seconds: float = 1.0, *, sent: int = 0, received: int = 0) -> bool:
        self.now, self.wall = self.now + seconds, self.wall + seconds
        self.tx, self.rx = self.tx + sent, self.rx + received
        peer = Peer(KEYS["n2"].public, None, frozenset(), PSK, 25, self.handshake, self.rx, self.tx)
        device = Device("lwnode", OWN.public, 51819, {peer.public_key: peer})
        self.known = readiness.follow(self.known or {}, [device], self.now, self.wall)
        return ready(self.known, self.now) == {KEYS["n2"].public}

    def shake(self) -> None:
        self.handshake = self.wall


def ready(known: readiness.Readiness, now: float) -> frozenset[PublicKey]:
    return readiness.ready(known, now)


def test_peer_is_ready_from_its_first_handshake() -> None:
    clock = Clock()
    assert not clock.look()
    clock.shake()
    assert clock.look(sent=148, received=92)


def test_silent_peer_stops_to_be_ready() -> None:
    clock = Clock()
    clock.shake()
    assert clock.look(sent=148, received=92)
    assert clock.look(sent=1400)
    assert clock.look(9.0, sent=1400)
    assert not clock.look(3.0, sent=1400)


def test_old_session_is_not_ready() -> None:
    clock = Clock()
    clock.shake()
    assert clock.look()
    assert clock.look(170.0)
    assert not clock.look(12.0)


def test_set_wall_clock_makes_nobody_unready() -> None:
    clock = Clock()
    clock.shake()
    assert clock.look()
    clock.wall += 3600.0
    assert clock.look()
    clock.wall -= 7200.0
    assert clock.look()


# --- key and port


def keys_in(folder: Path) -> NodeKeys:
    return NodeKeys(folder, (51819, 51818))


def test_key_is_made_once_for_root_alone(tmp_path: Path) -> None:
    first = keys_in(tmp_path / "state")
    path = tmp_path / "state" / node_key.FILE
    assert path.stat().st_mode & 0o777 == 0o600
    assert keys_in(tmp_path / "state").stated == first.stated
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Terminal, match="not a key of this version"):
        keys_in(tmp_path / "state")


def test_keys_of_two_epochs_alternate_between_slots(tmp_path: Path) -> None:
    keys = keys_in(tmp_path)
    (first,) = keys.stated
    assert (first.epoch, first.port) == (0, 51819)
    for epoch, port in ((1001, 51818), (1002, 51819), (1003, 51818)):
        placed = [keys.stated[0].public_key]
        for _ in range(2):  # and an agent that starts anew
            keys.keep(epoch, placed)
            assert [(key.epoch, key.port) for key in keys.stated][1:] == [(epoch, port)]
            keys = keys_in(tmp_path)
        newest = keys.stated[-1]
        keys.keep(epoch, [*placed, newest.public_key])
        assert newest != keys.stated[0], "both are in use"
        keys.keep(epoch, [newest.public_key])
        assert [*keys.stated] == [*keys_in(tmp_path).stated] == [newest]
        assert len(list(tmp_path.iterdir())) == 1


def test_key_without_place_outlasts_until_slot_is_needed(tmp_path: Path) -> None:
    keys = keys_in(tmp_path)
    keys.keep(1001, [])
    first, second = keys.stated
    keys.keep(1001, [])
    assert keys.stated == (first, second), "nothing says yet that one is of no use"
    keys.keep(1002, [second.public_key])
    assert [key.epoch for key in keys.stated] == [1001, 1002]
    keys.keep(0, [])
    assert [key.epoch for key in keys.stated] == [0, 1001], "asked for the first again, after all was off"
    assert keys.stated[0] != first


def test_key_in_use_is_never_given_up(tmp_path: Path) -> None:
    keys = keys_in(tmp_path)
    keys.keep(1001, [keys.stated[0].public_key])
    both = keys.stated
    keys.keep(1002, [key.public_key for key in both])
    assert keys.stated == both


@pytest.mark.parametrize(
    ("first", "last", "ports"),
    [
        (51820, 53819, (51819, 51818)),
        (1024, 2000, (2001, 2002)),
        (1025, 65535, (1024, 0)),
        (1026, 65535, (1025, 1024)),
    ],
)
def test_ports_lie_beside_those_of_tasks(first: int, last: int, ports: tuple[int, int]) -> None:
    assert ports_beside(first, last) == ports
