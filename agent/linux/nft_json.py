"""libnftables' JSON: the statements that rules are made of, and the form in which rendered and listed ones compare.

In that form there are no handles, sets have no order, a set of one is that one, and counters do not count.
No I/O here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from mesh.model.net import IPNetwork

Json = Mapping[str, Any]
Body = list[list[Json]]
"""A chain's rules, each a list of statements."""
Rules = tuple[str, ...]
"""A table's objects in libnftables' JSON: itself, then counters, then chains, then each chain's rules in order."""

FAMILY: Mapping[int, str] = {4: "ip", 6: "ip6"}
REFUSAL: Body = [
    [{"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": 6}}, {"reject": {"type": "tcp reset"}}],
    [{"reject": {"type": "icmpx", "expr": "port-unreachable"}}],
]
"""A chain that answers, so that whoever asked knows at once; 6 is TCP (IANA, protocol numbers)."""
_KINDS = ("table", "counter", "chain", "rule")
"""Kinds of objects of a table, in an order in which they can be made."""


def canonical(items: Iterable[Json]) -> Rules:
    """Bring a table's objects into the one form in which rendered and listed ones compare."""
    texts: list[tuple[int, str, str]] = []
    for item in items:
        ((kind, body),) = item.items()
        dropped = {"handle", "packets", "bytes"} if kind == "counter" else {"handle"}
        text = text_of({kind: {key: _normal(value) for key, value in body.items() if key not in dropped}})
        rank = _KINDS.index(kind) if kind in _KINDS else len(_KINDS)
        texts.append((rank, body["chain"] if kind == "rule" else text, text))
    texts.sort(key=lambda ranked: ranked[:2])  # stable: the rules of one chain stay in order
    return tuple(text for _, _, text in texts)


def _normal(value: object) -> object:
    if isinstance(value, dict):
        members = value.get("set")
        if isinstance(members, list) and len(value) == 1:
            elements = sorted((_normal(member) for member in members), key=_place)
            # nft lists a set of one as that one; a map's only pair stays a map.
            return elements[0] if len(elements) == 1 and not isinstance(elements[0], list) else {"set": elements}
        return {key: _normal(inner) for key, inner in value.items()}
    return [_normal(inner) for inner in value] if isinstance(value, list) else value


def _place(element: object) -> str:
    """Return the sort key of a set's element: of a map's pair its key, which no other has."""
    key = element[0] if isinstance(element, list) and element else element
    return key if isinstance(key, str) else text_of(key)


def text_of(value: object) -> str:
    """Write JSON in which equal values are equal texts."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def table_of(name: str, counters: Iterable[str], chains: Mapping[str, Body], hooks: Mapping[str, Json]) -> Rules:
    """Put a table of the family inet together.

    Args:
        name: the table's.
        counters: names of its counters.
        chains: rules by chain.
        hooks: of the chains that hook into the kernel, where and how.
    """
    here: Json = {"family": "inet", "table": name}
    items: list[Json] = [{"table": {"family": "inet", "name": name}}]
    items += [{"counter": {**here, "name": counter}} for counter in counters]
    items += [{"chain": {**here, "name": chain, **hooks.get(chain, {})}} for chain in chains]
    items += [{"rule": {**here, "chain": chain, "expr": rule}} for chain, body in chains.items() for rule in body]
    return canonical(items)


def compared(left: Json, right: object, op: str = "==") -> Json:
    """Match what a packet has against a value."""
    return {"match": {"op": op, "left": left, "right": right}}


def field_is(protocol: str, field: str, right: object, op: str = "==") -> Json:
    """Match a field of a header."""
    return compared({"payload": {"protocol": protocol, "field": field}}, right, op)


def is_in(field: str, network: IPNetwork) -> Json:
    """Match an address that is in a network; `field` is "saddr" or "daddr"."""
    prefix = {"addr": str(network.network_address), "len": network.prefixlen}
    return field_is(FAMILY[network.version], field, {"prefix": prefix})


def goto(chain: str) -> Json:
    """Go on in another chain, and do not come back."""
    return {"goto": {"target": chain}}
