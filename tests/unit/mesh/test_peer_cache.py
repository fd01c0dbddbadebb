"""Peers that were worked out before are what would be worked out anew, and the same objects where they can be."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Network

from mesh.crypto.preshared_keys import PresharedKey
from mesh.model.net import UdpEndpoint
from mesh.model.records import Endpoint
from mesh.topology.peer_cache import PeerCache
from tests.support.link_graphs import CLUSTER, endpoint
from tests.support.swarm_world import private_key

ONE, TWO = endpoint("A", "a1", 1), endpoint("A", "a2", 2)
KEY, OTHER_KEY = PresharedKey(bytes([1] * 32)), PresharedKey(bytes([2] * 32))
PREFIX, OTHER_PREFIX = CLUSTER.subnet6, IPv6Network("fd99::/96")
CHANGES: tuple[dict[str, object], ...] = (
    {"ready": False},
    {"underlay": UdpEndpoint(ONE.underlay.host, 9)},
    {"address": TWO.address},
    {"public_key": private_key(9).public},
    {},
)


def test_cached_peers_equal_freshly_computed_ones() -> None:
    known = PeerCache()
    peers: list[Endpoint] = [replace(ONE, **change) for change in CHANGES]  # type: ignore[arg-type]  # a field each
    for peer in (*peers, *reversed(peers)):
        for prefix in (PREFIX, OTHER_PREFIX):
            for key in (KEY, None, OTHER_KEY, KEY):
                assert known.of(peer, prefix, key) == PeerCache().of(peer, prefix, key)
                assert known.of(peer, prefix, key) is known.of(peer, prefix, key)
    for peer in (*peers, *reversed(peers)):
        assert known.of(peer, PREFIX, KEY) == PeerCache().of(peer, PREFIX, KEY)


def test_what_comes_out_the_same_is_the_same() -> None:
    known = PeerCache()
    first = known.of(ONE, PREFIX, KEY)
    assert known.of(replace(ONE, ready=False), PREFIX, PresharedKey(KEY.raw)) is first
    assert known.of(TWO, PREFIX, KEY) is known.of(TWO, PREFIX, KEY)
    assert known.of(ONE, PREFIX, KEY) is first
    known.drop_stale([TWO.task])
    assert known.of(ONE, PREFIX, KEY) is not first
