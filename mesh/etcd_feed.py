"""Some ranges of etcd as they change: everything there is, then every change, over one connection.

A connection that breaks ends it with an error; who follows begins anew.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import Any

from mesh.errors import Retryable
from mesh.etcd import Line, Link
from mesh.etcd_pages import Page
from mesh.follow import Batch, Change
from mesh.garbage import held_off
from mesh.ranges import Ranges
from mesh.tls import Tls


class EtcdFeed:
    """Batches of changes in some ranges, over a line of its own (`mesh.follow.Feed`)."""

    def __init__(self, targets: Sequence[str], timeout: float, ranges: Ranges, tls: Tls | None = None) -> None:
        self._line = Line(targets, timeout, tls, ranges.bounds[0][0])
        self._ranges = ranges

    def close(self) -> None:
        """End for good, from any thread."""
        self._line.close()

    def batches(self) -> Generator[Batch]:
        """Everything there is, then a batch for each response with changes; never ends but by an error.

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
            del whole, changes  # not kept for as long as the watch lasts
            for response in responses:
                if response.events:
                    yield self._batch(response, listed)

    def _batch(self, response: Any, listed: int) -> Batch:  # noqa: ANN401 - etcd's WatchResponse
        start = len(self._ranges.root)
        changes = tuple(
            Change(e.kv.key[start:], None if e.type else e.kv.value, e.kv.mod_revision)
            for e in response.events
            if e.kv.mod_revision > listed and self._ranges.holds(e.kv.key)
        )
        # Not the header's revision: while a watch catches up, that is ahead of the events.
        return Batch(response.events[-1].kv.mod_revision, whole=False, changes=changes)


def read(link: Link, ranges: Ranges) -> Batch:
    """Everything in some ranges at one revision.

    Raises:
        Retryable: the store was compacted or restarted meanwhile.
    """
    start = len(ranges.root)
    with held_off():
        pages = list(_pages(link, ranges))
        if len({_identity(page) for page in pages}) > 1:
            raise Retryable(f"etcd at {link.target} was restarted while it was listed")
        changes = [Change(kv.key[start:], kv.value, kv.mod_revision) for page in pages for kv in page.kvs]
    return Batch(pages[0].header.revision, whole=True, changes=changes)


def _pages(link: Link, ranges: Ranges) -> Iterator[Page]:
    revision = 0
    for first, end in ranges.bounds:
        key = first
        while True:
            page = link.page(key, end, revision)
            revision = revision or page.header.revision
            yield page
            if not page.more:
                break
            key = page.kvs[-1].key + b"\0"


def _identity(page: Page) -> tuple[int, int, int]:
    """Tell one life of an etcd member from the next, as far as its answers can."""
    header = page.header
    return header.cluster_id, header.member_id, header.raft_term
