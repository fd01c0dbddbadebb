"""What passes a link, by packets: real WireGuard, the rules of every task, and programs that ask each other.

All tasks are WireGuard peers of all others here, which they are not where the agent wires them: what is refused, the
rules refuse.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from agent.firewall import nft
from agent.linux.netns import TaskNetns
from mesh.model.labels.ports import Protocol
from tests.netns.programs import AT_ONCE, PATIENCE, REFUSED, SILENCE, Address, Servers, ask, connect, echo, say
from tests.netns.services import Link, Services, address, refused
from tests.netns.world import Task, World, ip, wait_for, wait_until_nothing_is_left

TCP, UDP = (80, 90, 8000, 8001, 8002), (53, 54)
WEB_TO_DB = Link.of("web", "db", "80/tcp", "8000-8001/tcp", "53/udp")

both_families = pytest.mark.parametrize("version", [4, 6])


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with Servers() as made:
        yield made


@pytest.fixture(scope="module")
def made(servers: Servers) -> Iterator[Services]:
    world = World()
    try:
        services = Services.make(world, web=1, db=3, both=1, alone=1)
        for service, tasks in services.tasks.items():
            for number, task in enumerate(tasks):
                servers.add(f"{service}{number}", task.netns, *TCP)
                servers.add(f"{service}{number}", task.netns, *UDP, protocol="udp")
        for one in services.every():
            for other in services.every():  # handshakes take their time; later, what takes time is wrong
                wait_for(lambda one=one, other=other: echo(one.netns, address(other)))  # type: ignore[misc]
        yield services
    finally:
        world.close()
    assert wait_until_nothing_is_left() == []


@pytest.fixture
def mesh(made: Services) -> Services:
    """With whatever rules and counters the last test left: `clear` takes them away, but that takes its time."""
    made.unready.clear()
    return made


@pytest.fixture
def web(mesh: Services) -> Task:
    return mesh.tasks["web"][0]


@pytest.fixture
def db(mesh: Services) -> tuple[Task, ...]:
    return mesh.tasks["db"]


def outcomes(task: Task, where: Address, protocol: Protocol, *ports: int) -> dict[int, str]:
    return {port: ask(task.netns, where, port, protocol) for port in ports}


# --- who reaches what


@both_families
def test_without_rules_everybody_reaches_everybody(mesh: Services, web: Task, version: int) -> None:
    """Or else what is refused below would not be by the rules."""
    mesh.clear()
    for task in mesh.every():
        if task is not web:
            assert SILENCE not in outcomes(task, address(web, version), "tcp", *TCP).values()
            assert outcomes(task, address(web, version), "udp", *UDP) == dict.fromkeys(UDP, "web0")


@both_families
def test_consumer_opens_only_the_links_ports(mesh: Services, web: Task, db: tuple[Task, ...], version: int) -> None:
    mesh.link(Link.of("web", "db", "80/tcp", "8000-8001/tcp", "81/tcp", "53/udp", "55/udp"))
    for number, task in enumerate(db):
        there, name = address(task, version), f"db{number}"
        assert outcomes(web, there, "tcp", 80, 8000, 8001) == dict.fromkeys((80, 8000, 8001), name)
        assert outcomes(web, there, "tcp", 90, 8002, 53) == dict.fromkeys((90, 8002, 53), REFUSED)
        assert outcomes(web, there, "udp", 53, 54, 80) == {53: name, 54: REFUSED, 80: REFUSED}
        assert echo(web.netns, there)
        # Allowed, but nobody listens: the provider's kernel says so, and that passes too.
        assert (ask(web.netns, there, 81), ask(web.netns, there, 55, "udp")) == (REFUSED, REFUSED)


@both_families
def test_provider_opens_nothing_nor_do_replicas_mutually(
    mesh: Services, web: Task, db: tuple[Task, ...], version: int
) -> None:
    mesh.link(Link("web", "db"))
    for other in (web, *db[1:]):
        there = address(other, version)
        assert set(outcomes(db[0], there, "tcp", *TCP).values()) == {REFUSED}
        assert set(outcomes(db[0], there, "udp", *UDP).values()) == {REFUSED}
        assert not echo(db[0].netns, there)


@both_families
def test_unlinked_task_reaches_and_is_reached_by_nobody(mesh: Services, version: int) -> None:
    mesh.link(Link("web", "db"))
    alone = mesh.tasks["alone"][0]
    for other in mesh.every():
        if other is not alone:
            for one, there in ((alone, other), (other, alone)):
                assert ask(one.netns, address(there, version), 80) == REFUSED
                assert ask(one.netns, address(there, version), 53, "udp") == REFUSED
                assert not echo(one.netns, address(there, version))


@both_families
def test_links_without_limit_and_without_any_port(
    mesh: Services, web: Task, db: tuple[Task, ...], version: int
) -> None:
    mesh.link(Link("web", "db"), Link.of("both", "db"))
    other, there = mesh.tasks["both"][0], address(db[0], version)
    assert outcomes(web, there, "tcp", *TCP) == dict.fromkeys(TCP, "db0")
    assert outcomes(web, there, "udp", *UDP) == dict.fromkeys(UDP, "db0")
    assert set(outcomes(other, there, "tcp", *TCP).values()) == {REFUSED}
    assert set(outcomes(other, there, "udp", *UDP).values()) == {REFUSED}
    assert echo(web.netns, there)
    assert echo(other.netns, there)


@both_families
def test_links_both_ways_have_each_their_own_ports(mesh: Services, web: Task, version: int) -> None:
    mesh.link(Link.of("web", "both", "80/tcp", "53/udp"), Link.of("both", "web", "90/tcp", "54/udp"))
    other = mesh.tasks["both"][0]
    assert outcomes(web, address(other, version), "tcp", 80, 90) == {80: "both0", 90: REFUSED}
    assert outcomes(web, address(other, version), "udp", 53, 54) == {53: "both0", 54: REFUSED}
    assert outcomes(other, address(web, version), "tcp", 80, 90) == {80: REFUSED, 90: "web0"}
    assert outcomes(other, address(web, version), "udp", 53, 54) == {53: REFUSED, 54: "web0"}


@both_families
def test_self_linked_service_joins_its_tasks(mesh: Services, db: tuple[Task, ...], version: int) -> None:
    mesh.clear()
    mesh.link(Link.of("db", "db", "80/tcp"))
    assert outcomes(db[0], address(db[1], version), "tcp", 80, 90) == {80: "db1", 90: REFUSED}
    # Its VIP may lead a task to itself.
    assert {ask(db[0].netns, mesh.vip("db", version), 80) for _ in range(40)} == {"db0", "db1", "db2"}
    assert refused(db[0]) == {("out", "db"): 1}


@both_families
def test_datagrams_in_fragments_are_judged_as_a_whole(
    mesh: Services, web: Task, db: tuple[Task, ...], version: int
) -> None:
    mesh.link(WEB_TO_DB)
    long = bytes(9000)  # several times what the device takes
    there = address(db[0], version)
    assert ask(web.netns, there, 53, "udp", message=long) == "db0"
    nft.remove(web.netns)
    assert ask(web.netns, there, 53, "udp", message=long) == "db0"
    assert ask(web.netns, there, 54, "udp", message=long) == REFUSED


# --- the one address


@both_families
def test_vip_spreads_new_connections_over_ready_tasks(mesh: Services, web: Task, version: int) -> None:
    mesh.link(WEB_TO_DB)
    vip = mesh.vip("db", version)
    count = 300
    found = Counter(ask(web.netns, vip, 80) for _ in range(count))
    assert found.keys() == {"db0", "db1", "db2"}
    assert min(found.values()) > count / 3 * 0.6  # five standard deviations
    assert {ask(web.netns, vip, 53, "udp") for _ in range(30)} == {"db0", "db1", "db2"}
    assert echo(web.netns, vip)
    assert ask(web.netns, vip, 90) == REFUSED
    assert ask(web.netns, vip, 54, "udp") == REFUSED


@both_families
def test_unready_task_keeps_old_connections_gets_no_new(
    mesh: Services, web: Task, db: tuple[Task, ...], version: int
) -> None:
    """As for a task that is being stopped (moby#38841)."""
    mesh.link(WEB_TO_DB)
    vip = mesh.vip("db", version)
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(connect(web.netns, vip, 80)) for _ in range(12)]
        asked = [stack.enter_context(connect(web.netns, vip, 53, "udp")) for _ in range(12)]
        before = [say(one) for one in opened + asked]
        assert set(before) == {"db0", "db1", "db2"}
        counted = refused(web)
        for gone in db:
            mesh.unready.add(gone.name)
            mesh.apply("web")
            assert [say(one) for one in opened + asked] == before
            left = {f"db{number}" for number, task in enumerate(db) if task.name not in mesh.unready}
            assert {ask(web.netns, vip, 80) for _ in range(20)} == (left or {REFUSED})
            assert {ask(web.netns, vip, 53, "udp") for _ in range(5)} <= (left or {REFUSED})
        # Counted for the link, although nobody is at its other end.
        assert refused(web).get(("out", "db"), 0) - counted.get(("out", "db"), 0) == 25
        assert refused(web).get(("out", "")) == counted.get(("out", ""))
        mesh.unready.clear()
        mesh.apply("web")
        assert [say(one) for one in opened + asked] == before
        assert ask(web.netns, vip, 80) in {"db0", "db1", "db2"}


# --- what changes while connections are open


@both_families
def test_rule_changes_lose_no_connection(mesh: Services, web: Task, db: tuple[Task, ...], version: int) -> None:
    mesh.link(WEB_TO_DB)
    with (
        connect(web.netns, address(db[0], version), 80) as direct,
        connect(web.netns, mesh.vip("db", version), 80) as one,
    ):
        assert say(direct) == "db0"
        name = say(one)
        for number in range(10):
            others = [Link("web", "both"), Link("both", "db"), Link.of("db", "alone", "1-9/tcp")]
            mesh.link(WEB_TO_DB, *others[: number % 4])
            assert (say(direct), say(one)) == ("db0", name)
        for task in mesh.every():  # somebody put more into the tables, and they are made anew
            task.command("nft", "add set inet linkwire mine { type ipv4_addr; }")
        mesh.apply()
        assert "mine" not in web.command("nft", "list", "table", "inet", "linkwire")
        assert (say(direct), say(one)) == ("db0", name)
        for task in mesh.every():  # somebody took them away
            nft.remove(task.netns)
        mesh.apply()
        assert (say(direct), say(one)) == ("db0", name)


def accepted(consumer: Task, provider: Task, version: int, port: int) -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    there = str(address(provider, version))
    with provider.netns.run(lambda: socket.create_server((there, port), family=family)) as listener:
        listener.settimeout(5)
        near = connect(consumer.netns, address(provider, version), port)
        far = listener.accept()[0]
    far.settimeout(PATIENCE)
    return near, far


def is_cut(end: socket.socket, *, by_sending: bool) -> bool:
    """Whether an end of a connection notices, at once, that it is no more; if need be by sending something."""
    began = time.monotonic()
    try:
        if by_sending:
            end.send(b"still there?")
        end.recv(100)
    except (ConnectionResetError, ConnectionRefusedError, BrokenPipeError):
        return time.monotonic() - began < AT_ONCE
    except TimeoutError:
        return False
    return False


def only_at(service: str) -> Callable[[Services], None]:
    return lambda mesh: mesh.apply(service)


@both_families
@pytest.mark.parametrize("where", ["web", "db", "both ends"])
@pytest.mark.parametrize("who", ["consumer", "provider"])
def test_removed_port_closes_connections_at_next_packet(
    mesh: Services, web: Task, version: int, where: str, who: str
) -> None:
    mesh.link(Link.of("web", "db", "70/tcp", "80/tcp"))
    db = mesh.tasks["db"][0]
    with connect(web.netns, address(db, version), 80) as other:
        near, far = accepted(web, db, version, 70)
        with near, far:
            near.send(b"hello")
            assert far.recv(100) == b"hello"
            mesh.links = (Link.of("web", "db", "80/tcp"),)
            mesh.apply(*(("web", "db") if where == "both ends" else (where,)))
            # Whoever's rules refuse it, its own or the other's: the one that speaks is told.
            assert is_cut(near if who == "consumer" else far, by_sending=True)
            assert say(other) == "db0"


@both_families
def test_departed_peer_is_gone_at_next_packet(mesh: Services, web: Task, db: tuple[Task, ...], version: int) -> None:
    mesh.link(WEB_TO_DB)
    with (
        connect(web.netns, address(db[0], version), 80) as one,
        connect(web.netns, address(db[1], version), 80) as other,
    ):
        assert (say(one), say(other)) == ("db0", "db1")
        tasks = dict(mesh.tasks)
        try:
            mesh.tasks = {**tasks, "db": db[1:]}
            mesh.apply("web")
            assert is_cut(one, by_sending=True)
            assert say(other) == "db1"
            assert ask(web.netns, address(db[0], version), 80) == REFUSED
        finally:
            mesh.tasks = tasks


@both_families
def test_a_flow_of_replies_ends_with_the_link(mesh: Services, web: Task, db: tuple[Task, ...], version: int) -> None:
    """Datagrams that only the provider still sends keep a connection alive for ever, for connection tracking."""
    mesh.link(Link.of("web", "db", "60/udp"))
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with (
        db[0].netns.run(lambda: socket.socket(family, socket.SOCK_DGRAM)) as stream,
        connect(web.netns, address(db[0], version), 60, "udp") as consumer,
    ):
        stream.bind((str(address(db[0], version)), 60))
        stream.settimeout(5)
        consumer.send(b"please")
        sender = stream.recvfrom(100)[1]
        for number in range(3):
            stream.sendto(b"%d" % number, sender)
            assert consumer.recv(100) == b"%d" % number
        mesh.links = (Link.of("web", "db", "61/udp"),)
        mesh.apply("web")  # the provider's node is slow, or does not want to know
        stream.sendto(b"more", sender)
        with pytest.raises(TimeoutError):
            consumer.recv(100)
        mesh.apply("db")
        with pytest.raises(PermissionError):
            stream.sendto(b"more", sender)


# --- who does not keep to the rules


@pytest.fixture(params=["no table", "a table that accepts"])
def lawless(request: pytest.FixtureRequest) -> Callable[[Task], None]:
    """What a task with NET_ADMIN may do to its own rules."""

    def lawless(task: Task) -> None:
        nft.remove(task.netns)
        if request.param != "no table":
            for hook in ("input", "output"):
                chain = f"{{ type filter hook {hook} priority -500; policy accept; }}"
                task.command("nft", f"add table inet linkwire; add chain inet linkwire {hook} {chain}")
                task.command("nft", f"add rule inet linkwire {hook} accept")

    return lawless


@both_families
def test_lawless_consumer_gets_only_its_ports_and_counts(
    mesh: Services, web: Task, db: tuple[Task, ...], version: int, lawless: Callable[[Task], None]
) -> None:
    mesh.clear()
    mesh.link(WEB_TO_DB)
    lawless(web)
    there = address(db[0], version)
    assert outcomes(web, there, "tcp", *TCP) == {80: "db0", 90: REFUSED, 8000: "db0", 8001: "db0", 8002: REFUSED}
    assert outcomes(web, there, "udp", *UDP) == {53: "db0", 54: REFUSED}
    assert echo(web.netns, there)
    assert refused(db[0]) == {("in", "web"): 3}
    assert refused(db[1]) == {}


@both_families
def test_lawless_stranger_and_lawless_provider_get_nothing(
    mesh: Services, web: Task, db: tuple[Task, ...], version: int, lawless: Callable[[Task], None]
) -> None:
    mesh.clear()
    mesh.link(WEB_TO_DB)
    alone = mesh.tasks["alone"][0]
    lawless(alone)
    lawless(db[0])
    assert [ask(alone.netns, address(db[1], version), 80), ask(db[0].netns, address(web, version), 80)] == [
        REFUSED
    ] * 2
    assert not echo(alone.netns, address(db[1], version))
    assert not echo(db[0].netns, address(web, version))
    assert refused(db[1]) == {("in", ""): 2}
    assert refused(web) == {("in", "db"): 2}


def arrives(source: TaskNetns, packet: bytes, target: Task, version: int, protocol: int) -> bool:
    """Whether a packet of a protocol is given to the programs of the target."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with (
        target.netns.run(lambda: socket.socket(family, socket.SOCK_RAW, protocol)) as inbound,
        source.run(lambda: socket.socket(family, socket.SOCK_RAW, protocol)) as outbound,
    ):
        inbound.settimeout(0.5)
        outbound.sendto(packet, (str(address(target, version)), 0))
        with contextlib.suppress(TimeoutError):
            while True:
                if packet[-8:] in inbound.recv(1000):
                    return True
    return False


EXPERIMENT = 253  # RFC 3692: a protocol that nothing knows
ACK = struct.pack("!HHIIBBHHH8s", 80, 4444, 1, 1, 8 << 4, 0x10, 1000, 0, 0, b"pretends")
"""As if from port 80 of a provider that answers."""


@both_families
def test_portless_protocols_pass_only_unlimited_links(
    mesh: Services, web: Task, db: tuple[Task, ...], version: int
) -> None:
    mesh.clear()
    assert arrives(web.netns, b"anything", db[0], version, EXPERIMENT)
    mesh.link(WEB_TO_DB)
    nft.remove(web.netns)
    assert not arrives(web.netns, b"anything", db[0], version, EXPERIMENT)
    mesh.link(Link("web", "db"))
    assert arrives(web.netns, b"anything", db[0], version, EXPERIMENT)


def test_what_pretends_to_be_a_reply_is_none(mesh: Services, web: Task, db: tuple[Task, ...]) -> None:
    """From a provider's port, but to a connection that there is not; and errors about packets that nobody sent."""
    about = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 36, 1, 0, 64, 17, 0, address(web).packed, address(db[0]).packed)
    error = struct.pack("!BBHI", 3, 3, 0, 0) + about + struct.pack("!HHHH", 5555, 53, 16, 0) + b"pretends"
    total = sum(struct.unpack(f"!{len(error) // 2}H", error))
    total = (total & 0xFFFF) + (total >> 16)
    error = error[:2] + struct.pack("!H", 0xFFFF - ((total & 0xFFFF) + (total >> 16))) + error[4:]
    for packet, protocol in ((ACK, socket.IPPROTO_TCP), (error, socket.IPPROTO_ICMP)):
        mesh.clear()
        assert arrives(db[0].netns, packet, web, 4, protocol)
        mesh.link(WEB_TO_DB)
        nft.remove(db[0].netns)
        assert not arrives(db[0].netns, packet, web, 4, protocol)
        assert refused(web) == {}  # dropped: an answer would go to nobody who asked


# --- what is counted, and who carries for others


@both_families
def test_refusals_are_counted_by_service_and_direction(
    mesh: Services, web: Task, db: tuple[Task, ...], version: int
) -> None:
    mesh.clear()
    mesh.link(WEB_TO_DB, Link.of("both", "web", "80/tcp"))
    for task, times in ((db[0], 2), (db[1], 1), (mesh.tasks["both"][0], 3), (mesh.tasks["alone"][0], 4)):
        for _ in range(times):
            assert ask(web.netns, address(task, version), 90) == REFUSED
    assert refused(web) == {("out", "db"): 3, ("out", "both"): 3, ("out", ""): 4}
    mesh.link(WEB_TO_DB)
    assert refused(web) == {("out", "db"): 3, ("out", ""): 4}


def test_a_task_carries_nothing_for_others(mesh: Services, web: Task, db: tuple[Task, ...]) -> None:
    """A task that routes, and hides who asked: its rules let no packet of another's onto the link."""
    mesh.clear()
    outside = World()
    try:
        behind = outside.netns()
        names = [netns.path.rsplit("/", 1)[1] for netns in (web.netns, behind)]
        ip("link", "add", "back", "netns", names[0], "type", "veth", "peer", "name", "back", "netns", names[1])
        for name, host in zip(names, ("198.51.100.1/24", "198.51.100.2/24"), strict=True):
            ip("-n", name, "address", "add", host, "dev", "back")
            ip("-n", name, "link", "set", "back", "up")
        ip("-n", names[1], "route", "add", "default", "via", "198.51.100.1")
        web.command("sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
        web.command(
            "nft",
            "add table ip hide; add chain ip hide out { type nat hook postrouting priority 100; }; "
            f"add rule ip hide out oifname {web.name} masquerade",
        )
        assert ask(behind, address(db[0]), 80) == "db0"
        mesh.link(Link("web", "db"))
        assert ask(behind, address(db[0]), 80) == SILENCE
        assert ask(web.netns, address(db[0]), 80) == "db0"
    finally:
        web.command("nft", "delete table ip hide")
        web.command("ip", "link", "delete", "back")
        outside.close()
