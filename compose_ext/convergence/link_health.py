"""Health of all links across a change of Linkwire itself: those that were good before must be good again. Pure.

A pair of tasks is judged by its newest reading. One of before the change says nothing, so a node's readings count
from the moment on at which its new agent ran.
"""

from collections.abc import Iterator, Mapping
from typing import Any

BAD = frozenset({"broken", "unwired", "unknown", "error"})
"""States of a pair that is not good; an idle one is."""

Key = tuple[str, str]
"""Ids of the consumer's and the provider's task."""
Pairs = Mapping[Key, Mapping[str, Any]]
"""Each pair as the agent answers it."""


def pairs(answer: Mapping[str, Any]) -> Pairs:
    """Return the pairs of all links in an agent's answer."""
    found = (pair for link in answer.get("links", ()) for pair in link.get("pairs", ()))
    # The rest of a task's name may differ between two versions.
    return {(_id(pair["consumer_task"]), _id(pair["provider_task"])): pair for pair in found}


def _id(task: object) -> str:
    return str(task).rpartition(".")[2]


def good(answer: Mapping[str, Any]) -> frozenset[Key]:
    """Return the pairs that are good now."""
    return frozenset(key for key, pair in pairs(answer).items() if pair.get("state") not in BAD)


def missing(before: frozenset[Key], answer: Mapping[str, Any]) -> frozenset[Key]:
    """Return the pairs that were good and are none any more: of tasks that have ended, if all is well."""
    return before - pairs(answer).keys()


def wrong(before: frozenset[Key], answer: Mapping[str, Any], ages: Mapping[str, float]) -> tuple[str, ...]:
    """Say which pairs are no longer good, and why.

    Args:
        before: the pairs that were good.
        answer: the agent's now.
        ages: name of each node with a new agent -> seconds for which that runs.
    """
    return tuple(_wrong(before, answer, ages))


def _wrong(before: frozenset[Key], answer: Mapping[str, Any], ages: Mapping[str, float]) -> Iterator[str]:
    for key, pair in sorted(pairs(answer).items()):
        if key not in before:
            continue
        node, state, age = str(pair.get("consumer_node")), str(pair.get("state")), pair.get("as_of")
        name = f"{pair['consumer_task']} on {node} -> {pair['provider_task']} on {pair.get('provider_node')}"
        if state in BAD:
            yield f"{name}: {state}" + (f": {pair['error']}" if pair.get("error") else "")
        elif node in ages and (age is None or float(age) > ages[node]):
            yield f"{name}: not measured yet by the new agent"
