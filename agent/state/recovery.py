"""Recovery answer: the signed values that this node brings back after the store was emptied. Pure.

Every node has verified what it acts on, and keeps the values as they were signed: so the controller can put them back
as they were, and nobody can slip anything in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mesh.model import keyspace
from mesh.model.records import Kept, Recall, Recalled
from mesh.model.snapshot import Snapshot

PART_BYTES = 8_000
"""Of values in one record: base64 makes a third more of them, and a hundred records are one request of 1.5 MiB."""


def recalled(asked: Recall | None, node: str, believed: Snapshot) -> Sequence[Recalled]:
    """Build this node's answer, in parts; none where nothing was asked.

    Args:
        asked: what the controller asks for.
        node: this node's id.
        believed: what it acts on, whose records have their values.
    """
    if asked is None:
        return ()
    counts = keyspace.read_by if asked.node == node else keyspace.private
    wanted = [value for value in _kept(believed) if counts(value.key, node)]
    parts = list(_parts(wanted))
    return tuple(Recalled(node, asked.node, n, len(parts), part) for n, part in enumerate(parts))


def _kept(believed: Snapshot) -> Iterator[Kept]:
    for key, value in sorted(believed.records.items()):
        if value.raw is not None:
            yield Kept(key, value.raw)


def _parts(values: Sequence[Kept]) -> Iterator[tuple[Kept, ...]]:
    """Split values into parts; at least one, so that it is seen that the node has answered."""
    part: list[Kept] = []
    size = 0
    for value in values:
        if part and size + len(value.value) > PART_BYTES:
            yield tuple(part)
            part, size = [], 0
        part.append(value)
        size += len(value.value)
    yield tuple(part)
