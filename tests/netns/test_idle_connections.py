"""A connection on which nothing is said: connection tracking keeps it for days (moby#31208).

There IPVS forgets it after 15 minutes, and the next packet finds no backend. Here the consumer's namespace tracks it,
by its VIP or not, and so does the provider's.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator

import pytest

from agent.linux.netlink_socket import NETLINK_NETFILTER, attributes
from agent.linux.netns import TaskNetns
from tests.netns.programs import Servers, connect, say
from tests.netns.services import Link, Services, address
from tests.netns.world import World

IDLE_S = float(os.environ.get("LINKWIRE_IDLE_S") or 1)
"""Seconds without a word: 1,020 with `make chaos`, a minute more than what was reported."""
REPORTED_S = 16 * 60
PORT = 80
_GET = 1 << 8 | 1  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET
_TIMEOUT = 7  # CTA_TIMEOUT, linux/netfilter/nfnetlink_conntrack.h


@pytest.fixture
def mesh(world: World) -> Iterator[Services]:
    made = Services.make(world, web=1, db=2)
    made.link(Link("web", "db"))
    with Servers() as servers:
        for number, task in enumerate(made.tasks["db"]):
            servers.add(f"db{number}", task.netns, PORT)
        yield made


def remaining(netns: TaskNetns) -> list[int]:
    """Return for how many seconds more a namespace keeps each connection that it tracks."""
    answer = netns.socket(NETLINK_NETFILTER).dump(_GET, struct.pack("=BBH", 0, 0, 0))
    entries = [dict(attributes(message.payload[4:])) for message in answer]
    return sorted(int.from_bytes(entry[_TIMEOUT], "big") for entry in entries)


def test_idle_connection_is_not_forgotten(mesh: Services) -> None:
    (web,), (db, _) = mesh.tasks["web"], mesh.tasks["db"]
    wheres = (mesh.vip("db", 4), mesh.vip("db", 6), address(db, 4), address(db, 6))
    connections = [connect(web.netns, where, PORT) for where in wheres]
    names = [say(connection) for connection in connections]
    tasks = (web, *mesh.tasks["db"])
    began = [remaining(task.netns) for task in tasks]
    assert len(began[0]) == len(wheres) == len(began[1]) + len(began[2])
    time.sleep(IDLE_S)
    for task, before in zip(tasks, began, strict=True):
        now = remaining(task.netns)
        assert len(now) == len(before)
        assert not now or now[0] > 10 * REPORTED_S
    assert [say(connection) for connection in connections] == names
    for connection in connections:
        connection.close()
