"""Packing of operations into transactions within etcd's limits of count and bytes. Pure.

A record that is too large for any transaction is left out, together with the operations that belong in its
transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from mesh.model import codec, keyspace
from mesh.model.snapshot import Op, Put, Write

MAX_OPS = 100
"""Operations of a transaction; etcd allows 128 (--max-txn-ops), and a controller adds its token and the manifest."""
MAX_BYTES = 1_000_000
"""Bytes of keys and values in one of several parts; etcd refuses requests over 1.5 MiB (--max-request-bytes)."""

T = TypeVar("T")
Part = tuple[T, Sequence[Op]]
"""A step, and its operations, which belong in one transaction."""


def pack(parts: Iterable[Part[T]], left_out: Callable[[Op, str], None]) -> Iterator[list[Part[T]]]:
    """Pack parts into few transactions, in order and without splitting any.

    Args:
        parts: at most MAX_OPS operations each; more than MAX_BYTES only in one record.
        left_out: called with a record that is too large, and the reason, before the next part is read. The
            record's part is in no transaction.
    """
    batch: list[Part[T]] = []
    count = size = 0
    keys: set[str] = set()
    for what, ops in parts:
        sizes = [_size(op) for op in ops]
        too_large = next(
            ((op, its) for op, its in zip(ops, sizes, strict=True) if its > keyspace.limit(op.key)), None
        )
        if too_large is not None:
            op, its = too_large
            left_out(op, f"{op.key}: a record of {its} bytes, the limit is {keyspace.limit(op.key)}")
            continue
        touched = {op.key for op in ops}
        more = sum(sizes) + sum(map(len, touched))
        full = count + len(ops) > MAX_OPS or size + more > MAX_BYTES
        if batch and (full or keys & touched):  # etcd refuses a key put twice in one transaction
            yield batch
            batch, count, size, keys = [], 0, 0, set()
        batch.append((what, ops))
        count, size = count + len(ops), size + more
        keys |= touched
    if batch:
        yield batch


def _size(op: Op) -> int:
    """Return the bytes of a record, or of a signed value."""
    if isinstance(op, Put):
        return len(codec.encode(op.record))
    return len(op.value) if isinstance(op, Write) else 0
