"""Batches of questions: as many as an ask holds and a node answers; and asks that hold what they may."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from agent.asks.batches import Unit, ask_all, next_batch
from agent.asks.packing import MAX_QUESTIONS, MOST_QUESTIONS, pack_questions, room, unpack_questions
from agent.asks.survey import UNHEARD, Survey
from agent.probes.examiner import MOST_OWN, MOST_PORTS, MOST_PROBES
from mesh.diagnosis.link_facts import Look
from mesh.diagnosis.questions import Answer, Probe, Question

NODES = [f"n{number}" for number in range(1, 8)]
PROBE = Probe("0" * 32, 51820, 51821, 1480)


def one(node: str, ports: int = 0) -> Unit:
    return (Question(node, f"{node}-task", "peer", ports=tuple(range(ports))),)


def both(left: str, right: str) -> Unit:
    return tuple(Question(node, f"{node}-task", "peer", probe=PROBE) for node in (left, right))


units = st.one_of(
    st.builds(one, st.sampled_from(NODES), st.sampled_from([0, MOST_PORTS])),
    st.lists(st.sampled_from(NODES), min_size=2, max_size=2).map(lambda nodes: both(*nodes)),
)


@given(st.lists(units, max_size=400))
def test_every_batch_holds_what_nodes_take(every: list[Unit]) -> None:
    left, done = list(range(len(every))), list[int]()
    while left:
        batch, left = next_batch(every, left, "n1", {"n7"})
        assert batch, "it would never end"
        questions = [question for number in batch for question in every[number] if question.node != "n7"]
        others = [question for question in questions if question.node != "n1"]
        probes = Counter(question.node for question in questions if question.probe is not None)
        assert max(Counter(question.node for question in questions).values(), default=0) <= MOST_OWN
        assert max(probes.values(), default=0) <= MOST_PROBES
        assert len(others) <= MOST_QUESTIONS
        assert sum(map(room, others)) <= MAX_QUESTIONS
        done += batch
    assert sorted(done) == list(range(len(every)))


def test_asks_are_bounded_in_bytes() -> None:
    every = [one(f"node{number}", MOST_PORTS) for number in range(MOST_QUESTIONS)]
    batch, left = next_batch(every, range(MOST_QUESTIONS), "n1", ())
    assert (len(batch), len(left)) == (MAX_QUESTIONS // room(every[0][0]), MOST_QUESTIONS - len(batch))


def task() -> str:
    return "".join(secrets.choice("0123456789abcdefghijklmnopqrstuvwxyz") for _ in range(25))


def test_questions_take_no_more_room_than_reckoned() -> None:
    """Of tasks and nodes that nobody has named before, in many ways to fill an ask."""
    for ports in (0, MOST_PORTS):
        for has_probe in (False, True):
            found: list[Question] = []
            while len(found) < MOST_QUESTIONS:
                more = foreign(ports, has_probe=has_probe)
                if sum(map(room, [*found, more])) > MAX_QUESTIONS:
                    break
                found.append(more)
            assert unpack_questions(pack_questions(found)) == tuple(found)


def foreign(ports: int, *, has_probe: bool) -> Question:
    mine, theirs = (51820 + secrets.randbelow(2000) for _ in range(2))
    probe = Probe(secrets.token_hex(16), mine, theirs, 1480)
    tried = tuple(secrets.randbelow(1 << 16) for _ in range(ports))
    return Question(task(), task(), task(), tries=True, ports=tried, probe=probe if has_probe else None)


class Nodes:
    """Nodes that answer, but for one that hangs."""

    def __init__(self) -> None:
        self.asked: list[list[Question]] = []

    def examine(self, questions: Sequence[Question]) -> list[Answer]:
        return [Answer(Look(1.0)) for _ in questions]

    def ask(self, questions: Sequence[Question]) -> dict[int, Answer]:
        self.asked.append(list(questions))
        return {at: Answer(Look(2.0)) for at, question in enumerate(questions) if question.node != "n3"}


def test_hanging_node_is_asked_once() -> None:
    nodes, unheard = Nodes(), dict[str, str]()
    every = [one(NODES[number % 3]) for number in range(300)]
    survey = Survey("n1", nodes, nodes)  # type: ignore[arg-type]
    answers = dict(ask_all(survey, every, unheard))
    assert unheard == {"n3": UNHEARD}
    assert [answers[number] for number in range(3)] == [(Answer(Look(1.0)),), (Answer(Look(2.0)),), (UNHEARD,)]
    assert len(answers) == len(every)
    assert sum(question.node == "n3" for asked in nodes.asked for question in asked) == MOST_OWN
    assert all(question.node != "n1" for asked in nodes.asked for question in asked)
