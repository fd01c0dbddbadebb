"""When Swarm is asked for which list. What it answers is tested on a real one."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.swarm.model import Swarm, SwarmNode, SwarmService, SwarmTask
from controller.swarm.poller import (
    BACK_OFF,
    CLOSE_MAX_S,
    CLOSE_S,
    COST,
    HEARD_COST,
    HEARD_S,
    HINT_S,
    RESYNC_S,
    SILENCE_S,
    SwarmPoller,
)
from mesh.errors import Retryable
from tests.support.swarm_world import DB, WEB, World, service
from tests.unit.controller.memory_store import MemoryStore

LATE = 1000.0
"""Seconds on the clock at the start: a machine that has been up for a while."""


class Lists:
    """Answers from a world, at a price in seconds, and notes what it was asked."""

    def __init__(self) -> None:
        self.world = World(lambda options: options[0], MemoryStore())
        self.asked: list[str] = []
        self.now = LATE
        self.price = 0.0
        self.broken: set[str] = set()

    def clock(self) -> float:
        return self.now

    def cluster(self) -> tuple[str, tuple[bytes, ...], int]:
        self._ask("cluster")
        return "cluster", self.world.roots, 4789

    def services(self) -> dict[str, SwarmService]:
        self._ask("services")
        return dict(self.world.services)

    def tasks(self, services: frozenset[str] | None = None) -> dict[str, SwarmTask]:
        if services is None:
            self._ask("tasks")
            return dict(self.world.tasks)
        self._ask("tasks of " + " ".join(sorted(services)))
        if missing := services - self.world.services.keys():
            raise Retryable(f"service {min(missing)} not found")
        return {task.id: task for task in self.world.tasks.values() if task.service in services}

    def nodes(self) -> dict[str, SwarmNode]:
        self._ask("nodes")
        return dict(self.world.nodes)

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        self.now += self.price
        if what.split(maxsplit=1)[0] in self.broken:
            raise Retryable(what)


def plain(seen: Swarm) -> Swarm:
    """With tasks that can be held against a dict."""
    return replace(seen, tasks=dict(seen.tasks))


class Watched:
    """A watch over such lists that has made its first, whole list."""

    def __init__(self, *services: SwarmService) -> None:
        self.lists = Lists()
        self.world = self.lists.world
        for found in services:
            self.world.add(found, "n1")
        self.watch = SwarmPoller(self.lists, self.lists.clock)
        self.first = self.watch.refresh(())
        self.asked_first, self.lists.asked = self.lists.asked, []
        self.closely = True

    def refresh(self, *hints: tuple[str, str], after: float = 0.0) -> list[str]:
        """What was asked; the picture is always what is known of the world."""
        self.lists.now += after
        self.lists.asked = []
        self.seen = self.watch.refresh(hints, closely=self.closely)
        return self.lists.asked

    def idle(self, seconds: float) -> list[tuple[float, str]]:
        """What is asked when nothing but time passes, and when."""
        asked: list[tuple[float, str]] = []
        start = self.lists.now
        in_vain = 0
        while (wait := self.watch.due_in()) + self.lists.now <= start + seconds:
            self.lists.now += wait + 1e-9  # a wait is never shorter than asked for
            at = round(self.lists.now - start, 6)
            found = self.refresh()
            in_vain += not found
            assert in_vain <= 1, "it wakes for nothing"  # once, when a hint has run out meanwhile
            asked.extend((at, what) for what in found)
        self.lists.now = start + seconds
        return asked


def test_first_listing_is_whole_with_nodes_last() -> None:
    watched = Watched(WEB, DB)
    assert watched.asked_first == ["cluster", "services", "tasks", "nodes"]
    assert plain(watched.first) == watched.world.swarm()


def test_swarm_answers_until_it_is_silent() -> None:
    """Each question fails from one moment on: what was asked of it counts from then, also for a standby."""
    assert not SwarmPoller(Lists()).answers, "it was never asked"
    for closely in (True, False):
        watched = Watched(WEB, DB)
        watched.closely = closely
        watched.lists.broken = {"cluster"}
        for after, answers in ((RESYNC_S + 1, True), (SILENCE_S - 0.5, True), (0.5, False), (60.0, False)):
            with pytest.raises(Retryable):
                watched.refresh(after=after)
            assert watched.watch.answers == answers
        watched.lists.broken = set()
        watched.refresh(after=0.5)
        assert watched.watch.answers


def test_quiet_swarm_is_fully_listed_only_periodically() -> None:
    watched = Watched(WEB, DB)
    assert watched.watch.due_in() == RESYNC_S
    whole = ["cluster", "services", "tasks", "nodes"]
    times = (RESYNC_S, 2 * RESYNC_S)
    assert watched.idle(2 * RESYNC_S + 1) == [(at, what) for at in times for what in whole]


def test_expensive_listing_takes_at_most_a_twentieth() -> None:
    watched = Watched(WEB)
    watched.lists.price = 1.0
    watched.refresh(("resync", ""))
    assert watched.watch.due_in() == COST * 4.0


def test_moving_service_is_watched_closely_then_less() -> None:
    watched = Watched(WEB, DB)
    (task,) = (task.id for task in watched.world.tasks.values() if task.service == DB.id)
    watched.world.change(task, state="starting")
    assert watched.refresh(("service", DB.id)) == ["services"], "it was listed whole this very moment"
    asked = [at for at, what in watched.idle(30) if what.startswith("tasks")]
    gaps = [later - earlier for earlier, later in itertools.pairwise(asked)]
    assert asked[0] == pytest.approx(CLOSE_S)
    assert gaps[0] == pytest.approx(CLOSE_S, rel=0.2)
    assert max(gaps) <= CLOSE_MAX_S + 0.1
    assert gaps[-1] >= 1.5
    assert len(asked) < BACK_OFF * 6
    watched.world.change(task, state="running")
    watched.idle(CLOSE_MAX_S + 0.1)
    assert {what for _, what in watched.idle(RESYNC_S + 0.1)} == {"cluster", "services", "tasks", "nodes"}, "settled"


def test_service_that_never_moves_is_not_watched_forever() -> None:
    watched = Watched(replace(WEB, replicas=3))
    watched.idle(60)
    closely = [at for at, what in watched.idle(20) if what == f"tasks of {WEB.id}"]
    assert len(closely) <= 20 / CLOSE_MAX_S


def test_service_without_tasks_is_not_watched_forever() -> None:
    watched = Watched()
    watched.world.add(replace(WEB, replicas=1))
    watched.refresh(("resync", ""))
    watched.idle(60)
    closely = [at for at, what in watched.idle(20) if what == f"tasks of {WEB.id}"]
    assert len(closely) <= 20 / CLOSE_MAX_S


def test_service_without_links_is_not_watched() -> None:
    batch = service("shop_batch", replicas=3)
    watched = Watched(WEB, DB, batch)
    assert watched.refresh(("service", batch.id), after=1.0) == ["services"]
    assert {what for _, what in watched.idle(20)} == {"cluster", "services", "tasks", "nodes"}


def test_newly_linked_service_is_listed_at_once() -> None:
    cache = service("shop_cache", replicas=3)
    watched = Watched(WEB, DB, cache)
    watched.world.services[WEB.id] = linked = service("shop_web", "shop_db", "shop_cache", replicas=1)
    assert linked.id == WEB.id
    assert watched.refresh(("service", WEB.id), after=1.0) == ["services", f"tasks of {cache.id} {WEB.id}"]
    assert any(cache.id in what for _, what in watched.idle(1))
    watched.world.services[WEB.id] = WEB
    watched.refresh(("service", WEB.id), after=1.0)
    assert not any(cache.id in what for _, what in watched.idle(RESYNC_S))


def test_whole_listing_is_not_repeated_at_once() -> None:
    watched = Watched(replace(WEB, replicas=2))
    assert watched.watch.due_in() == pytest.approx(CLOSE_S)


def test_hint_keeps_settled_service_watched_briefly() -> None:
    watched = Watched(WEB, DB)
    assert watched.refresh(("task", DB.id), after=1.0) == [f"tasks of {DB.id}"]
    asked = watched.idle(HINT_S + 1)
    assert {what for _, what in asked} == {f"tasks of {DB.id}"}
    assert max(at for at, _ in asked) < HINT_S
    assert watched.watch.due_in() > 0.9


def test_reported_change_is_listed_sooner_than_mere_movement() -> None:
    watched = Watched(WEB, DB)
    assert watched.refresh(("service", WEB.id), after=1.0) == ["services", f"tasks of {WEB.id}"]
    assert watched.watch.due_in() == pytest.approx(CLOSE_S)
    assert watched.refresh(("task", WEB.id), after=HEARD_S / 4) == []
    assert watched.watch.due_in() == pytest.approx(HEARD_S * 3 / 4)
    assert watched.refresh(after=HEARD_S * 3 / 4 + 1e-9) == [f"tasks of {WEB.id}"]
    assert watched.watch.due_in() == pytest.approx(CLOSE_S)


def test_expensive_listings_ignore_single_service_events() -> None:
    watched = Watched(replace(WEB, replicas=2))
    watched.lists.price = (CLOSE_S - 0.02) / HEARD_COST
    watched.refresh(after=CLOSE_S)
    spent = began = 0.0
    for _ in range(100):
        before = watched.lists.now
        asked = watched.refresh(("task", WEB.id), after=0.001)
        spent += watched.lists.price * len(asked)
        began += watched.lists.now - before
    assert 0 < spent / began <= 1 / HEARD_COST


def test_each_event_kind_requests_its_own_list() -> None:
    watched = Watched(WEB, DB)
    assert watched.refresh(("node", "n1"), after=1.0) == ["nodes"]
    assert watched.refresh(("service", WEB.id), after=1.0) == ["services", f"tasks of {WEB.id}"]
    assert watched.refresh(("resync", ""), ("node", "n1")) == ["cluster", "services", "tasks", "nodes"]
    assert watched.refresh() == []


def test_several_services_that_move_are_one_question() -> None:
    watched = Watched(WEB, DB)
    asked = watched.refresh(("task", DB.id), ("task", WEB.id), after=1.0)
    assert asked == [f"tasks of {DB.id} {WEB.id}"]


def test_removed_services_tasks_are_followed_to_end() -> None:
    watched = Watched(WEB, DB)
    del watched.world.services[DB.id]
    (task,) = (task.id for task in watched.world.tasks.values() if task.service == DB.id)
    watched.world.change(task, desired="remove")
    asked = watched.refresh(("service", DB.id), after=1.0)
    assert asked == ["services", "tasks"], "Swarm lists no tasks of a service that is gone"
    assert watched.seen.tasks[task].desired == "remove"
    del watched.world.tasks[task]
    watched.idle(CLOSE_MAX_S)
    assert task not in watched.seen.tasks
    watched.idle(HINT_S)
    assert {what for _, what in watched.idle(RESYNC_S + 0.1)} == {"cluster", "services", "tasks", "nodes"}


def test_task_on_unknown_node_requests_the_nodes() -> None:
    watched = Watched(WEB)
    watched.world.nodes["n9"] = SwarmNode("n9", "host-n9", down=False, address=None)
    task = watched.world.start(WEB.id, "n9")
    assert watched.refresh(("task", WEB.id), after=1.0) == [f"tasks of {WEB.id}", "nodes"]
    assert watched.seen.live(task)


@pytest.mark.parametrize("broken", ["services", "tasks", "nodes"])
@pytest.mark.parametrize("hint", [("service", WEB.id), ("resync", "")])
def test_after_a_failure_all_is_asked_for_again(broken: str, hint: tuple[str, str]) -> None:
    watched = Watched(WEB)
    watched.lists.broken = {broken}
    task = watched.world.start(WEB.id, "n2")
    hints = (hint, ("node", "n1"))
    for _ in range(2):
        with pytest.raises(Retryable):
            watched.refresh(*hints, after=1.0)
        assert watched.watch.due_in() == 0.0
    assert task.id not in watched.first.tasks
    watched.lists.broken = set()
    assert watched.refresh() == ["cluster", "services", "tasks", "nodes"]
    assert plain(watched.seen) == watched.world.swarm()


def test_handed_out_picture_does_not_change() -> None:
    watched = Watched(WEB)
    before = Swarm(
        "cluster",
        dict(watched.first.services),
        dict(watched.first.tasks),
        dict(watched.first.nodes),
        watched.first.roots,
    )
    watched.world.start(WEB.id, "n2")
    watched.refresh(("task", WEB.id), after=1.0)
    assert plain(watched.first) == before
    assert plain(watched.seen) != before


def test_standby_lists_everything_periodically_and_nothing_else() -> None:
    watched = Watched(WEB, DB)
    (task,) = (task.id for task in watched.world.tasks.values() if task.service == DB.id)
    watched.closely = False
    watched.world.change(task, state="starting")
    assert watched.refresh(("service", DB.id), ("task", DB.id), ("node", "n1"), after=1.0) == []
    assert watched.watch.due_in() == RESYNC_S - 1.0, "nothing moves for a standby"
    whole = ["cluster", "services", "tasks", "nodes"]
    assert watched.idle(RESYNC_S) == [(RESYNC_S - 1.0, what) for what in whole]
    assert watched.refresh(("resync", "")) == whole


def test_new_leader_lists_everything_before_it_acts() -> None:
    watched = Watched(WEB, DB)
    watched.closely = False
    watched.world.start(WEB.id, "n2")
    assert watched.refresh(("task", WEB.id), after=1.0) == []
    watched.closely = True
    assert watched.refresh() == ["cluster", "services", "tasks", "nodes"]
    assert plain(watched.seen) == watched.world.swarm()
    assert watched.refresh() == [], "once"


@settings(deadline=None)
@given(st.data())
def test_picture_equals_the_world_within_one_resync(data: st.DataObject) -> None:
    watched = Watched(WEB, DB, service("shop_cache", "shop_db"))
    watched.world._choose = lambda options: options[data.draw(st.integers(0, len(options) - 1))]
    for _ in range(data.draw(st.integers(0, 12))):
        watched.world.act(data.draw(st.sampled_from(sorted(watched.world.actions))))
        if data.draw(st.booleans()):
            with contextlib.suppress(Retryable):  # a service was removed and no event has said so yet
                watched.idle(data.draw(st.floats(0, 3)))
    with contextlib.suppress(Retryable):
        watched.idle(RESYNC_S)
    assert plain(watched.watch.refresh(())) == watched.world.swarm()
