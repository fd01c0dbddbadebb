"""Pairs of tasks of all links as columns, and each pair as an object again: the two forms of an agent's answer. Pure.

A thousand links of ten tasks at either end have a hundred thousand pairs, as objects 26 MB of JSON. A document with
columns has the tasks once (`ends`: `task`, `node`, and in `at` the place in `measured` of what its node read), in
each link the places in `ends` as `consumer_ends` and `provider_ends`, and in `measured` for each node one value for
each pair whose consumer is there: `state`, `handshake_age`, `rx`, `tx`; by the pair's place, for those that have one,
`for` and `error`; and for all of them `as_of` and `silent_for`. Pairs are in the order of the links, of their
consumers, then of their providers. A task has no pair with itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import repeat
from typing import Any

_UNKNOWN = "unknown"


def with_pairs(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document in which each link has its pairs as objects: `pairs`, in the place of columns.

    Raises:
        KeyError, IndexError, TypeError, ValueError, AttributeError: it is malformed.
    """
    ends, measured = document["ends"], document["measured"]
    tasks, nodes, at = ends["task"], ends["node"], ends["at"]
    places = [0] * len(measured)
    links = []
    for link in document["links"]:
        rest = {name: value for name, value in link.items() if name not in ("consumer_ends", "provider_ends")}
        pairs: list[dict[str, Any]] = []
        providers = link["provider_ends"]
        for mine in link["consumer_ends"]:
            theirs = [end for end in providers if end != mine] if mine in providers else providers
            start = places[at[mine]]
            places[at[mine]] = end = start + len(theirs)
            of_node = measured[at[mine]]
            if len(of_node["state"]) < end:
                raise ValueError("columns are shorter than the pairs")
            names = zip([tasks[end] for end in theirs], [nodes[end] for end in theirs], strict=True)
            pairs += _pairs((tasks[mine], nodes[mine]), names, of_node, range(start, end))
        links.append({**rest, "pairs": pairs})
    left_out = ("ends", "measured")
    return {**{name: value for name, value in document.items() if name not in left_out}, "links": links}


def _pairs(
    mine: tuple[str, str], providers: Iterator[tuple[str, str]], of_node: Mapping[str, Any], places: range
) -> Iterator[dict[str, Any]]:
    lasting, errors = of_node["for"], of_node["error"]
    silent_for, as_of = of_node["silent_for"], of_node["as_of"]
    task, node = mine
    columns = [of_node[name][places.start : places.stop] for name in ("state", "handshake_age", "rx", "tx")]
    numbers = map(str, places) if lasting or errors else repeat("", len(places))
    for number, (to_task, to_node), state, age, received, sent in zip(numbers, providers, *columns, strict=True):
        yield {
            "consumer_task": task,
            "consumer_node": node,
            "provider_task": to_task,
            "provider_node": to_node,
            "state": state,
            "for": silent_for if state == _UNKNOWN else lasting.get(number),
            "handshake_age": age,
            "rx": received,
            "tx": sent,
            "error": errors.get(number),
            "as_of": as_of,
        }
