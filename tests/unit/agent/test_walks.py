"""Walks along many links at a time: as exact as one by one, with few questions."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.asks.survey import UNHEARD, Survey
from agent.queries.server import BadQueryError
from agent.walks import link_records, many
from agent.walks.link_records import LinkRecords
from agent.walks.looking import look, look_at
from mesh.diagnosis.link_facts import Connection, End, LinkFacts, Listener, Look, Trial
from mesh.diagnosis.link_stages import by_looking
from mesh.diagnosis.questions import Answer, Arrived, Question
from mesh.diagnosis.steps import Step, worst

NODES = ("n1", "n2", "n3")
VIP, PORT = "10.1.9.1", 80


@dataclass
class Fabric:
    """Nodes, the network between them, and their tasks; it answers questions as agents do.

    Attributes:
        blocked: ways that lose all datagrams.
        narrow: ways that lose large ones.
        hung: nodes that answer nothing.
        odd: tasks whose keys are wrong.
        deaf: tasks that listen at no port.
        unwired: tasks without a device.
        off: nodes whose clocks are an hour behind.
        slow: tasks whose first packet is lost, since their node is busy.
    """

    blocked: set[tuple[str, str]] = field(default_factory=set)
    narrow: set[tuple[str, str]] = field(default_factory=set)
    hung: set[str] = field(default_factory=set)
    odd: set[str] = field(default_factory=set)
    deaf: set[str] = field(default_factory=set)
    unwired: set[str] = field(default_factory=set)
    off: set[str] = field(default_factory=set)
    slow: set[str] = field(default_factory=set)
    asks: list[list[Question]] = field(default_factory=list)
    probes: Counter[frozenset[str]] = field(default_factory=Counter)

    def examine(self, questions: Sequence[Question]) -> list[Answer]:
        return [self._answer(question) for question in questions]

    def ask(self, questions: Sequence[Question]) -> dict[int, Answer]:
        self.asks.append(list(questions))
        return {at: self._answer(one) for at, one in enumerate(questions) if one.node not in self.hung}

    def survey(self) -> Survey:
        return Survey("n1", self, self)  # type: ignore[arg-type]

    def _answer(self, question: Question) -> Answer:
        own, peer = question.task.partition(".")[0], question.peer.partition(".")[0]
        way, back = (own, peer), (peer, own)
        small = not {way, back} & self.blocked and question.peer not in self.odd
        small = small and not {question.task, question.peer} & self.unwired
        large = small and not {way, back} & self.narrow
        listeners = () if question.task in self.deaf else (Listener(PORT, "tcp", loopback=False),)
        seen = Look(
            time.time() - (3600 if own in self.off else 0),
            wired=True,
            device="" if question.task in self.unwired else "lw1",
            is_up=True,
            mtu=1420,
            is_peer=True,
            handshake_age=5.0,
            rules_hold=True,
            backends=(question.peer,),
            listeners=listeners,
        )
        trial, arrived = None, None
        if question.tries and seen.device:
            small, large = (False, False) if question.task in self.slow else (small, large)
            self.slow.discard(question.task)
            taken = "silent" if not small else "refused" if question.peer in self.deaf else "open"
            connections = [Connection(question.peer, port, taken, is_vip=False) for port in question.ports]  # type: ignore[arg-type]
            trial = Trial(small, large if small else None, 1420, tuple(connections), (("db", (VIP,)),))
        if question.probe is not None:
            self.probes[frozenset((own, peer))] += 1
            come = 0 if back in self.blocked else 8
            arrived = Arrived(8, come, 0 if back in self.narrow else come)
        return Answer(seen, trial, arrived)


def end(task: str) -> End:
    node = task.partition(".")[0]
    return End(task, f"shop_{task}", node, node, task, ready=True, has_keys=True)


def link(consumer: str, provider: str, ports: tuple[str, ...] | None = None) -> LinkFacts:
    one, other = end(consumer), end(provider)
    facts = LinkFacts(consumer, provider, vip=VIP, names=("db",), ports=ports)
    return replace(facts, consumer_ends=(one,), provider_ends=(other,), consumer_end=one, provider_end=other)


class Records:
    """Each node has 200 free ports."""

    def free_port(self, _node: str, choice: int) -> int:
        return 53620 + choice % 200


RECORDS: LinkRecords = Records()  # type: ignore[assignment]


def causes(found: Sequence[LinkFacts]) -> list[Step | None]:
    return [worst(by_looking(facts)) for facts in found]


tasks = st.builds(lambda node, number: f"{node}.{number}", st.sampled_from(NODES), st.integers(1, 4))
ways = st.sets(st.sampled_from([(one, other) for one in NODES for other in NODES if one != other]), max_size=3)
fabrics = st.builds(
    Fabric,
    blocked=ways,
    narrow=ways,
    hung=st.sets(st.sampled_from(NODES[1:]), max_size=1),
    odd=st.sets(tasks, max_size=2),
    deaf=st.sets(tasks, max_size=2),
    unwired=st.sets(tasks, max_size=2),
    off=st.sets(st.sampled_from(NODES[1:]), max_size=1),
)
ports = st.sampled_from([None, ("80/tcp",), ("53/udp",), ("81/tcp", "80/tcp")])
links = st.lists(st.builds(link, tasks, tasks, ports).filter(lambda one: one.consumer != one.provider), max_size=30)


@settings(max_examples=200, deadline=None)
@given(fabrics, links)
def test_many_are_judged_as_one_by_one(fabric: Fabric, asked: list[LinkFacts]) -> None:
    alone = causes([look_at(fabric.survey(), RECORDS, facts) for facts in asked])
    fabric.probes.clear()
    together = causes(look(fabric.survey(), RECORDS, asked, {}))
    assert together == alone
    assert max(fabric.probes.values(), default=0) <= 2, "two nodes exchange datagrams once"


def test_many_good_links_are_few_asks() -> None:
    fabric = Fabric()
    asked = [link(f"n2.{number}", f"n3.{number % 7}") for number in range(250)]
    assert causes(look(fabric.survey(), RECORDS, asked, {})) == [None] * 250
    assert len(fabric.asks) == 2 * -(-250 // 32), "as many as a node answers of each"
    assert not fabric.probes, "of a link that works nobody asks about the network below"


def test_cut_between_nodes_is_probed_once() -> None:
    fabric = Fabric(blocked={("n2", "n3")})
    asked = [link(f"n2.{number}", f"n3.{number}") for number in range(20)]
    asked += [link(f"n3.{number}", f"n2.{number}") for number in range(20)]
    found = causes(look(fabric.survey(), RECORDS, asked, {}))
    assert {step.text.partition(":")[0] for step in found if step} == {"UDP from n2 does not reach n3"}
    assert fabric.probes == {frozenset(("n2", "n3")): 2}
    assert sum(question.tries for asked in fabric.asks for question in asked) == 40 + 1


def test_link_that_fails_once_is_tried_again() -> None:
    """Another link between the two nodes, whose keys are wrong, says nothing about it."""
    fabric = Fabric(odd={"n3.1"}, slow={"n2.2"})
    first, second = causes(look(fabric.survey(), RECORDS, [link("n2.1", "n3.1"), link("n2.2", "n3.2")], {}))
    assert first is not None
    assert first.stage == "handshake"
    assert second is None


def query(**more: Any) -> dict[str, Any]:  # noqa: ANN401 - a query of any form
    tasks = {"shop_web": [["t1", "1", "n1"]], "shop_db": [["t2", "1", "n2"]]}
    return {"hosts": {"n1": "one"}, "tasks": tasks, "links": [["shop_web", "shop_db"]], **more}


@pytest.mark.parametrize(
    "bad",
    [
        {},
        query(links=[["shop_web", "nobody"]]),
        query(links=[["shop_web"]]),
        query(hosts=[]),
        query(tasks={"shop_web": [1]}),
        query(links=[["shop_web", "shop_db"]] * (many.MOST_LINKS + 1)),
    ],
)
def test_malformed_queries_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(BadQueryError):
        list(made(Fabric()).walks(bad))


def made(fabric: Fabric) -> many.Walks:
    from mesh.model.snapshot import Snapshot  # noqa: PLC0415
    from mesh.topology.link_graph import index  # noqa: PLC0415

    desired: Any = SimpleNamespace(graph=index(Snapshot()), trust=SimpleNamespace(held=""), verified=Snapshot())
    return many.Walks(partial(link_records.read, lambda _keys: Snapshot(), desired, "cluster"), fabric.survey())


def test_each_link_gets_a_document() -> None:
    (told, last) = made(Fabric()).walks(query(unheard={"n2": UNHEARD}))
    assert told["link"] == 0
    assert told["step"]["text"].startswith("Linkwire has no record of a link from shop_web to shop_db")
    assert last == {"unheard": {"n2": UNHEARD}}
