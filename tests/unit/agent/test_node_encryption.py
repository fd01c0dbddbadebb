"""A node's tunnel is derived from the records, and changes in an order in which nothing is lost or leaks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.interface.render_cache import RenderCache
from agent.node_encryption import key as node_key
from agent.node_encryption import readiness
from agent.node_encryption.diff import Observed, TunnelDiff, Way, diff, off
from agent.node_encryption.policy_routing import NodeRoute, Rule
from agent.node_encryption.ruleset import render
from agent.node_encryption.tunnel import NodeTunnel, desired
from mesh.crypto.keys import PublicKey
from mesh.crypto.preshared_keys import PresharedKey
from mesh.errors import Terminal
from mesh.model.encryption.records import NodeEncryption, Underlay
from mesh.model.encryption.status import Mode, Step
from mesh.model.net import UdpEndpoint
from mesh.topology.wgtypes import Device, DeviceChange, Peer
from tests.support.swarm_world import private_key

OWN = private_key(1)
KEYS = {f"n{number}": private_key(number) for number in range(1, 5)}
PSK = PresharedKey(bytes([7] * 32))
PORT = 4789
NOTHING = Observed(None, up=False, mtu=0, has_address=False, routes=frozenset(), rules=frozenset(), table=None)
MTU = 1440


def host(name: str) -> IPv4Address:
    return IPv4Address(f"192.0.2.{name[1:]}")


def underlay(name: str, at: str | None = None, key: str | None = None) -> Underlay:
    return Underlay(name, KEYS[key or name].public, UdpEndpoint(host(at or name), 51819))


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
    return desired(record, map(underlay, nodes), "n1", OWN, lambda other: None if other in unknown else PSK)


def way(*ready: str) -> Way:
    return Way("lwnode", MTU, 1000.0, frozenset(KEYS[name].public for name in ready))


def difference(wanted: NodeTunnel, seen: Observed, at: Way, *, complete: bool = True) -> TunnelDiff:
    return diff(wanted, seen, None, at, RenderCache(), complete=complete)


def applied(seen: Observed, changes: TunnelDiff) -> Observed:
    """What the kernel would have then."""
    table = None if changes.remove_table else seen.table
    device = Device("lwnode", None, 0, {}) if changes.create else seen.device
    for change in (changes.device, changes.remove_peers):
        if change is not None:
            assert device is not None, "peers of no device"
            device = after(device, change)
    routes = (seen.routes - set(changes.remove_routes)) | set(changes.add_routes)
    assert not changes.add_routes or device is not None, "a route through no device"
    if changes.delete:
        device, routes = None, frozenset()
    return Observed(
        device=device,
        up=device is not None and (seen.up or changes.up),
        mtu=(changes.mtu or seen.mtu) if device is not None else 0,
        has_address=device is not None and (seen.has_address or changes.add_address),
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
tunnels = st.builds(tunnel, steps, sets_of_nodes, lacking=st.sets(st.sampled_from(["n2", "n3"])).map(frozenset))


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
    assert not changes.delete
    assert not changes.remove_table
    assert changes.remove_rules == ()
    assert changes.remove_peers is None
    known = {host(name) for name in ("n2", "n3", "n4") if KEYS[name].public not in way(*ready).ready}
    assert {route.node for route in changes.remove_routes} <= known, "only those that do not answer"


def test_each_step_adds_what_it_says() -> None:
    accept, send, enforce = (made(tunnel(step), "n2") for step in ("accept", "send", "enforce"))
    assert accept.device is not None
    assert set(accept.device.peers) == {KEYS["n2"].public, KEYS["n3"].public}
    assert (accept.routes, accept.rules, accept.table) == (frozenset(), frozenset(), None)
    assert send.routes == {NodeRoute(host("n2"), host("n1"))}, "n3 does not answer"
    assert send.rules == {Rule(4, PORT)}
    assert send.table is None
    assert {route.node for route in enforce.routes} == {host("n2"), host("n3")}
    assert enforce.table == render("lwnode", PORT)


def test_peer_without_preshared_key_is_not_made() -> None:
    seen = made(tunnel("enforce", lacking=frozenset({"n3"})), "n2")
    assert seen.device is not None
    assert set(seen.device.peers) == {KEYS["n2"].public}
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
    assert seen == replace(NOTHING, table=render("lwnode", PORT))


def test_other_key_in_the_records_is_named() -> None:
    record = NodeEncryption("prefer", "send", PORT, 7)
    wanted = desired(record, [underlay("n1", key="n4"), underlay("n2")], "n1", OWN, lambda _: PSK)
    assert "another key" in wanted.problem
    assert (wanted.place, wanted.peers) == (None, ())


@pytest.mark.parametrize("twin", [underlay("n3", at="n2"), underlay("n3", key="n2"), underlay("n3", at="n1")])
def test_no_two_peers_share_address_or_key(twin: Underlay) -> None:
    record = NodeEncryption("prefer", "send", PORT, 7)
    records = [underlay("n1"), underlay("n2"), twin, underlay("n4")]
    wanted = desired(record, records, "n1", OWN, lambda _: PSK)
    networks = [network for peer in wanted.peers for network in peer.allowed_ips]
    assert len(networks) == len(set(networks)) == len({peer.public_key for peer in wanted.peers})
    assert IPv4Network("192.0.2.4/32") in networks
    assert "node n3 has the key or the address" in wanted.problem


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
        self.known = readiness.follow(self.known or {}, device, self.now, self.wall)
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


def test_key_is_made_once_for_root_alone(tmp_path: Path) -> None:
    first = node_key.load_or_make(tmp_path / "state")
    path = tmp_path / "state" / node_key.FILE
    assert path.stat().st_mode & 0o777 == 0o600
    assert node_key.load_or_make(tmp_path / "state").public == first.public
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Terminal, match="not a key of this version"):
        node_key.load_or_make(tmp_path / "state")


@pytest.mark.parametrize(("first", "last", "port"), [(51820, 53819, 51819), (1024, 2000, 2001), (1025, 65535, 1024)])
def test_port_lies_beside_those_of_tasks(first: int, last: int, port: int) -> None:
    assert node_key.port_beside(first, last) == port
