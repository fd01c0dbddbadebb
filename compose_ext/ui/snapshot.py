"""The page's documents, from an agent's answer: the graph, one link, one service, one node. Pure.

docs/ui.md describes them, field by field.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from compose_ext.health import node_encryption
from compose_ext.swarm.link_states import Answer, Link, Pair
from compose_ext.ui.layout import placed
from compose_ext.ui.rates import Rates
from mesh.process.gc_tuning import gc_paused

VERSION = 1
NOT_ALLOWED, NO_TASKS = "not-allowed", "no-tasks"
WORST_FIRST = (
    "broken",
    "unwired",
    NOT_ALLOWED,
    "unknown",
    "stale",
    "no-handshake",
    NO_TASKS,
    "idle",
    "connected",
)
"""States of a link; `ps` tells the same of pairs. A newer agent's state that is not here comes before all."""

MOST = 200
"""Pairs, or tasks, of one document, the worst first: a link may have a million."""

Document = dict[str, Any]
_CONSUMER = attrgetter("consumer_task", "consumer_node")
_PROVIDER = attrgetter("provider_task", "provider_node")
_CONSUMERS_STATE, _PROVIDERS_STATE = attrgetter("consumer_node", "state"), attrgetter("provider_node", "state")


@dataclass(frozen=True, slots=True)
class Reading:
    """One answer of the agent, with the rates that follow from those before it."""

    answer: Answer
    at: float
    """Seconds since 1970 when it was asked for."""
    rates: Rates


def worst(states: Iterable[str], default: str = NO_TASKS) -> str:
    """Return the state that an operator has to see first."""
    return min(states, key=_rank, default=default)


def _rank(state: str) -> int:
    return WORST_FIRST.index(state) if state in WORST_FIRST else -1


def link_state(link: Link) -> str:
    """Return the state of a link as a whole: the worst of its pairs."""
    return worst(link.states, NO_TASKS if link.allowed else NOT_ALLOWED)


@gc_paused()
def graph(reading: Reading) -> Document:
    """Describe everything that is drawn or listed: services with their places, links, nodes and problems."""
    links = [_summary(reading, link) for link in reading.answer.links]
    states: dict[str, list[str]] = defaultdict(list)
    for link in links:
        for end in ("consumer", "provider"):
            states[link[end]].append(link["state"])
    tasks = _tasks(reading.answer)
    places = placed(sorted(states), [(link["consumer"], link["provider"]) for link in links])
    services = [
        {
            "name": name,
            "stack": place.stack,
            "state": worst(states[name]),
            "tasks": len(tasks[name]),
            "x": place.x,
            "y": place.y,
        }
        for name, place in places.services.items()
    ]
    stacks = [{"name": name, "x": x, "y": y} for name, (x, y) in places.stacks.items()]
    return {
        "version": VERSION,
        "at": reading.at,
        "services": services,
        "stacks": stacks,
        "links": links,
        "nodes": list(_nodes(reading.answer)),
        "problems": [*reading.answer.problems, *_encryption_problems(reading.answer)],
    }


def link(reading: Reading, consumer: str, provider: str) -> Document | None:
    """Describe one link with all its pairs; None where there is no such link."""
    for number, each in enumerate(reading.answer.links):
        if (each.consumer, each.provider) == (consumer, provider):
            raw = reading.answer.raw["links"][number]
            return {
                **_summary(reading, each),
                "aliases": list(each.aliases),
                "ports": raw.get("ports"),
                "vip": raw.get("vip"),
                "vip6": raw.get("vip6"),
                "key": each.key,
                "epoch": each.epoch,
                "allowed": each.allowed,
                "refused_by": raw.get("refused"),
                "pairs": [_pair(reading, pair) for pair in _worst(each.pairs)],
            }
    return None


def service(reading: Reading, name: str) -> Document | None:
    """Describe one service: its tasks, and its links in both directions; None where no link names it."""
    mine = [each for each in reading.answer.links if name in (each.consumer, each.provider)]
    if not mine:
        return None
    tasks = _tasks(reading.answer)[name]
    return {
        "name": name,
        "state": worst(link_state(each) for each in mine),
        "tasks": [{"task": task, "node": where} for task, where in sorted(tasks.items())[:MOST]],
        "tasks_count": len(tasks),
        "links": [_summary(reading, each) for each in mine],
        "apart": _count((reading.answer.raw.get("apart") or {}).get(name)),
    }


def node(reading: Reading, name: str) -> Document | None:
    """Describe one node: its tasks and the pairs that have an end there; None where nobody names it."""
    found = next((each for each in _nodes(reading.answer) if each["name"] == name), None)
    if found is None:
        return None
    tasks = {
        task: of
        for of, of_service in _tasks(reading.answer).items()
        for task, where in of_service.items()
        if where == name
    }
    here = [
        (each, pair)
        for each in reading.answer.links
        for pair in each.pairs
        if name in (pair.consumer_node, pair.provider_node)
    ]
    here.sort(key=lambda item: _rank(item[1].state))
    pairs = [
        {"consumer": each.consumer, "provider": each.provider, **_pair(reading, pair)} for each, pair in here[:MOST]
    ]
    return {
        **found,
        "tasks": [{"task": task, "service": of} for task, of in sorted(tasks.items())[:MOST]],
        "pairs": pairs,
    }


def changes(before: Reading | None, after: Reading) -> Iterator[Document]:
    """Yield an event for each link whose state is another one than before, in the form of the audit log's events."""
    if before is None:
        return
    earlier = {(each.consumer, each.provider): link_state(each) for each in before.answer.links}
    for each in after.answer.links:
        state, was = link_state(each), earlier.get((each.consumer, each.provider))
        if was not in (None, state):
            details = {"consumer": each.consumer, "provider": each.provider, "before": was}
            yield {"time": after.at, "kind": f"link {state}", "details": details, "measured": True}


def _worst(pairs: Iterable[Pair]) -> list[Pair]:
    return sorted(pairs, key=lambda pair: _rank(pair.state))[:MOST]


def _summary(reading: Reading, link: Link) -> Document:
    rates = [reading.rates.of(pair) for pair in link.pairs]
    return {
        "consumer": link.consumer,
        "provider": link.provider,
        "state": link_state(link),
        "pairs_count": len(link.pairs),
        "states": dict(link.states),
        "received_rate": _sum(rate.received for rate in rates),
        "sent_rate": _sum(rate.sent for rate in rates),
        "refused": link.refused,
    }


def _pair(reading: Reading, pair: Pair) -> Document:
    rate = reading.rates.of(pair)
    return {
        "consumer_task": pair.consumer_task,
        "consumer_node": pair.consumer_node,
        "provider_task": pair.provider_task,
        "provider_node": pair.provider_node,
        "state": pair.state,
        "lasting": pair.lasting,
        "handshake_age": pair.handshake_age,
        "received": pair.received,
        "sent": pair.sent,
        "received_rate": rate.received,
        "sent_rate": rate.sent,
        "error": pair.error,
    }


def _tasks(answer: Answer) -> Mapping[str, dict[str, str]]:
    """Return the nodes of the tasks that pairs name, by service; the last part of a task's name is its id."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for each in answer.links:
        found[each.consumer].update(map(_CONSUMER, each.pairs))
        found[each.provider].update(map(_PROVIDER, each.pairs))
    return found


def _nodes(answer: Answer) -> Iterator[Document]:
    states: dict[str, Counter[str]] = defaultdict(Counter)
    tasks: dict[str, set[str]] = defaultdict(set)
    for each in answer.links:
        for end in (_CONSUMER, _PROVIDER):
            for task, where in set(map(end, each.pairs)):
                tasks[where].add(task)
        for end in (_CONSUMERS_STATE, _PROVIDERS_STATE):
            for (where, state), count in Counter(map(end, each.pairs)).items():
                states[where][state] += count
    records = {str(each.get("hostname")): each for each in answer.raw.get("nodes") or ()}
    for name in sorted({*states, *records}):
        record = records.get(name, {})
        yield {
            "name": name,
            "state": worst(states[name]),
            "tasks_count": len(tasks[name]),
            "pairs_count": states[name].total(),
            "states": dict(states[name]),
            "address": record.get("address"),
            "accepted": record.get("accepted"),
            "unproven": record.get("unproven"),
            "encryption": _encryption(answer, str(record.get("id")), name),
        }


def _control(answer: Answer) -> Mapping[str, Any]:
    found = answer.raw.get("control")
    return found if isinstance(found, dict) else {}


def _encryption(answer: Answer, node: str, hostname: str) -> Document | None:
    """Describe a node's part in node encryption; None where all of it is off, or nobody says."""
    control = _control(answer)
    state = node_encryption.node_state(control, node, hostname) if control.get("encryption") else None
    if state is None:
        return None
    fields = ("step", "peers", "ready", "handshake_age", "received", "sent", "refused", "problem", "why_not")
    return {field: getattr(state, field) for field in fields}


def _encryption_problems(answer: Answer) -> Iterator[str]:
    """Name what is wrong with the nodes' parts in node encryption."""
    for record in answer.raw.get("nodes") or ():
        name = str(record.get("hostname"))
        part = _encryption(answer, str(record.get("id")), name) or {}
        if text := part.get("problem") or part.get("why_not"):
            yield f"node encryption: node {name}: {text}"


def _sum(rates: Iterable[float | None]) -> float | None:
    """Add what is known; None where nothing is."""
    known = [rate for rate in rates if rate is not None]
    return round(sum(known), 1) if known else None


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0
