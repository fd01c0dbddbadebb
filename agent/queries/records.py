"""The query `records`: what is in the store, without anything that is sealed or secret."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from agent.queries.server import Document
from mesh.crypto.secret import Secret
from mesh.model import keyspace
from mesh.model.snapshot import Snapshot

MOST = 20_000
"""Records that one answer describes."""


class Records:
    """Answers of one agent.

    Args:
        load: reads the store.
    """

    def __init__(self, load: Callable[[tuple[str, ...]], Snapshot]) -> None:
        self._load = load

    def records(self, _query: Document) -> Iterator[Document]:
        """Describe each record, and at last how many were left out."""
        snapshot = self._load((*keyspace.FOLLOWED, keyspace.VIEWS))
        listed = sorted(snapshot.records.items())
        for key, value in listed[:MOST]:
            stamps = {"revision": value.revision, "generation": value.generation}
            yield {"key": key, **stamps, "record": public(value.record)}
        for key, problem in sorted(snapshot.invalid.items())[:MOST]:
            yield {"key": key, "problem": problem}
        yield {"records": len(listed), "left_out": max(0, len(listed) - MOST)}


def public(value: object) -> Any:  # noqa: ANN401 - whatever JSON has
    """Return a record's public parts, as JSON has them: of bytes, which may be a sealed box, their number alone."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes | bytearray | memoryview | Secret):
        return f"({len(value)} bytes)" if not isinstance(value, Secret) else "(secret)"
    if is_dataclass(value):
        return {each.name: public(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): public(inner) for name, inner in value.items()}
    if isinstance(value, tuple | list | set | frozenset):
        return [public(inner) for inner in value]
    return str(value)
