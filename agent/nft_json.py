"""Canonical form of libnftables' JSON, in which rendered and listed rules compare. No I/O here.

No handles, elements of sets without an order, a set of one is that one, and counters without what they count.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

Json = Mapping[str, Any]
Rules = tuple[str, ...]
"""A table's objects in libnftables' JSON: itself, then counters, then chains, then each chain's rules in order."""

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
    texts.sort(key=lambda one: one[:2])  # stable: the rules of one chain stay in order
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
