"""Packets of living connections that connection tracking calls invalid, over links with a VIP (moby#40374).

There such a packet is not translated, finds no connection, and is answered by a reset, which ends the one that it is
of. Over a VIP the consumer's own namespace translates.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from agent.firewall import nft
from agent.linux.netns import TaskNetns
from mesh.topology.wgtypes import DeviceChange, PeerChange
from tests.netns import strays
from tests.netns.programs import Servers, connect, say
from tests.netns.rough_way import RoughWay
from tests.netns.services import Link, Services, address, refused
from tests.netns.transfer import Transfer
from tests.netns.world import Task, World, host, wait_for

PORT = 80
ROUNDS = int(os.environ.get("LINKWIRE_ROUGH_ROUNDS") or 8)
"""Transfers of a megabyte over a rough way."""

both_families = pytest.mark.parametrize("version", [4, 6])


@pytest.fixture(scope="module")
def mesh() -> Iterator[Services]:
    made = World()
    try:
        yield Services.make(made, web=1, db=2)
    finally:
        made.close()


@pytest.fixture
def ends(mesh: Services) -> tuple[Task, Task]:
    mesh.link(Link("web", "db"))
    return mesh.tasks["web"][0], mesh.tasks["db"][0]


@pytest.fixture
def servers(mesh: Services) -> Iterator[Servers]:
    with Servers() as made:
        for number, task in enumerate(mesh.tasks["db"]):
            made.add(f"db{number}", task.netns, PORT)
        yield made


def comes_to_nothing(
    sent: Callable[[], None], at: Task, connection: socket.socket, alive: Callable[[], str], name: str
) -> None:
    """A stray is called invalid there, and neither refused nor answered; the connection goes on."""
    before = strays.invalid(at.netns)
    sent()
    wait_for(lambda: strays.invalid(at.netns) > before)
    time.sleep(0.1)  # a reset would come at once
    assert alive() == name, "the connection was reset"
    assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


@both_families
@pytest.mark.usefixtures("servers")
def test_own_invalid_packet_resets_no_connection(mesh: Services, ends: tuple[Task, Task], version: int) -> None:
    web, _ = ends
    with connect(web.netns, mesh.vip("db", version), PORT) as connection:
        name = say(connection)
        sent = partial(strays.send, web.netns, strays.stray(connection))
        comes_to_nothing(sent, web, connection, lambda: say(connection), name)
    assert refused(web) == {}


@both_families
@pytest.mark.usefixtures("servers")
def test_invalid_packet_of_consumer_resets_no_connection(
    mesh: Services, ends: tuple[Task, Task], version: int
) -> None:
    """Its own rules are gone, so that it comes as far as the provider."""
    web, db = ends
    with connect(web.netns, address(db, version), PORT) as connection:
        name = say(connection)
        nft.remove(web.netns)
        sent = partial(strays.send, web.netns, strays.stray(connection))
        comes_to_nothing(sent, db, connection, lambda: say(connection), name)
    assert refused(db) == {}
    mesh.clear()


@both_families
def test_providers_invalid_packet_resets_no_connection(mesh: Services, ends: tuple[Task, Task], version: int) -> None:
    """By its own rules first, and then without them, by those of the consumer, which translates its answers."""
    web, db = ends
    mesh.unready = {mesh.tasks["db"][1].name}
    mesh.apply()
    with (
        listening(db.netns, version) as listener,
        connect(web.netns, mesh.vip("db", version), PORT) as connection,
        listener.accept()[0] as accepted,
    ):

        def alive() -> str:
            connection.sendall(b"ask")
            accepted.sendall(accepted.recv(9) + b"ed")
            return connection.recv(9).decode()

        assert alive() == "asked"
        sent = partial(strays.send, db.netns, strays.stray(accepted))
        comes_to_nothing(sent, db, accepted, alive, "asked")
        assert refused(db) == {}
        nft.remove(db.netns)
        comes_to_nothing(sent, web, accepted, alive, "asked")
    assert refused(web) == {}
    mesh.unready = set()
    mesh.clear()


@contextlib.contextmanager
def listening(netns: TaskNetns, version: int) -> Iterator[socket.socket]:
    family, anywhere = (socket.AF_INET, "0.0.0.0") if version == 4 else (socket.AF_INET6, "::")  # noqa: S104
    with netns.run(lambda: socket.create_server((anywhere, PORT), family=family)) as made:
        made.settimeout(5)
        yield made


def test_rough_way_resets_no_transfer(mesh: Services, ends: tuple[Task, Task], figure: Callable[[str], None]) -> None:
    """Packets are lost and overtaken, by up to a second: a connection by a VIP goes on, and nothing is refused."""
    web, db = ends
    mesh.unready = {mesh.tasks["db"][1].name}
    mesh.apply()
    places = tuple((str(task.node.address.ip), task.port) for task in ends)
    way = RoughWay(web.node.netns, places[0][0], (places[0], places[1]), loss=0.01, late=0.03, by=1.0, seed=40374)
    for number, (one, other) in enumerate(((web, db), (db, web))):
        behind = PeerChange(other.key.public, host(*way.towards(1 - number)), update_only=True)
        one.node.backend.apply(one.netns, one.name, DeviceChange(peers=(behind,)))
    before = strays.invalid(web.netns) + strays.invalid(db.netns)
    with way, Transfer(web.netns, db.netns, str(mesh.vip("db"))) as transfer:
        wait_for(lambda: transfer.rounds >= ROUNDS or bool(transfer.problem), ROUNDS * 20)
    odd = strays.invalid(web.netns) + strays.invalid(db.netns) - before
    figure(
        f"rough way: {way.passed} packets, {way.lost} lost, {way.overtaken} overtaken; "
        f"{transfer.rounds} MB sent and returned, the longest in {transfer.longest:.1f} s; {odd} called invalid"
    )
    assert transfer.problem == ""
    assert min(way.lost, way.overtaken) > 10
    assert (refused(web), refused(db)) == ({}, {})
