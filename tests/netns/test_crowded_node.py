"""Very many tasks start on one node within ten seconds: all are wired, and links that were there lose no packet.

Real: the agent's program, controller, etcd, namespaces, rules, wireguard-go or the kernel's WireGuard. Docker's API
is a program's; namespaces are there when it tells of a container. SHORT tasks, in `make chaos` LONG_FORM.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Interface
from pathlib import Path

import pytest

from agent.holder import sockets
from agent.linux.netns import TaskNetns
from mesh.model import keyspace
from mesh.model.records import TaskReport
from tests.netns.faulty_mesh import HERE, FaultyMesh, faulty_mesh
from tests.netns.faulty_node import Container
from tests.netns.test_traffic import Flood, await_first_packet
from tests.netns.world import Task, device_name, enough_instances, is_own
from tests.store.waiting import until
from tests.support.effort import LONG

SHORT, LONG_FORM = 16, 500
COUNT = LONG_FORM if LONG else SHORT
WITHIN_S = 10.0 if LONG else 1.0
"""Seconds in which all of them start."""
WIRED_S = 300.0 if LONG else 30.0


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[FaultyMesh]:
    with enough_instances(COUNT), faulty_mesh(tmp_path) as made:
        made.ports = "51820-53819"
        yield made


def made_ready(mesh: FaultyMesh) -> Container:
    """A container of `web`, as Docker has it before it tells of it."""
    made = Container(
        device_name().removeprefix("lw").ljust(25, "x"), "web", mesh.world.netns(), mesh.folder / "containers"
    )
    made.hosts.parent.mkdir(parents=True)
    made.hosts.write_text("127.0.0.1\tlocalhost\n")
    return made


def is_wired(mesh: FaultyMesh, container: Container) -> bool:
    report = mesh.follower.snapshot.get(keyspace.report(HERE, container.task), TaskReport)
    return report is not None and report.wired


def as_task(mesh: FaultyMesh, container: Container) -> Task:
    """A wired container as the traffic's tests know one."""
    address = mesh.desired.graph.by_task[container.task].address
    return Task(mesh.node, TaskNetns(container.netns.path), IPv4Interface((address, 32)), 0)


def resident_mib(pid: int, line: str = "VmHWM") -> float:
    """The most memory that a process has had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(one.split()[1]) for one in lines if one.startswith(line)) / 1024


def processor_s(pid: int) -> tuple[float, float]:
    """Seconds of processor of a process, and of its children that have ended (proc_pid_stat(5))."""
    ticks = list(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]))
    return (ticks[0] + ticks[1]) / os.sysconf("SC_CLK_TCK"), (ticks[2] + ticks[3]) / os.sysconf("SC_CLK_TCK")


def test_crowd_is_wired_and_old_links_lose_nothing(mesh: FaultyMesh, figure: Callable[[str], None]) -> None:
    agent = mesh.agent()
    db, web = mesh.start("db"), mesh.start("web")
    crowd = [made_ready(mesh) for _ in range(COUNT)]
    try:
        agent.start()
        until(lambda: not mesh.left({"db": 1, "web": 1}, db, web), WIRED_S)
        before, spent = resident_mib(agent.pid), processor_s(agent.pid)
        source, target = as_task(mesh, web), as_task(mesh, db)
        await_first_packet(source, target)
        with Flood(source, target, 100) as flood:
            began = time.monotonic()
            for number, container in enumerate(crowd):
                mesh.admit(container)
                time.sleep(max(0.0, began + WITHIN_S * number / COUNT - time.monotonic()))
            started = time.monotonic() - began
            until(lambda: all(is_wired(mesh, one) for one in crowd), WIRED_S)
            wired = time.monotonic() - began
            until(lambda: not mesh.left({"db": COUNT + 1, "web": 1}, db, web, *crowd[-3:]), WIRED_S)
            exact = time.monotonic() - began
        own, nft = (now - then for now, then in zip(processor_s(agent.pid), spent, strict=True))
        figure(
            f"{COUNT} tasks in {started:.1f} s on one node, {mesh.node.backend.name}: all reported wired after"
            f" {wired:.1f} s, the provider exact after {exact:.1f} s; {len(flood.lost)} of {flood.sent} packets of an"
            f" old link lost; the agent's memory {before:.0f} -> {resident_mib(agent.pid):.0f} MiB, its processor"
            f" {own:.1f} s, and {nft:.1f} s of its nft"
        )
        assert flood.lost == []
        assert agent.starts == 1
    finally:
        mesh.end(db, web, *crowd)
        mesh.docker.cut()  # all are listed at once, and what serves nobody is ended
        until(lambda: not any(map(is_own, sockets.served())), WIRED_S)
        agent.kill()
        mesh.forget(db, web, *crowd)
