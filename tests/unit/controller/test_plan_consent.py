"""Random histories of stacks that distrust each other: no link begins, wherever a plan was cut off, unasked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.planning.planner import plan
from controller.swarm.model import SwarmService
from mesh.model.labels.consent import Consent
from mesh.model.records import Service
from tests.support.swarm_world import NODES, SUBNET, World, service
from tests.unit.controller.memory_store import MemoryStore
from tests.unit.controller.planners import Remembering
from tests.unit.controller.transactions import carry_out

T = TypeVar("T")

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
ALLOW = (None, (), ("*",), ("blog",), ("shop",), ("blog_web", "shop_web"))
ACCEPT = (None, (), ("*",), ("shop",))
SOURCES = ((), ("shop",), ("blog_web",))
START = {"shop_web": ("shop_db", "blog_web"), "shop_db": (), "blog_web": ("shop_db", "shop_cache")}
ACTIONS = (
    "deploy",
    "relink",
    "relink",
    "speak",
    "speak",
    "remove",
    "vanish",
    "start",
    "end",
    "plan",
    "part",
    "settle",
)

Edge = tuple[str, str]


class Stacks:
    """A world in which each service's stack is the first part of its name, and its consent is drawn."""

    def __init__(self, data: st.DataObject) -> None:
        self._data = data
        self.store = MemoryStore()
        self.world = World(self.choose, self.store)
        self.remembering = Remembering()
        self.links: set[Edge] = set()
        """Links of the store: the consumer's id and the provider's name."""
        for name, providers in START.items():
            self.world.add(service(name, *providers), self.choose(NODES))
        self._stack()

    def choose(self, options: Sequence[T]) -> T:
        return options[self._data.draw(st.integers(0, len(options) - 1))]

    def act(self, action: str) -> None:
        match action:
            case "speak":
                self._speak()
            case "plan" | "part" | "settle":
                for _ in range(6 if action == "settle" else 1):
                    self._carry_out(whole=action != "part")
            case _:
                self.world.act(action)
        self._stack()

    def _stack(self) -> None:
        named = {id_: replace(s, stack=s.name.partition("_")[0]) for id_, s in self.world.services.items()}
        self.world.services = named

    def _speak(self) -> None:
        if self.world.services:
            found = self.world.services[self.choose(sorted(self.world.services))]
            consent = Consent(self.choose(ALLOW), self.choose(ACCEPT), self.choose(SOURCES))
            self.world.services[found.id] = replace(found, labels=replace(found.labels, consent=consent))

    def _carry_out(self, *, whole: bool) -> None:
        made = plan(self.world.swarm(), self.store.snapshot(), SUBNET, self.world.now, self.world.members)
        for step in made.steps if whole else made.steps[: self.choose(range(len(made.steps) + 1))]:
            carry_out(self.store, [step])
            self.look()

    def look(self) -> None:
        """Hold each link that begins to the words of both sides as they are now."""
        now = {(record.id, link.provider) for record in self.store.all(Service) for link in record.links}
        for consumer, provider in now - self.links:
            asking = self.world.services.get(consumer)
            for asked in self.world.services.values():
                if asking is not None and asked.name == provider:
                    assert asking.stack == asked.stack or agreed(asking, asked), (asking, asked)
        self.links = now

    def refused_at_rest(self) -> None:
        """Hold each link that is there to the provider's word, where there is one."""
        for consumer, provider in self.links:
            asking = self.world.services.get(consumer)
            for asked in self.world.services.values():
                if asking is not None and asked.name == provider and asked.labels.consent.allow is not None:
                    assert asking.stack == asked.stack or agreed(asking, asked), (asking, asked)


def agreed(consumer: SwarmService, provider: SwarmService) -> bool:
    """Whether both sides want a link, in other words than the planner's."""
    ours, theirs = {consumer.name, consumer.stack, "*"}, {provider.name, provider.stack, "*"}
    consents, declares = provider.labels.consent.allow or (), provider.labels.consent.sources
    links = any(link.provider == provider.name for link in consumer.labels.links)
    accepts = bool(theirs & set(consumer.labels.consent.accept or ()))
    return bool(links and ours & {*consents, *declares}) or bool(accepts and ours & set(declares))


@QUICK
@given(st.data())
def test_no_link_between_stacks_begins_unasked(data: st.DataObject) -> None:
    stacks = Stacks(data)
    for action in data.draw(st.lists(st.sampled_from(ACTIONS), min_size=10, max_size=40), "actions"):
        stacks.act(action)
        stacks.remembering.check(stacks.world.swarm(), stacks.store.snapshot(), stacks.world)
    stacks.act("settle")
    stacks.refused_at_rest()
