"""Sweep over all links: which pairs are tried, by whom, and what is said of those that are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from agent.asks.all_links import MOST_AT_A_NODE, Sweep, next_batch, pairs
from agent.asks.packing import MOST_QUESTIONS
from agent.asks.survey import UNHEARD, Survey
from mesh.diagnosis.link_facts import Look, Trial
from mesh.diagnosis.questions import Answer, Question
from mesh.errors import Retryable
from tests.support.link_graphs import CLUSTER, endpoint, graph, service

GOOD = Answer(Look(0.0, wired=True, device="lw1"), Trial(small=True, large=True, large_bytes=1420))
MUTE = replace(GOOD, trial=Trial(small=False, large=None, large_bytes=1420))
MADE = graph(
    CLUSTER,
    service("A", "shop_web", ("shop_db", "db"), ("blog_db", "posts")),
    service("B", "shop_db", ("shop_db", "peers")),
    service("C", "blog_db"),
    endpoint("A", "a1", 1),
    replace(endpoint("A", "a2", 2), node="n2"),
    *(endpoint("B", "b1", 3), endpoint("B", "b2", 4), endpoint("C", "c1", 5)),
)


class Nodes:
    """This node and the others: they answer what a test says, and note what they are asked."""

    def __init__(self, answers: dict[str, Answer], error: str = "") -> None:
        self.answers, self.error = answers, error
        self.here: list[Question] = []
        self.asked: list[Question] = []

    def examine(self, questions: Sequence[Question]) -> list[Answer]:
        self.here += questions
        return [self.answers[question.peer] for question in questions]

    def ask(self, questions: Sequence[Question]) -> dict[int, Answer]:
        self.asked += questions
        if self.error and questions:
            raise Retryable(self.error)
        return {at: self.answers[one.peer] for at, one in enumerate(questions) if one.peer in self.answers}

    def sweep(self, stack: str | None = None) -> dict[tuple[str, str], str]:
        made = Sweep(lambda: MADE, Survey("n1", self, self))  # type: ignore[arg-type]
        said = made.sweep({"stack": stack} if stack else {})
        return {(one["consumer_task"], one["provider_task"]): one["problem"] for one in said}


ALL = {"b1": GOOD, "b2": GOOD, "c1": GOOD}


def test_every_pair_is_tried_once_by_its_consumer() -> None:
    nodes = Nodes(ALL)
    every = {(one, other) for one in ("a1", "a2") for other in ALL} | {("b1", "b2"), ("b2", "b1")}
    assert nodes.sweep() == dict.fromkeys(every, "")
    assert {(one.task, one.peer) for one in nodes.here} == {pair for pair in every if pair[0] != "a2"}
    assert {(one.node, one.task, one.peer) for one in nodes.asked} == {("n2", "a2", other) for other in ALL}
    assert all(one.tries and not one.ports and one.probe is None for one in (*nodes.here, *nodes.asked))


def test_stack_chooses_links_with_a_side_in_it() -> None:
    assert Nodes(ALL).sweep("blog") == {("a1", "c1"): "", ("a2", "c1"): ""}
    assert Nodes(ALL).sweep("sho") == {}


def test_pairs_without_an_answer_say_why() -> None:
    unwired = Answer(Look(0.0, error="its container has no network namespace"))
    said = Nodes({"b1": MUTE, "b2": unwired, "c1": Answer(Look(0.0))}).sweep()
    assert said["a1", "b1"] == said["a2", "b1"] == "a packet through the tunnel was not answered"
    assert said["a1", "b2"] == "its container has no network namespace"
    assert said["a1", "c1"] == "its task is not wired"


def test_silent_node_is_said_and_not_asked_again() -> None:
    many = [replace(endpoint("B", f"b{n}", n), node="n1") for n in range(10, 40)]
    made = graph(
        CLUSTER,
        *(service("A", "shop_web", ("shop_db", "db")), service("B", "shop_db")),
        *(replace(endpoint("A", "a2", 2), node="n2"), *many),
    )
    nodes = Nodes({})
    said = [one["problem"] for one in Sweep(lambda: made, Survey("n1", nodes, nodes)).sweep({})]  # type: ignore[arg-type]
    assert said == [f"its node's agent {UNHEARD}"] * 30
    assert len(nodes.asked) == MOST_AT_A_NODE
    failed = Nodes(ALL, "etcd does not answer").sweep()
    assert failed["a2", "b1"] == "its node's agent cannot be asked: etcd does not answer"
    assert failed["a1", "b1"] == ""


@given(st.lists(st.sampled_from(["n1", "n2", "n3", "n4", "n5", "n6", "n7", "dead"]), max_size=200))
def test_batches_hold_what_nodes_and_asks_take(nodes: list[str]) -> None:
    end = endpoint("B", "b1", 1)
    every = [(replace(endpoint("A", f"a{at}", 1), node=node), end) for at, node in enumerate(nodes)]
    left, done = every, list[str]()
    while left:
        batch, left = next_batch(left, "n1", {"dead"})
        counted = Counter(one.node for one, _ in batch)
        assert batch
        assert all(count <= MOST_AT_A_NODE for node, count in counted.items() if node != "dead")
        assert counted.total() - counted["n1"] - counted["dead"] <= MOST_QUESTIONS
        done += [one.task for one, _ in batch]
    assert sorted(done) == sorted(one.task for one, _ in every)


def test_link_to_itself_pairs_no_task_with_itself() -> None:
    assert [(one.task, other.task) for one, other in pairs(MADE, "nobody")] == []
    assert all(one.task != other.task for one, other in pairs(MADE, None))
