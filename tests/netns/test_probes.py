"""Probes of a link in real namespaces: echoes, connections, listeners, and datagrams between two nodes."""

from __future__ import annotations

import secrets
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from agent.linux.netns import TaskNetns
from agent.linux.sysctl import OWN
from agent.probes import connect, datagrams, listeners, names
from agent.probes.echo import Echoes, echo
from mesh.diagnosis.link_facts import Listener
from mesh.diagnosis.questions import Arrived, Probe
from tests.netns.programs import Servers
from tests.netns.services import Link, Services
from tests.netns.world import Node, Task, World

LARGE = 1480
PORTS = (51898, 51899)


@pytest.fixture
def mesh(world: World) -> Services:
    """A consumer of a provider, whose link is of two ports."""
    made = Services.make(world, web=1, db=1)
    made.link(Link.of("web", "db", "80-81/tcp"))
    for task in made.every():  # as Docker has it in every container
        task.netns.run(lambda: (OWN / "ipv4/ping_group_range").write_text("0 2147483647"))
    return made


@pytest.fixture
def servers() -> Iterator[Servers]:
    with Servers() as made:
        yield made


def drop(node: Node, chain: str, match: str) -> None:
    """Have a node's own firewall drop something."""
    hook = f"type filter hook {chain} priority 0;"
    rules = f"table ip fault {{\n chain c {{\n {hook}\n {match} drop\n }}\n}}\n"
    done = node.netns.run(
        lambda: subprocess.run(["nft", "-f", "-"], input=rules, capture_output=True, text=True, check=False)
    )
    assert done.returncode == 0, done.stderr


def ends(mesh: Services) -> tuple[Task, Task]:
    return mesh.tasks["web"][0], mesh.tasks["db"][0]


def test_small_and_large_packets_are_answered(mesh: Services) -> None:
    web, db = ends(mesh)
    assert echo(web.netns, db.address.ip, 1420) == Echoes(small=True, large=True)


def test_black_hole_loses_large_packets_alone(mesh: Services) -> None:
    web, db = ends(mesh)
    drop(db.node, "input", "meta length > 1400")
    assert echo(web.netns, db.address.ip, 1420) == Echoes(small=True, large=False)


def test_dead_way_answers_nothing(mesh: Services) -> None:
    web, db = ends(mesh)
    drop(db.node, "input", "meta l4proto udp")
    assert echo(web.netns, db.address.ip, 1420) == Echoes(small=False, large=False)


def test_connections_say_what_became_of_them(mesh: Services, servers: Servers) -> None:
    web, db = ends(mesh)
    servers.add("db", db.netns, 80)
    found = connect.connect(web.netns, [(db.address.ip, port) for port in (80, 81, 82)])
    assert [found[db.address.ip, port] for port in (80, 81, 82)] == ["open", "refused", "refused"]
    drop(db.node, "input", "meta l4proto udp")
    assert connect.connect(web.netns, [(db.address.ip, 80)]) == {(db.address.ip, 80): "silent"}


def bound(netns: TaskNetns, kind: int, host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = netns.run(partial(socket.socket, family, kind))
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    made.bind((host, port))
    if kind == socket.SOCK_STREAM:
        made.listen()
    return made


def test_listeners_are_those_of_the_namespace(world: World) -> None:
    netns = world.netns()
    held = [
        bound(netns, socket.SOCK_STREAM, "127.0.0.1", 5432),
        bound(netns, socket.SOCK_STREAM, "0.0.0.0", 80),  # noqa: S104 - in a namespace of the test
        bound(netns, socket.SOCK_STREAM, "127.0.0.1", 8080),
        bound(netns, socket.SOCK_STREAM, "::", 8080),
        bound(netns, socket.SOCK_STREAM, "::1", 9000),
        bound(netns, socket.SOCK_DGRAM, "0.0.0.0", 53),  # noqa: S104
    ]
    assert listeners.listeners(netns) == (
        Listener(80, "tcp", loopback=False),
        Listener(8080, "tcp", loopback=False),
        Listener(53, "udp", loopback=False),
        Listener(5432, "tcp", loopback=True),
        Listener(9000, "tcp", loopback=True),
    )
    for one in held:
        one.close()
    assert listeners.listeners(netns) == ()


def exchanged(left: Node, right: Node) -> tuple[Arrived, Arrived]:
    """Let both nodes send to each other; what arrived at the left one and at the right one."""
    nonce = secrets.token_hex(16)
    sides = ((left, right, PORTS), (right, left, PORTS[::-1]))
    with ThreadPoolExecutor(2) as pool:
        jobs = [
            pool.submit(own.netns.run, partial(datagrams.exchange, other.address.ip, Probe(nonce, *ports, LARGE)))
            for own, other, ports in sides
        ]
        here, there = (job.result() for job in jobs)
    return here, there


def test_datagrams_pass_between_nodes(world: World) -> None:
    here, there = exchanged(*world.nodes())
    assert min(here.small, here.large, there.small, there.large) > 0
    assert (here.problem, there.problem) == ("", "")


@pytest.mark.parametrize("chain", ["input", "output"])
def test_one_way_block_is_told_by_direction(world: World, chain: str) -> None:
    left, right = world.nodes()
    drop(right if chain == "input" else left, chain, "meta l4proto udp")
    here, there = exchanged(left, right)
    assert (here.small > 0, there.small) == (True, 0)


def test_large_datagrams_are_lost_alone(world: World) -> None:
    left, right = world.nodes()
    drop(right, "input", "meta length > 1400")
    here, there = exchanged(left, right)
    assert (here.large > 0, there.small > 0, there.large) == (True, True, 0)


def test_other_datagrams_do_not_count(world: World) -> None:
    left, right = world.nodes()
    with ThreadPoolExecutor(2) as pool:
        jobs = [
            pool.submit(
                own.netns.run,
                partial(datagrams.exchange, other.address.ip, Probe(secrets.token_hex(16), *ports, LARGE)),
            )
            for own, other, ports in ((left, right, PORTS), (right, left, PORTS[::-1]))
        ]
        assert [job.result().small for job in jobs] == [0, 0]


def test_taken_port_is_a_problem(world: World) -> None:
    left, right = world.nodes()
    held = bound(left.netns, socket.SOCK_DGRAM, "0.0.0.0", PORTS[0])  # noqa: S104
    here = left.netns.run(partial(datagrams.exchange, right.address.ip, Probe("0" * 32, *PORTS, LARGE)))
    held.close()
    assert here.problem == f"UDP port {PORTS[0]} cannot be used: Address already in use"


def test_names_are_read_as_a_program_does(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1\tlocalhost\n10.0.0.9 DB other # no: db2\n100.96.0.9 db # linkwire\nnonsense\n")
    assert names.names(str(hosts), ["db", "db2"]) == (("db", ("10.0.0.9", "100.96.0.9")), ("db2", ()))
