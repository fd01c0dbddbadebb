"""Sweep over links: every pair of tasks once, by one small packet from inside the consumer's task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from agent.asks.packing import MOST_QUESTIONS
from agent.asks.survey import Survey
from mesh.diagnosis.questions import Answer, Question
from mesh.model.records import Endpoint
from mesh.topology.link_graph import LinkGraph

MOST_AT_A_NODE = 8
"""Pairs of one ask that one node tries: so many that nobody answers take it half of the time that it has."""
Pair = tuple[Endpoint, Endpoint]
"""A consumer's task and a provider's."""


class Sweep:
    """Sweep over all links, from one node.

    Args:
        graph: returns the link graph that the node acts on.
        survey: from this node.
    """

    def __init__(self, graph: Callable[[], LinkGraph], survey: Survey) -> None:
        self._graph = graph
        self._survey = survey

    def sweep(self, query: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Try every pair, or with `stack` those of its links: a document a pair, in the order of the answers."""
        stack = query.get("stack")
        graph = self._graph()
        left, unheard = list(pairs(graph, stack if isinstance(stack, str) else None)), dict[str, str]()
        while left:
            batch, left = next_batch(left, self._survey.node, unheard)
            questions = [Question(one.node, one.task, other.task, tries=True) for one, other in batch]
            answers = self._survey.ask(questions, unheard)
            unheard |= {
                pair[0].node: said for pair, said in zip(batch, answers, strict=True) if isinstance(said, str)
            }
            for (one, other), answer in zip(batch, answers, strict=True):
                ends = (_end(graph, "consumer", one), _end(graph, "provider", other))
                yield {**ends[0], **ends[1], "problem": _problem(answer)}


def pairs(graph: LinkGraph, stack: str | None) -> Iterator[Pair]:
    """Yield each pair of tasks that a link connects, the consumer's first, by the names of their services."""
    for consumer in sorted(graph.services.values(), key=lambda service: service.name):
        for provider in graph.providers(consumer):
            names = (consumer.name, provider.name)
            if stack is None or any(name.startswith(f"{stack}_") for name in names):
                for one in graph.endpoints.get(consumer.id, ()):
                    yield from (
                        (one, other) for other in graph.endpoints.get(provider.id, ()) if one.task != other.task
                    )


def next_batch(left: Sequence[Pair], here: str, silent: Collection[str] = ()) -> tuple[list[Pair], list[Pair]]:
    """Return the pairs to try next, as many as one ask takes, and those that are left.

    Args:
        left: all that are.
        here: the node that asks, which needs no ask for its own.
        silent: nodes that are asked nothing more.
    """
    batch, rest, by_node = list[Pair](), list[Pair](), Counter[str]()
    for pair in left:
        node = pair[0].node
        is_asked = node != here and node not in silent
        asked = by_node.total() - by_node[here]
        if node in silent or (by_node[node] < MOST_AT_A_NODE and (not is_asked or asked < MOST_QUESTIONS)):
            by_node[node] += node not in silent
            batch.append(pair)
        else:
            rest.append(pair)
    return batch, rest


def _end(graph: LinkGraph, side: str, end: Endpoint) -> dict[str, Any]:
    service = graph.services[end.service].name
    return {side: service, f"{side}_task": end.task, f"{side}_slot": end.slot, f"{side}_node": end.node}


def _problem(answer: Answer | str) -> str:
    """Return why a pair's packet was not answered, in words; empty where it was."""
    if isinstance(answer, str):
        return f"its node's agent {answer}"
    if answer.trial is not None:
        return "" if answer.trial.small else "a packet through the tunnel was not answered"
    return answer.look.error or "its task is not wired"
