"""Batches of links to ask an agent for: as many as a query takes, with the running tasks of their services. Pure."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mesh.diagnosis.swarm_facts import SwarmFacts, SwarmTask

MAX_QUERY = 120_000
"""Bytes of one query, but for silent nodes: the agent takes 131,072, as Linux does in one argument of a program."""
MAX_UNHEARD = 8_000
"""Bytes of the silent nodes that one query names; more are asked once more."""
MOST_LINKS = 1000
"""Links of one query."""
MOST_ENDS = 32
"""Tasks of one service that are told of: the agent takes no more."""


@dataclass(slots=True)
class Batch:
    """Links that are asked for together.

    Attributes:
        numbers: places of the links among all that are asked for.
        query: what the agent is asked: `hosts`, nodes' names by id; `tasks`, by service's name, each as its id, what
            its name has after the service's, and its node's id; `links`, as consumer and provider.
    """

    numbers: list[int] = field(default_factory=list)
    query: dict[str, Any] = field(default_factory=lambda: {"hosts": {}, "tasks": {}, "links": []})

    def without(self, unheard: Mapping[str, str]) -> dict[str, Any]:
        """Return the query, so that nodes of which others said that they do not answer are not asked again."""
        named: dict[str, str] = {}
        size = 0
        for node in self.query["hosts"].keys() & unheard.keys():
            size += len(json.dumps([node, unheard[node]]))
            if size > MAX_UNHEARD:
                break
            named[node] = unheard[node]
        return {**self.query, "unheard": named}


def batches(links: Sequence[SwarmFacts]) -> Iterator[Batch]:
    """Yield batches with all links, in their order, each at most MAX_QUERY bytes; a link alone may be more."""
    batch, size = Batch(), 0
    for number, facts in enumerate(links):
        added = _size(facts, batch)
        if batch.numbers and (size + added > MAX_QUERY or len(batch.numbers) >= MOST_LINKS):
            yield batch
            batch, size = Batch(), 0
            added = _size(facts, batch)
        size += added
        batch.numbers.append(number)
        batch.query["links"].append([facts.consumer, facts.provider])
        for service in (facts.consumer, facts.provider):
            tasks = facts.running(service)[:MOST_ENDS]
            batch.query["tasks"][service] = [_end(service, task) for task in tasks]
            batch.query["hosts"] |= {task.node: facts.node_name(task.node) for task in tasks}
    if batch.numbers:
        yield batch


def _end(service: str, task: SwarmTask) -> list[str]:
    return [task.id, task.name.removeprefix(f"{service}."), task.node]


def _size(facts: SwarmFacts, batch: Batch) -> int:
    """Return how many bytes a link adds to a query, or a few more."""
    added: list[Any] = [[facts.consumer, facts.provider]]
    for service in {facts.consumer, facts.provider} - batch.query["tasks"].keys():
        tasks = facts.running(service)[:MOST_ENDS]
        added.append([service, [_end(service, task) for task in tasks]])
        nodes = {task.node for task in tasks} - batch.query["hosts"].keys()
        added += [[node, facts.node_name(node)] for node in nodes]
    return len(json.dumps(added))
