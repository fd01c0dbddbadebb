"""Who answers over a link and who does not: real WireGuard, the rules of every task, and a prober of the agent's."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from agent.linux.sysctl import OWN
from agent.reporting.liveness import MISSES, ROUND_S, Prober
from tests.netns.programs import echo
from tests.netns.services import Link, Services, address
from tests.netns.world import Task, World, ip, wait_for
from tests.support.patience import slowness

SOON_S = MISSES * ROUND_S + 1.0  # a busy machine


@pytest.fixture
def mesh(world: World) -> Services:
    """A consumer of a provider with two tasks, whose link is of one port."""
    made = Services.make(world, web=1, db=2)
    made.link(Link.of("web", "db", "80/tcp"))
    for task in made.every():  # as Docker has it in every container
        task.netns.run(lambda: (OWN / "ipv4/ping_group_range").write_text("0 2147483647"))
    for task in made.tasks["db"]:
        wait_for(lambda task=task: echo(made.tasks["web"][0].netns, address(task)))  # type: ignore[misc]
    return made


class Asked:
    """A prober, and what it has come to think."""

    def __init__(self) -> None:
        self.changes: queue.Queue[None] = queue.Queue()
        self.prober = Prober(lambda: self.changes.put(None))

    def becomes(self, *unreachable: Task) -> float:
        """Wait until these are unreachable and no others; how many seconds it took."""
        began, wanted = time.monotonic(), {task.address.ip for task in unreachable}
        while self.prober.unreachable != wanted:
            self.changes.get(timeout=SOON_S)
        return time.monotonic() - began


@pytest.fixture
def asked() -> Iterator[Asked]:
    made = Asked()
    yield made
    made.prober.ask({})
    made.becomes()


def test_gone_and_returned_peers_are_noticed_soon(mesh: Services, asked: Asked) -> None:
    (web,), (left, right) = mesh.tasks["web"], mesh.tasks["db"]
    targets = frozenset[IPv4Address](task.address.ip for task in (left, right))
    asked.prober.ask({web.netns.path: targets})
    time.sleep(SOON_S)
    assert asked.prober.unreachable == set()
    node = Path(right.node.netns.path).name
    ip("-n", node, "link", "set", "under", "down")
    assert asked.becomes(right) < SOON_S * slowness()
    ip("-n", node, "link", "set", "under", "up")
    asked.becomes()


def test_one_answering_task_suffices_gone_one_is_harmless(mesh: Services, world: World, asked: Asked) -> None:
    (web,), (db, _) = mesh.tasks["web"], mesh.tasks["db"]
    strangers = world.netns()  # a task with no way to anybody
    strangers.run(lambda: (OWN / "ipv4/ping_group_range").write_text("0 2147483647"))
    targets = frozenset({db.address.ip})
    asked.prober.ask({strangers.path: targets, f"{web.netns.path}-gone": targets})
    asked.becomes(db)
    asked.prober.ask({strangers.path: targets, web.netns.path: targets})
    asked.becomes()


def test_where_it_may_not_ask_nobody_answers(mesh: Services, asked: Asked) -> None:
    (web,), (db, _) = mesh.tasks["web"], mesh.tasks["db"]
    web.netns.run(lambda: (OWN / "ipv4/ping_group_range").write_text("1 0"))
    asked.prober.ask({web.netns.path: frozenset({db.address.ip})})
    asked.becomes(db)
