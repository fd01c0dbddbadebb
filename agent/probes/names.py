"""Names as a task's hosts file resolves them, whoever wrote the lines."""

from __future__ import annotations

from collections.abc import Iterable

from agent.linux import hosts_file

_MOST = 8
"""Addresses of one name that are told."""


def names(path: str, wanted: Iterable[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return each name with its addresses, in the file's order. Raises Retryable, Terminal."""
    found: dict[str, list[str]] = {name: [] for name in wanted}
    by_lower = {name.lower(): name for name in found}
    for line in hosts_file.content(path).decode("utf-8", "replace").splitlines():
        address, *others = line.partition("#")[0].split() or [""]
        for other in others:
            name = by_lower.get(other.lower())
            if name is not None and len(found[name]) < _MOST and address not in found[name]:
                found[name].append(address[:64])
    return tuple((name, tuple(addresses)) for name, addresses in found.items())
