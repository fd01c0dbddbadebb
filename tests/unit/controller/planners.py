"""A planner that remembers, beside a plan of everything; and what can happen to a store besides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address
from random import Random
from typing import TypeVar

from immutables import Map

from controller.planning.planner import Planner, plan
from controller.steps import Plan
from controller.swarm import model
from controller.swarm.model import Named, Swarm
from mesh.model import keyspace, snapshot
from mesh.model.changelog import ChangeLog
from mesh.model.records import (
    Address,
    Endpoint,
    LinkKeyEpoch,
    Node,
    Port,
    Record,
    SealedKey,
    SealedLinkKey,
    Service,
    Status,
    TaskReport,
)
from mesh.model.snapshot import Delete, Snapshot, Versioned
from tests.support.swarm_world import FIRST_PORT, LAST_PORT, NAMES, NODES, SUBNET, Choose, World, private_key, service
from tests.unit.controller.memory_store import MemoryStore

T = TypeVar("T")

FEW = 0.2
Picture = tuple[Swarm, Snapshot]


class Pictures:
    """Says what has changed from one picture to the next, as those say it who follow a Swarm and a store."""

    def __init__(self) -> None:
        self._last = Swarm("", {}, {}, {}), Snapshot()
        self._named = ChangeLog[Named]()
        self._keys = ChangeLog[str]()

    def next(self, swarm: Swarm, stored: Snapshot, more: Sequence[Named] = (), keys: Iterable[str] = ()) -> Picture:
        """The same, with what has changed in it since the last one; `more` and `keys` may have changed or not."""
        before, held = self._last
        self._last = swarm, stored
        named = [("service", name) for name in _differing(before.services, swarm.services)]
        named += [("task", name) for name in _differing(before.tasks, swarm.tasks)]
        named += [("node", name) for name in _differing(before.nodes, swarm.nodes)]
        self._named.add([*named, *more], len(swarm.tasks))
        differ = _differing(held.records, stored.records) | _differing(held.invalid, stored.invalid)
        self._keys.add(differ.union(keys), len(stored.records))
        seen = model.Lineage(swarm.services, swarm.tasks, swarm.nodes, self._named.mark())
        kinds: dict[type, dict[str, Versioned[Record]]] = {}
        for key, found in stored.records.items():
            kinds.setdefault(type(found.record), {})[key] = found
        by_kind = {kind: Map(found) for kind, found in kinds.items()}
        read = snapshot.Lineage(stored.records, stored.invalid, by_kind, self._keys.mark())
        return replace(swarm, trail=seen), replace(stored, trail=read)


class Remembering:
    """Remembers one plan after the other, and is held to what one without a memory says.

    Attributes:
        looked: how often everything was looked at, and how often less.
    """

    def __init__(self) -> None:
        self.looked: Counter[str] = Counter()
        self._planner = Planner()
        self._pictures = Pictures()

    def check(self, swarm: Swarm, stored: Snapshot, world: World, random: Random | None = None) -> Plan:
        """Make a plan, which must be the one that is made of everything. `random`: more is said to have changed."""
        more = ([], []) if random is None else _anything(random, swarm, stored)
        made = self._planner.plan(*self._pictures.next(swarm, stored, *more), SUBNET, world.now, dict(world.members))
        whole = plan(swarm, stored, SUBNET, world.now, world.members)
        assert made == whole, f"looking at {self._planner.looked_at}"
        self.looked["everything" if self._planner.looked_at.everything else "less"] += 1
        return made


def _anything(random: Random, swarm: Swarm, stored: Snapshot) -> tuple[list[Named], list[str]]:
    """Some of what there is, changed or not."""
    lists = (("service", swarm.services), ("task", swarm.tasks), ("node", swarm.nodes))
    named = [(kind, name) for kind, found in lists for name in sorted(found) if random.random() < FEW]
    return named, [key for key in sorted(stored.records) if random.random() < FEW]


def _differing(before: Mapping[str, T], now: Mapping[str, T]) -> frozenset[str]:
    return frozenset(key for key in {*before, *now} if before.get(key) != now.get(key))


class Wild:
    """What no controller and no agent of ours does to a store, and what clocks and certificates do."""

    def __init__(self, world: World, store: MemoryStore, choose: Choose) -> None:
        self._world = world
        self._store = store
        self._choose = choose
        self.actions: dict[str, Callable[[], None]] = {
            "clock": self._clock,
            "doubt": self._doubt,
            "believe": self._believe,
            "lose": self._lose,
            "stray": self._stray,
            "relabel": self._relabel,
            "node moves": self._node_moves,
            "second endpoint": self._second_endpoint,
        }

    def _clock(self) -> None:
        self._world.now += self._choose((-25, 10, 31, 70))

    def _doubt(self) -> None:
        self._world.members.pop(self._choose(NODES), None)

    def _believe(self) -> None:
        node = self._choose(NODES)
        found = self._store.entries.get(keyspace.node(node))
        if found is not None and isinstance(found.record, Node):
            self._world.members[node] = found.record.sealing_key

    def _lose(self) -> None:
        if self._store.entries:
            kind = self._choose(sorted({key.partition("/")[0] for key in self._store.entries}))
            keys = [key for key in sorted(self._store.entries) if key.startswith(kind)]
            self._store.commit([Delete(self._choose(keys), None)])

    def _some_ids(self) -> list[str]:
        known = {key.rpartition("/")[2] for key in self._store.entries}
        return sorted(known | self._world.tasks.keys() | self._world.services.keys()) or ["nobody"]

    def _stray(self) -> None:
        found, node = self._choose(self._some_ids()), self._choose(NODES)
        number = self._choose(range(1, 31))
        port = self._choose(range(FIRST_PORT, LAST_PORT + 1))
        key = self._choose(("stray", "shop_shop", "shop_web:shop_db"))
        holder = f"{self._choose(('task', 'service'))}/{found}"
        records: tuple[Record, ...] = (
            Address(SUBNET[number], holder),
            Address(SUBNET[number], None),
            Port(node, port, found),
            SealedKey(found, node, 0, "nobody's", b""),
            TaskReport(found, "shop_db", node, "running", wired=True, error=None, port_taken=port, elsewhere=()),
            SealedLinkKey(key, node, self._world.now + number - 10, "nobody's", b""),
            Status(node, 0, ()),
            LinkKeyEpoch(key, self._world.now + number - 10, self._world.now + number - 10, ()),
            Service(found, self._choose(NAMES), SUBNET[number], (), None, strict=True, dnsrr=False, elsewhere=()),
        )
        self._store.write(self._choose(records))

    def _relabel(self) -> None:
        """Link keys: named, rotated, renewed by hand."""
        if not self._world.services:
            return
        found = self._world.services[self._choose(sorted(self._world.services))]
        links = service(found.name, *self._choose(((), ("shop_db",), ("shop_db", "shop_cache")))).labels.links
        key, rotate = self._choose((None, "shop_shop")), self._choose((None, 20, 50))
        labels = replace(
            found.labels,
            links=tuple(replace(link, key=key, rotate=rotate) for link in links),
            renew=self._choose((None, "once", "twice")),
        )
        self._world.services[found.id] = replace(found, labels=labels, replicas=self._choose((None, 1, 2)))

    def _node_moves(self) -> None:
        node = self._choose(NODES)
        found = self._store.entries.get(keyspace.node(node))
        if found is not None and isinstance(found.record, Node):
            last = self._choose((FIRST_PORT, LAST_PORT))
            address = IPv4Address(self._choose(("192.0.2.77", "192.0.2.78")))
            self._store.write(replace(found.record, address=address, last_port=last))

    def _second_endpoint(self) -> None:
        placed: Sequence[Endpoint] = sorted(self._store.all(Endpoint), key=keyspace.key_of)
        if placed and self._world.services:
            found, other = self._choose(placed), self._choose(sorted(self._world.services))
            self._store.write(replace(found, service=other, public_key=private_key(9999).public))
