"""Answer to `docker linkwire check --live`: many links, walked as `explain` does, and what is wrong with each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from agent.asks.survey import Survey
from agent.queries.server import BadQueryError, Document
from agent.walks.link_records import MOST_ENDS, Reader, Sides, SwarmTask
from agent.walks.looking import look
from mesh.diagnosis import link_stages
from mesh.diagnosis.link_facts import LinkFacts
from mesh.diagnosis.steps import Step, worst

MOST_LINKS = 1000
"""Links of one query."""
_TOGETHER = 250
"""Of these, looked at together: after so many the plugin hears how far it is."""


class Walks:
    """Walks along many links at a time, from one node.

    Args:
        read: reads the records of links.
        survey: from this node.
    """

    def __init__(self, read: Reader, survey: Survey) -> None:
        self._read = read
        self._survey = survey

    def walks(self, query: Document) -> Iterator[Document]:
        """Walk along some links: a document a link, by its place in the query, and at last the nodes that are silent.

        The query has `hosts`, names by node's id; `tasks`, the running ones by service's name, each as its id, what
        its name has after the service's, and its node's id; `links`, each as consumer and provider; and `unheard`,
        nodes that are not asked, by id, and what is said of them.
        """
        links, unheard = _asked(query)
        records = self._read(links)
        facts = [records.facts(asked, ends) for asked, ends in links]
        recorded = [link_stages.by_records(one) for one in facts]
        left: list[int] = []
        for number, steps in enumerate(recorded):
            if any(step.outcome == "wrong" for step in steps):
                yield _document(number, steps)
            else:
                left.append(number)
        for first in range(0, len(left), _TOGETHER):
            some = left[first : first + _TOGETHER]
            looked = look(self._survey, records, [facts[number] for number in some], unheard)
            for number, seen in zip(some, looked, strict=True):
                yield _document(number, (*recorded[number], *link_stages.by_looking(seen)))
        yield {"unheard": unheard}


def _document(number: int, steps: Sequence[Step]) -> Document:
    """Tell of a link what is wrong, if anything is, and that by which it is the same as another's."""
    cause = worst(steps)
    if cause is None:
        return {"link": number}
    return {"link": number, "step": cause.told(), "cause": cause.cause, "ways": [list(way) for way in cause.ways]}


def _asked(query: Document) -> tuple[list[tuple[LinkFacts, Sides]], dict[str, str]]:
    """Read a query. Raises BadQueryError."""
    try:
        hosts, unheard = (_texts(query.get(name, {})) for name in ("hosts", "unheard"))
        tasks: dict[str, Sequence[SwarmTask]] = {}
        tasks |= {service: _tasks(service, listed, hosts) for service, listed in query["tasks"].items()}
        links = [(LinkFacts(one, other), (tasks[one], tasks[other])) for one, other in query["links"]]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadQueryError(f"the query is malformed ({type(error).__name__}: {error})") from None
    if len(links) > MOST_LINKS:
        raise BadQueryError(f"{len(links)} links are more than the {MOST_LINKS} of one query")
    return links, unheard


def _tasks(service: str, listed: Sequence[Any], hosts: dict[str, str]) -> list[SwarmTask]:
    ends = [(str(task), str(place), str(node)) for task, place, node in listed[:MOST_ENDS]]
    return [SwarmTask(task, f"{service}.{place}", node, hosts.get(node, node)) for task, place, node in ends]


def _texts(value: Any) -> dict[str, str]:  # noqa: ANN401 - whatever JSON has
    return {str(name): str(text) for name, text in value.items()}
