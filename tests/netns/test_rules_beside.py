"""What passes beside the link: by other devices of a task, its rules let nothing of the mesh and nobody apart."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from agent.firewall import nft
from agent.firewall.ruleset import render
from agent.linux import interfaces
from mesh.topology.policy import Exit
from tests.netns.programs import PATIENCE, REFUSED, SILENCE, Address, Servers, ask, capture, connect, echo, say
from tests.netns.services import Link, Services, address, refused
from tests.netns.world import MESH, MESH6, Task, World, ip, wait_for

both_families = pytest.mark.parametrize("version", [4, 6])
BESIDE = "beside"
WEB_TO_DB = Link.of("web", "db", "80/tcp", "53/udp")


@dataclass
class Joined:
    """A consumer and its provider, which share a network outside the mesh, as on a node's bridge."""

    mesh: Services
    web: Task
    db: Task
    servers: Servers

    def beside(self, task: Task, version: int) -> Address:
        number = 1 if task is self.web else 2
        return ip_address(f"198.51.100.{number}" if version == 4 else f"2001:db8::{number}")

    def keep_apart(self, *tasks: Task) -> None:
        """Put in place that the two may not meet outside the mesh, at these."""
        for task in tasks:
            service, other = ("web", self.db) if task is self.web else ("db", self.web)
            policy = self.mesh.policy(service, task, apart=[self.beside(other, version) for version in (4, 6)])
            nft.apply(task.netns, render(policy, task.name))


def short(task: Task) -> str:
    return Path(task.netns.path).name


@pytest.fixture
def joined(world: World) -> Iterator[Joined]:
    with Servers() as servers:
        mesh = Services.make(world, web=1, db=1)
        web, db = mesh.every()
        ip("link", "add", BESIDE, "netns", short(web), "type", "veth", "peer", "name", BESIDE, "netns", short(db))
        made = Joined(mesh, web, db, servers)
        for task in (web, db):
            servers.add(f"{'web' if task is web else 'db'}", task.netns, 80, 90)
            servers.add(f"{'web' if task is web else 'db'}", task.netns, 53, protocol="udp")
            for host in ("{}/24", "{}/64"):
                where = made.beside(task, 4 if host == "{}/24" else 6)
                ip("-n", short(task), "address", "add", host.format(where), "dev", BESIDE, *_no_dad(where))
            ip("-n", short(task), "link", "set", BESIDE, "up")
        wait_for(lambda: echo(web.netns, address(db)) and echo(web.netns, made.beside(db, 6)))
        yield made


def _no_dad(where: Address) -> list[str]:
    return ["nodad"] if where.version == 6 else []


@both_families
def test_isolated_tasks_meet_only_on_the_mesh(joined: Joined, version: int) -> None:
    web, db = joined.web, joined.db
    there, back = joined.beside(db, version), joined.beside(web, version)
    joined.mesh.link(WEB_TO_DB)
    assert ask(web.netns, there, 80) == ask(web.netns, there, 53, "udp") == "db"  # not kept apart
    with connect(web.netns, there, 80) as open_before:
        assert say(open_before) == "db"
        joined.keep_apart(web, db)
        assert say(open_before) == REFUSED
    for one, other in ((web, there), (db, back)):
        assert [ask(one.netns, other, 80), ask(one.netns, other, 90)] == [REFUSED] * 2
        assert ask(one.netns, other, 53, "udp") == REFUSED
        assert not echo(one.netns, other)
    assert ask(web.netns, address(db, version), 80) == "db"
    assert refused(db)["apart", ""] >= 4


@both_families
def test_one_side_that_keeps_apart_is_enough(joined: Joined, version: int) -> None:
    web, db = joined.web, joined.db
    joined.mesh.link(WEB_TO_DB)
    nft.remove(web.netns)
    joined.keep_apart(db)
    assert ask(web.netns, joined.beside(db, version), 80) == SILENCE
    assert ask(web.netns, joined.beside(db, version), 53, "udp") == SILENCE
    assert "db" not in {name for name, _ in joined.servers.heard}
    assert ask(db.netns, joined.beside(web, version), 80) == REFUSED
    counted = refused(db)
    assert counted["apart", ""] >= 3
    assert set(counted) == {("apart", "")}


@both_families
def test_exit_network_reaches_only_its_gateway(joined: Joined, version: int) -> None:
    """One of the two is the node's end of docker_gwbridge here; then the other end is, and that it is not."""
    web, db = joined.web, joined.db
    subnet = ip_network("198.51.100.0/24" if version == 4 else "2001:db8::/64")
    there, back = joined.beside(db, version), joined.beside(web, version)
    for gateway, outcome in ((there, "db"), (subnet[99], REFUSED)):
        policy = joined.mesh.policy("web", web, exits=[Exit(subnet, gateway)])
        nft.apply(web.netns, render(policy, web.name))
        assert ask(web.netns, there, 80) == outcome
        assert ask(web.netns, there, 53, "udp") == outcome
        assert ask(db.netns, back, 90) == ("web" if outcome == "db" else SILENCE)
    # The answer would be refused too: a datagram tells whether the question came in.
    assert ask(db.netns, back, 53, "udp") == SILENCE
    assert "web" not in {server for server, _ in joined.servers.heard}
    assert set(refused(web)) == {("apart", "")}
    assert refused(web)["apart", ""] >= 4


@both_families
def test_other_traffic_is_untouched(joined: Joined, version: int) -> None:
    """A published port, a service that is not wired, the world."""
    web, db = joined.web, joined.db
    joined.mesh.link()
    joined.keep_apart(web, db)
    third = ip_interface("198.51.100.3/24" if version == 4 else "2001:db8::3/64")
    ip("-n", short(web), "address", "add", str(third), "dev", BESIDE, *_no_dad(third.ip))
    ip("-n", short(db), "address", "add", str(third + 1), "dev", BESIDE, *_no_dad(third.ip))
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with web.netns.run(lambda: socket.socket(family, socket.SOCK_STREAM)) as stranger:
        stranger.settimeout(PATIENCE)
        stranger.bind((str(third.ip), 0))
        stranger.connect((str((third + 1).ip), 90))
        assert say(stranger) == "db"
    assert ask(web.netns, ip_address("127.0.0.1" if version == 4 else "::1"), 90) == "web"
    assert ask(web.netns, address(web, version), 90) == "web"


def _spoof(source: Task, target: Address, version: int, claims: Address) -> None:
    """One datagram from an address that it took for itself."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    ip("-n", short(source), "address", "replace", str(claims), "dev", BESIDE, *_no_dad(claims))
    with source.netns.run(lambda: socket.socket(family, socket.SOCK_DGRAM)) as liar:
        liar.bind((str(claims), 0))
        liar.sendto(b"lie", (str(target), 53))


@both_families
@pytest.mark.parametrize("claimed", ["a peer of the mesh", "itself"])
@pytest.mark.parametrize("asked", ["in the mesh", "beside it"])
def test_other_devices_traffic_never_counts_as_mesh(joined: Joined, version: int, claimed: str, asked: str) -> None:
    web, db = joined.web, joined.db
    joined.mesh.link(WEB_TO_DB)
    nft.remove(web.netns)
    interfaces.delete(web.netns, web.name)  # or its own kernel would not send that way
    ip("-n", short(web), f"-{version}", "route", "add", str(MESH if version == 4 else MESH6), "dev", BESIDE)
    if version == 4:
        db.command("sysctl", "-qw", f"net.ipv4.conf.{BESIDE}.rp_filter=0", "net.ipv4.conf.all.rp_filter=0")
    else:  # nobody would tell it whose address that is
        ip("-n", short(web), "neighbour", "add", str(address(db, 6)), "lladdr", _mac(db), "dev", BESIDE)
    target = address(db, version) if asked == "in the mesh" else joined.beside(db, version)
    claims = address(web, version) if claimed == "a peer of the mesh" else joined.beside(web, version)
    is_a_lie = claimed != "itself" or asked == "in the mesh"

    def heard() -> int:
        return len([name for name, sender in joined.servers.heard if (name, sender) == ("db", str(claims))])

    _spoof(web, target, version, claims)
    with contextlib.suppress(AssertionError):
        wait_for(lambda: heard() > 0, seconds=0.5)
    assert heard() == (0 if is_a_lie else 1)
    assert (("apart", "") in refused(db)) == is_a_lie
    nft.remove(db.netns)
    _spoof(web, target, version, claims)
    wait_for(lambda: heard() == (1 if is_a_lie else 2))  # so it was the rules that dropped it


def _mac(task: Task) -> str:
    return task.command("ip", "-o", "link", "show", BESIDE).split("link/ether ")[1].split()[0]


@both_families
def test_the_mesh_never_leaves_by_another_device(joined: Joined, version: int) -> None:
    web, db = joined.web, joined.db
    joined.mesh.link(WEB_TO_DB)
    assert ask(web.netns, address(db, version), 80) == "db"
    interfaces.delete(web.netns, web.name)
    gateway = joined.beside(db, version)
    ip("-n", short(web), f"-{version}", "route", "add", "default", "via", str(gateway))
    there = (address(db, version), joined.mesh.vip("db", version))
    with capture(web.netns, BESIDE) as frames:
        assert [ask(web.netns, where, 80, is_early=True) for where in there] == [REFUSED] * 2
        assert [ask(web.netns, where, 53, "udp", message=b"canary") for where in there] == [REFUSED] * 2
    assert not [frame for frame in frames if any(where.packed in frame for where in there)]
    counted = refused(web)
    # More than the four, where the connection of before had not ended when its device went.
    assert list(counted) == [("out", "")]
    assert counted["out", ""] >= len(there) * 2
    nft.remove(web.netns)
    with capture(web.netns, BESIDE) as frames, connect(web.netns, there[0], 53, "udp") as lost:
        lost.send(b"canary")
    assert [frame for frame in frames if b"canary" in frame]  # so it was the rules that kept it


@both_families
def test_rules_precede_the_device_and_outlive_it(world: World, version: int) -> None:
    """From a task's first moment: nothing passes that is not meant, whatever is there of the device."""
    with Servers() as servers:
        nodes = world.nodes()
        web, db = (world.task(node) for node in nodes)
        mesh = Services({"web": (web,), "db": (db,)})
        servers.add("db", db.netns, 80, 90)
        mesh.link(WEB_TO_DB)
        web.wire(db)
        db.wire(web)
        wait_for(lambda: ask(web.netns, address(db, version), 80) == "db")
        assert ask(web.netns, address(db, version), 90) == REFUSED
        db.node.backend.delete(db.netns, db.name)
        db.wire(web)
        wait_for(lambda: ask(web.netns, address(db, version), 80) == "db")
        nft.remove(web.netns)
        assert ask(web.netns, address(db, version), 90) == REFUSED
