"""libnftables' JSON: the statements that rules are made of, and the form in which rendered and listed ones compare.

In that form there are no handles, sets have no order, a set of one is that one, counters do not count, and a named
set, which packets fill, is empty.
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
"""A table's objects in libnftables' JSON: itself, counters, sets, chains, then each chain's rules in order."""

FAMILY: Mapping[int, str] = {4: "ip", 6: "ip6"}
REFUSAL: Body = [
    [{"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": 6}}, {"reject": {"type": "tcp reset"}}],
    [{"reject": {"type": "icmpx", "expr": "port-unreachable"}}],
]
"""A chain that answers, so that whoever asked knows at once; 6 is TCP (IANA, protocol numbers)."""
_EARLY = "early"
_SYN: Json = {"&": [{"payload": {"protocol": "tcp", "field": "flags"}}, ["fin", "syn", "rst", "ack"]]}
_TRY: Json = {"concat": [{"payload": {"protocol": "tcp", "field": field}} for field in ("sport", "dport")]}
_EARLY_S, _EARLY_MOST = 3, 1024
"""TCP sends its first packet again after 1 s and then after 3 s (RFC 6298, section 2.1)."""
_KINDS = ("table", "counter", "set", "chain", "rule")
"""Kinds of objects of a table, in an order in which they can be made."""
_PASSING: Mapping[str, frozenset[str]] = {"counter": frozenset({"packets", "bytes"}), "set": frozenset({"elem"})}
"""Parts of an object that packets change."""


def canonical(items: Iterable[Json]) -> Rules:
    """Bring a table's objects into the one form in which rendered and listed ones compare."""
    texts: list[tuple[int, str, str]] = []
    for item in items:
        ((kind, body),) = item.items()
        dropped = _PASSING.get(kind, frozenset())
        text = text_of(
            {kind: {key: _normal(value) for key, value in body.items() if key not in ("handle", *dropped)}}
        )
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


def early() -> list[Json]:
    """Write the rule that drops the first packet of a connection that comes before its device.

    TCP sends it again a second later, and mostly there is a device then. The set `early` remembers who has been put
    off; where it is full, nobody is.
    """
    return [
        compared(_SYN, "syn"),
        compared(_TRY, f"@{_EARLY}", "!="),
        {"set": {"op": "add", "elem": _TRY, "set": f"@{_EARLY}"}},
        {"drop": None},
    ]


def table_of(name: str, counters: Iterable[str], chains: Mapping[str, Body], hooks: Mapping[str, Json]) -> Rules:
    """Put a table of the family inet together.

    Args:
        name: the table's.
        counters: names of its counters.
        chains: rules by chain, that of `early` among them.
        hooks: of the chains that hook into the kernel, where and how.
    """
    here: Json = {"family": "inet", "table": name}
    items: list[Json] = [_table(name)]
    items += [{"counter": {**here, "name": counter}} for counter in counters]
    tried = {"type": ["inet_service", "inet_service"], "flags": ["timeout"], "timeout": _EARLY_S, "size": _EARLY_MOST}
    items += [{"set": {**here, "name": _EARLY, **tried}}]
    items += [{"chain": {**here, "name": chain, **hooks.get(chain, {})}} for chain in chains]
    items += [{"rule": {**here, "chain": chain, "expr": rule}} for chain, body in chains.items() for rule in body]
    return canonical(items)


def compared(left: Json, right: object, op: str = "==") -> Json:
    """Match what a packet has against a value."""
    return {"match": {"op": op, "left": left, "right": right}}


def field_is(protocol: str, field: str, right: object, op: str = "==") -> Json:
    """Match a field of a header."""
    return compared({"payload": {"protocol": protocol, "field": field}}, right, op)


def is_in(field: str, network: IPNetwork, op: str = "==") -> Json:
    """Match an address that is in a network, or with "!=" is not; `field` is "saddr" or "daddr"."""
    prefix = {"addr": str(network.network_address), "len": network.prefixlen}
    return field_is(FAMILY[network.version], field, {"prefix": prefix}, op)


def goto(chain: str) -> Json:
    """Go on in another chain, and do not come back."""
    return {"goto": {"target": chain}}


def transaction(rules: Rules, present: Rules | None) -> str:
    """Write the command that makes the table be `rules`: all of it comes to be, or nothing does.

    Connections stay what they are, and counters that were there keep their values. Only a table that somebody else
    has put more than rules, chains and counters into is made anew, and its counters with it.

    Args:
        rules: as of `table_of`.
        present: as of `canonical`; None when there is no table.
    """
    desired = [json.loads(text) for text in rules]
    table = desired[0]
    if present is None:
        return _commands(("add", item) for item in desired)
    stale = [json.loads(text) for text in sorted(frozenset(present) - frozenset(rules))]
    if any(_is_foreign(item) for item in stale):
        # Added first, since somebody may have taken it away meanwhile.
        return _commands([("add", table), ("delete", table), *(("add", item) for item in desired)])
    there = frozenset(present)
    return _commands(
        [
            *(("flush", _named(item)) for item in map(json.loads, present) if "chain" in item),
            *(("delete", _named(item)) for item in stale if "chain" in item),
            *(("delete", _named(item)) for item in stale if "counter" in item),
            *(
                ("add", item)
                for item, text in zip(desired, rules, strict=True)
                if "rule" in item or text not in there
            ),
        ]
    )


def removal(name: str) -> str:
    """Write the command that removes a table of the family inet."""
    return _commands([("delete", _table(name))])


def request(name: str) -> str:
    """Write the command that lists a table of the family inet."""
    return _commands([("list", _table(name))])


def _table(name: str) -> Json:
    return {"table": {"family": "inet", "name": name}}


def _is_foreign(item: Json) -> bool:
    """Tell whether the object is of a kind that the table, as we make it, never has too much of."""
    return not ("rule" in item or "counter" in item or ("chain" in item and "hook" not in item["chain"]))


def _named(item: Json) -> Json:
    """Return an object as a command names it."""
    ((kind, body),) = item.items()
    return {kind: {key: body[key] for key in ("family", "table", "name")}}


def _commands(commands: Iterable[tuple[str, Json]]) -> str:
    return text_of({"nftables": [{verb: item} for verb, item in commands]})
