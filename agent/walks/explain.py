"""Answer to `docker linkwire explain`: one link, walked from its records to its names, a document a step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agent.asks.survey import Survey
from agent.queries.server import BadQueryError, Document
from agent.walks.link_records import MOST_ENDS, Reader, Sides, SwarmTask
from agent.walks.looking import look_at
from mesh.diagnosis import link_stages
from mesh.diagnosis.link_facts import LinkFacts
from mesh.diagnosis.steps import Step
from mesh.model.labels.ports import PortRange

_LONGEST = 256
"""Characters of a name in a query."""


class Explainer:
    """Explainer of links, from one node.

    Args:
        read: reads the records of links.
        survey: from this node.
    """

    def __init__(self, read: Reader, survey: Survey) -> None:
        self._read = read
        self._survey = survey

    def explain(self, query: Document) -> Iterator[Document]:
        """Walk along one link: a document a step, up to the first that is wrong."""
        asked, ends = _asked(query)
        records = self._read([(asked, ends)])
        facts = records.facts(asked, ends)
        steps = link_stages.by_records(facts)
        yield from map(_document, steps)
        if any(step.outcome == "wrong" for step in steps):
            return
        yield from map(_document, link_stages.by_looking(look_at(self._survey, records, facts)))


def _document(step: Step) -> Document:
    return {"step": step.told()}


def _asked(query: Document) -> tuple[LinkFacts, Sides]:
    """Read a query. Raises BadQueryError."""
    port = _text(query, "port")
    try:
        parsed = PortRange.parse(port) if port else None
    except ValueError as error:
        raise BadQueryError(f"port: {error}") from None
    facts = LinkFacts(_text(query, "consumer"), _text(query, "provider"), asked=str(parsed) if parsed else "")
    return facts, (_tasks(query, "consumer_tasks"), _tasks(query, "provider_tasks"))


def _text(query: Mapping[str, Any], name: str) -> str:
    value = query.get(name, "")
    if not isinstance(value, str) or len(value) > _LONGEST:
        raise BadQueryError(f"{name} has to be a text of at most {_LONGEST} characters")
    return value


def _tasks(query: Document, name: str) -> list[SwarmTask]:
    value = query.get(name, [])
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise BadQueryError(f"{name} has to be a list of objects")
    return [SwarmTask(*(_text(one, field) for field in ("id", "name", "node", "host"))) for one in value[:MOST_ENDS]]
