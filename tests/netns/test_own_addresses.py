"""A task with unusual addresses of its own beside the mesh's: links do not ask what a task's other devices are like.

IPv6 alone (istio#61027), several addresses on one device, a /32 whose gateway is on no subnet of it, and addresses
that change while it runs (istio#55968).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from agent.interface import reconcile
from mesh.topology.ipam import twin
from tests.netns.programs import Servers, ask
from tests.netns.world import MESH6, Task, World, ip
from tests.support import stage

PORT = 80
COMMANDS: dict[str, tuple[str, ...]] = {
    "IPv6 alone": ("address add 2001:db8:1::2/64 dev eth0 nodad", "-6 route add default via 2001:db8:1::1"),
    "several": (
        "address add 203.0.113.2/24 dev eth0",
        "address add 203.0.113.3/24 dev eth0",
        "address add 198.51.100.9/32 dev eth0",
        "address add 2001:db8:1::2/64 dev eth0 nodad",
        "address add 2001:db8:1::3/64 dev eth0 nodad",
        "route add default via 203.0.113.1",
        "-6 route add default via 2001:db8:1::1",
    ),
    "a /32": (
        "address add 203.0.113.2/32 dev eth0",
        "route add default via 203.0.113.1 dev eth0 onlink",
        "address add 2001:db8:1::2/128 dev eth0 nodad",
        "-6 route add default via 2001:db8:1::1 dev eth0 onlink",
    ),
    "none": (),
}


def have(task: Task, commands: Sequence[str]) -> None:
    for command in commands:
        ip("-n", Path(task.netns.path).name, *command.split())


@pytest.fixture
def pair(world: World) -> tuple[Task, Task]:
    """Two tasks, each with a device to its node and no address."""
    made = tuple(world.task(node) for node in world.nodes())
    for task in made:
        inside, node = (Path(one.path).name for one in (task.netns, task.node.netns))
        ip("link", "add", "eth0", "netns", inside, "type", "veth", "peer", "name", "bridge", "netns", node)
        ip("-n", node, "link", "set", "bridge", "up")
        ip("-n", inside, "link", "set", "eth0", "up")
    return made[0], made[1]


@pytest.fixture
def servers() -> Iterator[Servers]:
    with Servers() as made:
        yield made


def wire(task: Task, other: Task, folder: Path) -> bool:
    """Make its interface; return whether anything was to be done."""
    config = stage.interface(task.name, task, (stage.peer_of(other),))
    hosts = folder / task.name
    path = str(hosts) if hosts.exists() else stage.hosts_file(folder, task.name)
    changes, _ = reconcile.reconcile(task.node.backend, task.netns, path, config, None, complete=True)
    return bool(changes)


def test_links_do_not_mind_a_tasks_own_addresses(pair: tuple[Task, Task], servers: Servers, tmp_path: Path) -> None:
    web, db = pair
    wheres = (stage.vip(), twin(MESH6, stage.vip()), db.address.ip, db.address6)
    servers.add("db", db.netns, PORT)
    for before, commands in zip((None, *COMMANDS), COMMANDS.values(), strict=False):
        for task, other in ((web, db), (db, web)):
            have(task, ("address flush dev eth0", "route flush dev eth0", "-6 route flush dev eth0", *commands))
            assert wire(task, other, tmp_path) == (before is None), "the mesh's are as they were"
        assert [ask(web.netns, where, PORT) for where in wheres] == ["db"] * 4, commands
