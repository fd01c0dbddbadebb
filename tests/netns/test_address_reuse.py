"""An address passes from one service's task to another's, and not all nodes know it yet (moby#52661).

With overlay networks a stale entry sends what is meant for the first to the second, which answers. Here a packet goes
where a key is: a consumer that knows the old task only reaches nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from agent.containers import start_gate
from tests.netns.programs import Servers, ask
from tests.netns.services import placed
from tests.netns.test_datagrams import Consumer
from tests.netns.world import Task, World
from tests.support import stage

PORT = 80


@dataclass(frozen=True)
class Reuse:
    """Two services' tasks of one address in turn, each with a consumer, and the first one's next task.

    Attributes:
        web: consumer of the first service.
        shop: consumer of the second; it has a link to the first as well.
        old: the first service's task, which ends.
        new: the second service's task, on another node, which gets its address.
        later: the first service's task in its place.
    """

    web: Consumer
    shop: Consumer
    old: Task
    new: Task
    later: Task

    def answers(self, consumer: Consumer, version: int) -> set[str]:
        """Who answers at the address, and at the provider's VIP."""
        places = (self.old.address.ip, stage.vip())
        return {ask(consumer.task.netns, placed(place, version), PORT) for place in places}


@pytest.fixture
def reuse(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reuse]:
    monkeypatch.setattr(start_gate, "FOLDER", tmp_path / "gate")
    left, right = world.nodes()
    web, shop, old, later = world.task(left), world.task(left), world.task(right), world.task(right)
    new = world.task(left)
    new.address = old.address
    with Servers() as servers:
        for name, task, consumers in (("old", old, (web, shop)), ("new", new, (shop,)), ("later", later, (web,))):
            Consumer(task, stage.hosts_file(tmp_path, name)).is_to_have(*consumers)
            servers.add(name, task.netns, PORT)
        hosts = (stage.hosts_file(tmp_path, name) for name in ("web", "shop"))
        yield Reuse(Consumer(web, next(hosts)), Consumer(shop, next(hosts)), old, new, later)


@pytest.mark.parametrize("version", [4, 6])
def test_reused_address_is_never_anothers_answer(reuse: Reuse, version: int) -> None:
    for consumer in (reuse.web, reuse.shop):
        consumer.is_to_have(reuse.old)
        assert reuse.answers(consumer, version) == {"old"}
    reuse.old.node.backend.delete(reuse.old.netns, reuse.old.name)
    reuse.shop.is_to_have(reuse.new)
    assert reuse.answers(reuse.shop, version) == {"new"}
    # The one that does not know it yet gets no answer, and above all not another service's.
    assert reuse.answers(reuse.web, version).isdisjoint({"new", "later"})
    # Nor where it has learned of the new task's place alone: it is no peer of that one's.
    moved = replace(stage.peer_of(reuse.old), endpoint=stage.peer_of(reuse.new).endpoint)
    reuse.web.wire(stage.interface(reuse.web.task.name, reuse.web.task, (moved,)))
    assert reuse.answers(reuse.web, version).isdisjoint({"new", "later"})
    reuse.web.is_to_have(reuse.later)
    assert ask(reuse.web.task.netns, placed(stage.vip(), version), PORT) == "later"
    assert reuse.answers(reuse.shop, version) == {"new"}
