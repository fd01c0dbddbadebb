"""A memo says what would be worked out without it, whatever was asked before."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Any

import pytest

from agent.firewall.ruleset import render
from agent.interface.render_cache import RenderCache
from mesh.crypto.keys import PublicKey
from mesh.crypto.preshared_keys import PresharedKey
from mesh.model.net import IPNetwork, UdpEndpoint
from mesh.topology.policy import Allow, Policy
from mesh.topology.wgtypes import Peer, PeerConfig

KEY = PublicKey(bytes(32))
HERE, THERE = (UdpEndpoint(IPv4Address(f"192.0.2.{n}"), 1) for n in (1, 2))
NETWORKS: frozenset[IPNetwork] = frozenset({IPv4Network("10.0.0.1"), IPv6Network("fd00::1")})
SHARED = PresharedKey(bytes([1] * 32))
WANTED = PeerConfig(KEY, HERE, NETWORKS, SHARED, 25)
SEEN = Peer(KEY, HERE, NETWORKS, SHARED, 25, None, 0, 0)


def test_counters_make_no_difference_and_copies_neither() -> None:
    memo = RenderCache()
    equal = UdpEndpoint(IPv4Address("192.0.2.1"), 1)
    for seen in (SEEN, SEEN, replace(SEEN, last_handshake=7.0, rx_bytes=8), replace(SEEN, endpoint=equal), SEEN):
        assert memo.alike(WANTED, seen)
        assert memo.alike(replace(WANTED), seen)


@pytest.mark.parametrize(
    ("meant", "seen"),
    [
        ({"endpoint": THERE}, {"endpoint": THERE}),
        ({"endpoint": THERE}, {"endpoint": None}),
        ({"allowed_ips": frozenset()}, {"allowed_ips": frozenset()}),
        ({"preshared_key": PresharedKey(bytes([2] * 32))}, {"preshared_key": None}),
        ({"keepalive": 0}, {"keepalive": 0}),
    ],
)
def test_whatever_changes_on_either_side_is_seen(meant: dict[str, Any], seen: dict[str, Any]) -> None:
    memo = RenderCache()
    for _ in range(2):
        assert memo.alike(WANTED, SEEN)
        assert not memo.alike(WANTED, replace(SEEN, **seen))
        assert not memo.alike(replace(WANTED, **meant), SEEN)


def test_peer_without_preshared_key_never_matches_desired() -> None:
    assert not RenderCache().alike(replace(WANTED, preshared_key=None), replace(SEEN, preshared_key=None))


def test_rules_belong_to_the_policy_asked_for() -> None:
    one = Policy(IPv4Network("10.0.0.0/16"), IPv6Network("fd00::/96"), (), (), ())
    other = replace(one, inbound=(Allow("web", (IPv4Address("10.0.0.1"),), None),))
    memo = RenderCache()
    for policy, device in ((one, "lw0"), (one, "lw0"), (other, "lw0"), (other, "lw1"), (replace(one), "lw0")):
        assert memo.render(policy, device) == render(policy, device)
    assert memo.render(replace(one), "lw0") is memo.render(one, "lw0")


def test_peers_that_went_are_forgotten() -> None:
    memo = RenderCache()
    memo.alike(WANTED, SEEN)
    memo.drop_all_but({})
    assert not memo._alike
