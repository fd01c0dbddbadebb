"""List-and-watch stream of some ranges of etcd: all that is there, then every change, over one connection.

A broken connection ends the stream with an error; its caller opens another one.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from mesh.errors import Retryable
from mesh.identity.tls import Tls
from mesh.process.gc_tuning import gc_paused
from mesh.store.etcd_channel import PAGE, Channel, ChannelPool
from mesh.store.follower import Batch, RecordChange
from mesh.store.range_response import Page

FIRST_PAGE = 64
"""Keys in the first read of a range; four times as many in each next one, up to PAGE, while they are small."""
LARGE_PAGE = 4 * 1024**2
"""Bytes of values from which a page is large."""


@dataclass(frozen=True, slots=True)
class Ranges:
    """Some keys below a root, as pairs of the first key and the one after the last."""

    root: bytes
    bounds: tuple[tuple[bytes, bytes], ...]

    @classmethod
    def of(cls, root: bytes, names: Iterable[bytes]) -> Ranges:
        """Return the ranges of names: one that is empty or ends with a slash is a prefix, another a single key."""
        keys = [root + name for name in names]
        # "0" is what comes after "/".
        return cls(root, tuple((k, k[:-1] + b"0") if k.endswith(b"/") else (k, k + b"\0") for k in keys))

    def span(self) -> tuple[bytes, bytes]:
        """Return the smallest range that contains all of them."""
        return min(first for first, _ in self.bounds), max(end for _, end in self.bounds)

    def __contains__(self, key: bytes) -> bool:
        """Return whether a key, with the root, is in one of them."""
        return any(first <= key < end for first, end in self.bounds)


class WatchStream:
    """Batches of changes in some ranges, over a connection of its own (`mesh.store.follower.Feed`)."""

    def __init__(self, targets: Sequence[str], timeout: float, ranges: Ranges, tls: Tls | None = None) -> None:
        self._line = ChannelPool(targets, timeout, tls, ranges.bounds[0][0])
        self._ranges = ranges

    def close(self) -> None:
        """End for good, from any thread."""
        self._line.close()

    def batches(self) -> Generator[Batch]:
        """Yield one whole batch, then one for each response with changes; end only by an error.

        The watch begins before the list and answers once more after it, so one life of one etcd member spans
        both: neither a change in between nor a wiped etcd with the same identity can slip through.
        """
        with self._line.use() as link, closing(link.watch(*self._ranges.span())) as responses:
            if not next(responses).created:
                raise Retryable(f"etcd at {link.target} did not confirm the watch")
            whole = read(link, self._ranges)
            listed = whole.revision
            meanwhile = []
            for response in responses:
                if not response.events:
                    break
                meanwhile.append(self._batch(response, listed))
            changes = [*whole.changes, *(change for batch in meanwhile for change in batch.changes)]
            whole = Batch(max([listed, *(batch.revision for batch in meanwhile)]), whole=True, changes=changes)
            yield whole
            del whole, changes  # or they would live for as long as the watch lasts
            for response in responses:
                if response.events:
                    yield self._batch(response, listed)

    def _batch(self, response: Any, listed: int) -> Batch:  # noqa: ANN401 - etcd's WatchResponse
        start = len(self._ranges.root)
        changes = tuple(
            RecordChange(e.kv.key[start:], None if e.type else e.kv.value, e.kv.mod_revision)
            for e in response.events
            if e.kv.mod_revision > listed and e.kv.key in self._ranges
        )
        # Not the header's revision: while a watch catches up, that is ahead of the events.
        return Batch(response.events[-1].kv.mod_revision, whole=False, changes=changes)


def read(link: Channel, ranges: Ranges) -> Batch:
    """Read everything in some ranges at one revision.

    Raises:
        Retryable: the store was compacted or restarted meanwhile.
    """
    start = len(ranges.root)
    with gc_paused():
        pages = list(_pages(link, ranges))
        if len({_identity(page) for page in pages}) > 1:
            raise Retryable(f"etcd at {link.target} was restarted while it was listed")
        changes = [RecordChange(kv.key[start:], kv.value, kv.mod_revision) for page in pages for kv in page.kvs]
    return Batch(pages[0].header.revision, whole=True, changes=changes)


def _pages(link: Channel, ranges: Ranges) -> Iterator[Page]:
    """Read small pages first: a node may have written keys with the largest values that etcd takes."""
    revision = 0
    for first, end in ranges.bounds:
        key, limit = first, FIRST_PAGE
        while True:
            page = link.page(key, end, revision, limit)
            revision = revision or page.header.revision
            yield page
            if not page.more:
                break
            key = page.kvs[-1].key + b"\0"
            large = sum(len(kv.value) for kv in page.kvs) > LARGE_PAGE
            limit = max(FIRST_PAGE, limit // 4) if large else min(PAGE, limit * 4)


def _identity(page: Page) -> tuple[int, int, int]:
    """Return values that differ between two lives of an etcd member, as far as its answers show them."""
    header = page.header
    return header.cluster_id, header.member_id, header.raft_term
