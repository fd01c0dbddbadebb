"""Connections are forgotten by who would answer them, and no others."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from agent.linux import conntrack
from agent.linux.netlink_socket import Message, NetlinkSocket
from agent.linux.netns import TaskNetns
from tests.netns.world import World, wait_for

TRACK = "add table inet t; add chain inet t o { type filter hook output priority 0; }; add rule inet t o ct state new"


@pytest.fixture
def tracked(world: World) -> TaskNetns:
    netns = world.netns()
    for argv in (
        ["nft", TRACK],
        *(["ip", "address", "add", one, "dev", "lo"] for one in ("10.99.0.1/32", "10.99.0.2/32")),
        ["ip", "address", "add", "fd99::1/128", "dev", "lo", "nodad"],
    ):
        netns.run(lambda argv=argv: subprocess.run(argv, check=True))  # type: ignore[misc]
    # The kernel makes this route in a queue that the end of other namespaces may hold up.
    shown = ["ip", "-6", "route", "show", "table", "local"]
    wait_for(lambda: b"local fd99::1 " in netns.run(lambda: subprocess.check_output(shown)))
    return netns


def flows(netns: TaskNetns, *addresses: str) -> Iterator[socket.socket]:
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        one = netns.run(lambda family=family: socket.socket(family, socket.SOCK_DGRAM))  # type: ignore[misc]
        one.sendto(b"x", (address, 9))
        yield one


def test_entries_of_gone_addresses_are_forgotten_others_stay(tracked: TaskNetns) -> None:
    held = list(flows(tracked, "10.99.0.1", "10.99.0.2", "10.99.0.2", "fd99::1"))
    seen = set()

    def look(address: object) -> bool:
        seen.add(str(address))
        return False

    assert conntrack.forget(tracked, look) == 0
    assert seen == {"10.99.0.1", "10.99.0.2", "fd99::1"}
    for gone, count in (("10.99.0.2", 2), ("10.99.0.2", 0), ("fd99::1", 1), ("fd99::1", 0)):
        assert conntrack.forget(tracked, lambda address, gone=gone: address == ip_address(gone)) == count  # type: ignore[misc]
    seen.clear()
    conntrack.forget(tracked, look)
    assert seen == {"10.99.0.1"}
    for one in held:
        one.close()


def test_the_table_is_not_listed_for_nothing(tracked: TaskNetns, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = []
    dump = NetlinkSocket.dump

    def counted(self: NetlinkSocket, kind: int, payload: bytes) -> list[Message]:
        listed.append(kind)
        return dump(self, kind, payload)

    monkeypatch.setattr(NetlinkSocket, "dump", counted)
    assert conntrack.forget(tracked, lambda _: True) == 0
    assert not listed
    (held,) = flows(tracked, "10.99.0.1")
    assert conntrack.forget(tracked, lambda _: True) == 1
    assert len(listed) == 1
    held.close()
