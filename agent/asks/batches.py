"""Batches of questions to many nodes: as many at a time as an ask holds, and as a node answers of one ask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, MutableMapping, Sequence

from agent.asks.packing import MAX_QUESTIONS, MOST_QUESTIONS, room
from agent.asks.survey import Survey
from agent.probes.examiner import MOST_OWN, MOST_PROBES
from mesh.diagnosis.questions import Answer, Question

Unit = tuple[Question, ...]
"""Questions that are asked at the same time, as those are by which two nodes send to each other."""


def ask_all(
    survey: Survey, units: Sequence[Unit], unheard: MutableMapping[str, str]
) -> Iterator[tuple[int, tuple[Answer | str, ...]]]:
    """Ask all questions and yield each unit's number with the answers, as they come; a text says why there is none.

    Args:
        survey: from this node.
        units: all of them.
        unheard: id of a node that is not asked, and what is said of it; one that does not answer is added.
    """
    left = list(range(len(units)))
    while left:
        batch, left = next_batch(units, left, survey.node, unheard)
        questions = [question for number in batch for question in units[number]]
        answers = survey.ask(questions, unheard)
        heard = {
            question.node for question, said in zip(questions, answers, strict=True) if not isinstance(said, str)
        }
        for question, said in zip(questions, answers, strict=True):
            if isinstance(said, str) and question.node not in heard:
                unheard[question.node] = said
        every = iter(answers)
        for number in batch:
            yield number, tuple(next(every) for _ in units[number])


def next_batch(
    units: Sequence[Unit], left: Sequence[int], here: str, silent: Collection[str]
) -> tuple[list[int], list[int]]:
    """Return the units to ask next, and those that are left; at least one, if there is any. Pure.

    Args:
        units: all of them.
        left: numbers of those that are not asked yet.
        here: the node that asks, which needs no ask for its own.
        silent: nodes that are asked nothing.
    """
    batch, rest = list[int](), list[int]()
    own, probes, asked, size = Counter[str](), Counter[str](), 0, 0
    for number in left:
        heard = [question for question in units[number] if question.node not in silent]
        others = [question for question in heard if question.node != here]
        more = sum(map(room, others))
        mine = own + Counter(question.node for question in heard)
        probed = probes + Counter(question.node for question in heard if question.probe is not None)
        is_full = (
            asked + len(others) > MOST_QUESTIONS
            or size + more > MAX_QUESTIONS
            or any(mine[question.node] > MOST_OWN or probed[question.node] > MOST_PROBES for question in heard)
        )
        if is_full and batch:
            rest.append(number)
            continue
        batch.append(number)
        own, probes = mine, probed
        asked, size = asked + len(others), size + more
    return batch, rest
