"""Swarm's lists, kept from what was listed in part: they say what is there, and what has changed in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.swarm.list_cache import ListCache
from controller.swarm.model import Swarm, SwarmChange, SwarmNode, SwarmService, SwarmTask
from mesh.model.changelog import LOGGED
from tests.support.swarm_world import DB, WEB, unsettled

SERVICES = ("a", "b", "c")
NODES = ("n1", "n2")
ROOTS = (b"root",)

tasks = st.builds(
    SwarmTask,
    st.sampled_from([f"t{n}" for n in range(6)]),
    st.sampled_from(SERVICES),
    st.just(1),
    st.sampled_from(("", *NODES)),
    st.sampled_from(("running", "shutdown")),
    st.sampled_from(("starting", "running", "failed")),
)
services = st.builds(
    lambda name, replicas: replace(WEB, id=name, replicas=replicas), st.sampled_from(SERVICES), st.integers(0, 2)
)
nodes = st.builds(
    lambda name, down: SwarmNode(name, name, down=down, address=None), st.sampled_from(NODES), st.booleans()
)
ids = st.sampled_from((*SERVICES, *NODES, *(f"t{n}" for n in range(6))))
actions = st.lists(
    st.tuples(st.sampled_from(("whole", "part", "part")), st.one_of(tasks, tasks, services, nodes, ids)), max_size=25
)


class Truth:
    """What a Swarm says, and lists that are told of it."""

    def __init__(self) -> None:
        self.services: dict[str, SwarmService] = {}
        self.tasks: dict[str, SwarmTask] = {}
        self.nodes: dict[str, SwarmNode] = {}
        self.lists = ListCache()

    def change(self, it: SwarmTask | SwarmService | SwarmNode | str) -> None:
        """A string: whatever has that id ends."""
        match it:
            case SwarmTask() if it.id in self.tasks:  # a task never becomes another service's
                self.tasks[it.id] = replace(it, service=self.tasks[it.id].service)
            case SwarmTask():
                self.tasks[it.id] = it
            case SwarmService():
                self.services[it.id] = it
            case SwarmNode():
                self.nodes[it.id] = it
            case _:
                for held in (self.services, self.tasks, self.nodes):
                    held.pop(it, None)

    def tell(self, *, whole: bool) -> None:
        """All, or the tasks of the services that have changed, with objects of their own as from Docker."""
        fresh = {name: replace(task) for name, task in self.tasks.items()}
        self.lists.update_services({name: replace(one) for name, one in self.services.items()})
        self.lists.update_nodes({name: replace(one) for name, one in self.nodes.items()})
        if whole:
            self.lists.update_tasks(fresh)
        else:
            for service in SERVICES:
                self.lists.update_tasks({n: task for n, task in fresh.items() if task.service == service}, {service})

    def seen(self) -> Swarm:
        return self.lists.swarm("cluster", ROOTS)


def differing(old: Mapping[str, object], new: Mapping[str, object]) -> frozenset[str]:
    return frozenset(name for name in {*old, *new} if old.get(name) != new.get(name))


@settings(max_examples=300, deadline=None)
@given(actions)
def test_kept_list_equals_swarms_and_knows_its_changes(
    history: list[tuple[str, SwarmTask | SwarmService | SwarmNode | str]],
) -> None:
    truth = Truth()
    pictures = [(truth.seen(), truth.seen())]
    for how, change in history:
        truth.change(change)
        truth.tell(whole=how == "whole")
        now = truth.seen()
        copy = Swarm("cluster", dict(truth.services), dict(truth.tasks), dict(truth.nodes), ROOTS)
        assert (now.services, dict(now.tasks), now.nodes) == (copy.services, copy.tasks, copy.nodes)
        assert truth.lists.unsettled(now) == unsettled(copy)
        pictures.append((now, copy))
        for earlier, was in pictures[1:]:
            assert (earlier.services, dict(earlier.tasks), earlier.nodes) == (was.services, was.tasks, was.nodes)
            changed = now.changed_since(earlier)
            if changed is not None:
                assert changed.services >= differing(was.services, copy.services)
                assert changed.tasks >= differing(was.tasks, copy.tasks)
                assert changed.nodes >= differing(was.nodes, copy.nodes)
    assert truth.seen().changed_since(pictures[-1][0]) == SwarmChange()


def test_what_says_the_same_is_the_same_object() -> None:
    truth = Truth()
    for one in (
        WEB,
        DB,
        SwarmNode("n1", "n1", down=False, address=None),
        SwarmTask("t1", WEB.id, 1, "n1", "running", "running"),
    ):
        truth.change(one)
    truth.tell(whole=True)
    first = truth.seen()
    truth.tell(whole=True)
    truth.tell(whole=False)
    second = truth.seen()
    assert (second.services, second.nodes) == (first.services, first.nodes)
    assert second.services is first.services
    assert second.tasks is first.tasks
    assert second.nodes is first.nodes
    truth.change(SwarmTask("t2", DB.id, 1, "n1", "running", "running"))
    truth.tell(whole=True)
    assert truth.seen().tasks["t1"] is first.tasks["t1"]
    assert truth.seen().changed_since(first) == SwarmChange(tasks=frozenset({"t2"}))


def test_where_nothing_is_known_anything_may_have_changed() -> None:
    truth = Truth()
    truth.change(WEB)
    truth.tell(whole=True)
    first = truth.seen()
    assert truth.lists.swarm("cluster", (b"another",)).changed_since(first) is None
    assert truth.lists.swarm("another", ROOTS).changed_since(first) is None
    assert replace(first, tasks={}).changed_since(first) is None
    assert first.changed_since(Truth().seen()) is None
    for n in range(LOGGED * 3):
        truth.change(replace(WEB, replicas=n))
        truth.tell(whole=True)
    assert truth.seen().changed_since(first) is None, "the log is not kept for ever"
    assert first.changed_since(truth.seen()) is None
