"""Rogue nodes on real devices: one that is none, and a member that sends in another's name."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from ipaddress import ip_network

import pytest

from agent.node_encryption.keeper import Keeper, Wanted
from agent.node_encryption.tunnel import desired
from mesh.crypto.keys import PublicKey
from mesh.crypto.preshared_keys import LinkKey, LinkKeys, PresharedKey
from mesh.model.encryption.records import NODES_KEY, NodeEncryption
from mesh.topology.wgtypes import DeviceChange, PeerChange
from tests.netns.overlay_nodes import VXLAN_PORT, Cluster, OverlayNode
from tests.netns.test_linkkeys import NO_HANDSHAKE_S
from tests.netns.world import World, wait_for
from tests.support.attacks import Attempts

PORT = 5000
IP_TRANSPARENT = 19
"""linux/in.h: send by any address, as root of a node may."""


@pytest.fixture
def trio(world: World) -> Iterator[Cluster]:
    with Cluster(world, 3) as cluster:
        yield cluster


@contextmanager
def listening(node: OverlayNode) -> Iterator[socket.socket]:
    """A socket that takes what comes out of the node's device alone."""
    with closing(node.netns.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))) as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, node.device.names[0].encode())
        opened.bind(("", PORT))
        yield opened


def send(source: OverlayNode, target: OverlayNode, worn: str) -> None:
    """Send into the node's device, to another node, by an address that may be anybody's."""
    made = source.netns.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with closing(made):
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, source.device.names[0].encode())
        made.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
        made.bind((worn, PORT))
        made.sendto(worn.encode(), (str(target.address), PORT))


def arrives(source: OverlayNode, target: OverlayNode, worn: str) -> bool:
    with listening(target) as opened:
        until = time.monotonic() + 3
        while time.monotonic() < until:
            send(source, target, worn)
            if select.select([opened], [], [], 0.2)[0]:
                return opened.recv(64) == worn.encode()
    return False


def test_member_wears_no_other_nodes_address(trio: Cluster, attempt: Attempts) -> None:
    """Its packets come out of the device by its own address alone: WireGuard drops the others."""
    tried = attempt("a member node's root: overlay packets in another node's name come out of a third one's device")
    for node in trio.nodes:
        node.start()
    trio.switch("prefer", "accept")
    trio.switch("prefer", "send")
    one, other, rogue = trio.nodes
    assert arrives(rogue, one, str(rogue.address)), "its own passes"
    tried.stopped(not arrives(rogue, one, str(other.address)))
    assert one.keeper is not None
    one.keeper.stop()  # or it would put right what comes
    both = frozenset(ip_network(node.address) for node in (rogue, other))
    worn = PeerChange(rogue.place.public_key, allowed_ips=both)
    one.device.backend.apply(one.netns, one.device.names[0], DeviceChange(peers=(worn,)))
    tried.works(arrives(rogue, one, str(other.address)), "where the device takes any address of it")


def test_rogue_node_gets_no_session(trio: Cluster, attempt: Attempts) -> None:
    """It knows all that is public, and has not got the link key of all nodes; then it has, and is no peer."""
    guessed = attempt("the network: a rogue node becomes a peer, and has no link key")
    stolen = attempt("the network: a rogue node with the stolen link key is a peer, and nobody signed it")
    one, other, rogue = trio.nodes
    for node in (one, other):
        node.start()
    trio.switch("prefer", "accept", ready=1)
    assert one.keeper is not None
    keeper = Keeper(rogue.device, rogue.folder)
    keeper.start(lambda: None)
    try:
        pose(trio, keeper, LinkKey.generate())
        time.sleep(NO_HANDSHAKE_S)
        assert not has_session(rogue, one)
        one.keeper.stop()  # or it would put right what comes
        take_in(trio, one, trio.link_key)
        time.sleep(NO_HANDSHAKE_S)
        guessed.stopped(not has_session(rogue, one), "though the other end has its key")
        take_out(one, rogue)
        pose(trio, keeper, trio.link_key)
        time.sleep(NO_HANDSHAKE_S)
        stolen.stopped(not has_session(rogue, one))
        take_in(trio, one, trio.link_key)
        wait_for(lambda: has_session(rogue, one))
        for tried in (guessed, stolen):
            tried.works(has_session(rogue, one), "where it has the link key, and a record says that it is one")
    finally:
        keeper.stop()


def pose(cluster: Cluster, keeper: Keeper, link_key: LinkKey) -> None:
    """Have the third node's device do all that a member's does."""
    rogue = cluster.nodes[2]
    places = [node.place for node in cluster.nodes]
    record = NodeEncryption("prefer", "accept", VXLAN_PORT, cluster.generation)
    known = LinkKeys({NODES_KEY: link_key})
    tunnel = desired(record, places, rogue.name, rogue.keys.held, partial(psk, known))
    keeper.want(Wanted(tunnel, complete=True))


def take_in(cluster: Cluster, one: OverlayNode, link_key: LinkKey) -> None:
    """Make the third node a peer, as if the records had it."""
    rogue = cluster.nodes[2]
    secret = psk(LinkKeys({NODES_KEY: link_key}), one.place.public_key, rogue.place.public_key)
    only = frozenset({ip_network(rogue.address)})
    peer = PeerChange(rogue.place.public_key, rogue.place.endpoint, only, preshared_key=secret, keepalive=1)
    one.device.backend.apply(one.netns, one.device.names[0], DeviceChange(peers=(peer,)))


def take_out(one: OverlayNode, rogue: OverlayNode) -> None:
    gone = PeerChange(rogue.place.public_key, remove=True)
    one.device.backend.apply(one.netns, one.device.names[0], DeviceChange(peers=(gone,)))


def has_session(one: OverlayNode, other: OverlayNode) -> bool:
    read = one.device.read().devices.get(0)
    peer = read.device.peers.get(other.place.public_key) if read is not None else None
    return peer is not None and bool(peer.last_handshake)


def psk(link_keys: LinkKeys, own: PublicKey, other: PublicKey) -> PresharedKey | None:
    return link_keys.between(own, other, (NODES_KEY,))
