"""The signatures of many values checked by several threads at once: libsodium works while Python's lock is free.

It only says which ones hold. Why another does not, `mesh.envelope.unwrap` says when it is asked for that one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from mesh.envelope import Keyring, SigningKey, unwrap
from mesh.errors import InvalidRecord

LEAST = 500
"""Values, below which threads are not worth their start."""
MOST = 4
"""Threads: beyond, they wait for Python's lock."""

Signed = tuple[str, bytes]
"""A key and the value that lies under it."""


def holding(keyring: Keyring, values: Sequence[Signed], own: SigningKey | None = None) -> frozenset[str]:
    """The keys of values that are signed by one of a keyring; perhaps none, where threads would gain nothing.

    Args:
        keyring: who may sign.
        values: any.
        own: as in `mesh.envelope.unwrap`.
    """
    threads = min(MOST, len(os.sched_getaffinity(0)))
    if threads < 2 or len(values) < LEAST:  # noqa: PLR2004 - one is no other than ours
        return frozenset()
    try:
        with ThreadPoolExecutor(threads, "signatures") as pool:
            parts = [pool.submit(_holding, keyring, values[n::threads], own) for n in range(threads)]
            return frozenset().union(*(part.result() for part in parts))
    except RuntimeError:  # no more threads: this process is about to end, or may have no more
        return frozenset()


def _holding(keyring: Keyring, values: Iterable[Signed], own: SigningKey | None) -> frozenset[str]:
    found = set()
    for key, value in values:
        try:
            unwrap(keyring, key, value, own)
        except InvalidRecord:
            continue
        found.add(key)
    return frozenset(found)
