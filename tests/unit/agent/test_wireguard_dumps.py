"""What a device's decoder remembers from one dump to the next is never seen in what it says."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.linux.netlink_socket import NLA_F_NESTED, attribute
from agent.wireguard import genetlink, uapi
from mesh.crypto.keys import PublicKey
from mesh.crypto.preshared_keys import PresharedKey
from mesh.model.net import IPNetwork, UdpEndpoint
from mesh.topology.wgtypes import Peer

NAME = "lw0123456789ab"
AF = {4: 2, 6: 10}

networks = st.builds(
    lambda address, cut: ip_network((address, address.max_prefixlen * cut // 8), strict=False),
    st.ip_addresses(),
    st.integers(0, 8),
)
counters = st.integers(0, 2**63)
# Few keys, so that the same peer is in most dumps; halves of a second are a float to the digit.
peers = st.builds(
    Peer,
    public_key=st.integers(0, 3).map(lambda n: PublicKey(bytes([n] * 32))),
    endpoint=st.none() | st.builds(UdpEndpoint, st.ip_addresses(), st.integers(1, 65535)),
    allowed_ips=st.frozensets(networks, max_size=4),
    preshared_key=st.none() | st.integers(1, 2).map(lambda n: PresharedKey(bytes([n] * 32))),
    keepalive=st.integers(0, 65535),
    last_handshake=st.none() | st.integers(1, 2**33).map(lambda n: n / 2),
    rx_bytes=counters,
    tx_bytes=counters,
)
states = st.lists(st.lists(peers, max_size=4, unique_by=lambda peer: peer.public_key), min_size=1, max_size=5)


def met(states: list[list[Peer]], more: int) -> list[list[Peer]]:
    """Each state, and then the same with other counters: what a decoder meets most."""
    return [seen for state in states for seen in (state, [replace(peer, tx_bytes=more) for peer in state])]


def dumped(state: Iterable[Peer], *, pieces: bool) -> list[memoryview]:
    """As the kernel does it: get_peer in drivers/net/wireguard/netlink.c; the last peer may go on in the next."""
    whole = [(peer, sorted(peer.allowed_ips, key=str)) for peer in state]
    messages = [b"".join(attribute(NLA_F_NESTED, head(peer) + allowed(ips)) for peer, ips in whole)]
    if pieces and whole:
        peer, ips = whole[-1]
        cut = len(ips) // 2
        first = [*whole[:-1], (peer, ips[:cut])]
        messages = [b"".join(attribute(NLA_F_NESTED, head(of) + allowed(its)) for of, its in first)]
        messages += [attribute(NLA_F_NESTED, attribute(1, peer.public_key.raw) + allowed(ips[cut:]))]
    return [memoryview(genetlink.message(0, attribute(8 | NLA_F_NESTED, message))) for message in messages]


def head(peer: Peer) -> bytes:
    handshake = peer.last_handshake or 0.0
    raw = attribute(1, peer.public_key.raw)
    raw += attribute(2, peer.preshared_key.raw if peer.preshared_key else bytes(32))
    raw += attribute(6, struct.pack("=qq", int(handshake), int(handshake % 1 * 1e9)))
    raw += attribute(5, struct.pack("=H", peer.keepalive))
    raw += attribute(8, struct.pack("=Q", peer.tx_bytes)) + attribute(7, struct.pack("=Q", peer.rx_bytes))
    raw += attribute(10, struct.pack("=I", 1))
    if peer.endpoint is not None:
        host = peer.endpoint.host
        sockaddr = struct.pack("=H", AF[host.version]) + struct.pack("!H", peer.endpoint.port)
        sockaddr += host.packed + bytes(8) if host.version == 4 else bytes(4) + host.packed + bytes(4)
        raw += attribute(4, sockaddr)
    return raw


def allowed(networks: Iterable[IPNetwork]) -> bytes:
    return attribute(
        9 | NLA_F_NESTED,
        b"".join(
            attribute(
                NLA_F_NESTED,
                attribute(1, struct.pack("=H", AF[network.version]))
                + attribute(2, network.network_address.packed)
                + attribute(3, bytes([network.prefixlen])),
            )
            for network in networks
        ),
    )


def written(state: Iterable[Peer]) -> str:
    """As wireguard-go does it: device/uapi.go, IpcGetOperation."""
    lines = [f"private_key={'11' * 32}", "listen_port=7"]
    for peer in state:
        handshake = peer.last_handshake or 0.0
        lines.append(f"public_key={peer.public_key.raw.hex()}")
        lines.append(f"preshared_key={peer.preshared_key.raw.hex() if peer.preshared_key else '00' * 32}")
        lines.append("protocol_version=1")
        lines += [f"endpoint={peer.endpoint}"] if peer.endpoint else []
        lines.append(f"last_handshake_time_sec={int(handshake)}")
        lines.append(f"last_handshake_time_nsec={int(handshake % 1 * 1e9)}")
        lines += [f"tx_bytes={peer.tx_bytes}", f"rx_bytes={peer.rx_bytes}"]
        lines.append(f"persistent_keepalive_interval={peer.keepalive}")
        lines += [f"allowed_ip={network}" for network in sorted(peer.allowed_ips, key=str)]
    return "\n".join([*lines, ""])


@given(states, st.booleans(), counters)
def test_the_kernels_dumps(states: list[list[Peer]], pieces: bool, more: int) -> None:
    decoder = genetlink.Decoder()
    for state in met(states, more):
        expected = {peer.public_key: peer for peer in state}
        assert decoder.decode(NAME, dumped(state, pieces=pieces)).peers == expected
        assert genetlink.Decoder().decode(NAME, dumped(state, pieces=pieces)).peers == expected


@given(states, counters)
def test_wireguard_gos_answers(states: list[list[Peer]], more: int) -> None:
    decoder = uapi.Decoder()
    for state in met(states, more):
        expected = {peer.public_key: peer for peer in state}
        assert decoder.decode(NAME, written(state)).peers == expected
        assert uapi.Decoder().decode(NAME, written(state)).peers == expected


FIELDS = ("endpoint", "allowed_ips", "preshared_key", "keepalive", "last_handshake", "rx_bytes", "tx_bytes")


@pytest.mark.parametrize("field", FIELDS)
@given(peers, peers)
def test_a_peer_of_which_one_thing_changes(field: str, peer: Peer, other: Peer) -> None:
    later = replace(peer, **{field: getattr(other, field)})
    kernels, gos = genetlink.Decoder(), uapi.Decoder()
    for seen in (peer, later, peer):
        assert kernels.decode(NAME, dumped([seen], pieces=False)).peers == {peer.public_key: seen}
        assert gos.decode(NAME, written([seen])).peers == {peer.public_key: seen}


@given(peers, counters)
def test_peer_that_only_sent_keeps_everything_else(peer: Peer, more: int) -> None:
    """The same objects: what compares them need not look into them again."""
    later = replace(peer, last_handshake=1.5, tx_bytes=more)
    kernels, gos = genetlink.Decoder(), uapi.Decoder()
    for before, after in (
        [kernels.decode(NAME, dumped([seen], pieces=False)).peers[peer.public_key] for seen in (peer, later)],
        [gos.decode(NAME, written([seen])).peers[peer.public_key] for seen in (peer, later)],
    ):
        assert after == later
        assert after.allowed_ips is before.allowed_ips
        assert after.endpoint is before.endpoint
        assert after.preshared_key is before.preshared_key


def test_nothing_is_remembered_of_a_peer_that_went() -> None:
    gone, stays = (
        Peer(PublicKey(bytes([n] * 32)), None, frozenset(), PresharedKey(bytes([n] * 32)), 0, None, 0, 0)
        for n in (7, 8)
    )
    kernels, gos = genetlink.Decoder(), uapi.Decoder()
    kernels.decode(NAME, dumped([gone, stays], pieces=False))
    kernels.decode(NAME, dumped([stays], pieces=False))
    gos.decode(NAME, written([gone, stays]))
    gos.decode(NAME, written([stays]))
    assert not any(bytes([7] * 32) in kept for kept in (*kernels._peers._whole, *kernels._peers._lasting))
    assert not any("07" * 32 in kept for kept in (*gos._peers._whole, *gos._peers._lasting))
