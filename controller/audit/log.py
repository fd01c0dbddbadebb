"""Writer of the audit log: numbers and chains pages, which are committed together with what they tell of."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import structlog

from controller.audit.differences import Recorded, View, events
from mesh.model import keyspace
from mesh.model.audit.chain import STREAMS, chains
from mesh.model.audit.page import AuditPage, Event, Stream, packed
from mesh.model.snapshot import Op, Put, Snapshot

log = structlog.get_logger(__name__)

MAX_PAGES = 8
"""Pages of a stream in one transaction: it has room for them beside 100 operations of the plan (etcd allows 128)."""
MAX_PROBLEMS = 60
"""Problems a minute that are recorded one by one: whoever makes more hides nothing else by it."""
RESIGNED = 60
"""Pages of another key that are signed again in one transaction."""
MAX_PENDING = 500
"""Events that wait for a store that is in use; the oldest go first."""
_MINUTE_S = 60.0


@dataclass(frozen=True, slots=True)
class _Head:
    """The newest page of a stream."""

    number: int = 0
    digest: bytes = b""


@dataclass(frozen=True, slots=True)
class Written:
    """Pages of one transaction, for `AuditLog.commit`."""

    puts: tuple[Put, ...] = ()
    heads: tuple[tuple[Stream, _Head], ...] = ()
    recorded: tuple[Recorded, ...] = ()


@dataclass(slots=True)
class _Problems:
    """Problems that were recorded, and how many more there were lately."""

    open: frozenset[str] = frozenset()
    begun: float = 0.0
    count: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


class AuditLog:
    """Log of one controller, which writes only while it leads. Not safe for several threads.

    The pages are read once a term, when the first event is to be written: nothing follows them.
    """

    def __init__(self, load: Callable[[Sequence[str]], Snapshot], controller: str, signer: bytes) -> None:
        """Prepare.

        Args:
            load: reads prefixes of the store (`Store.load`).
            controller: name of this controller, for people.
            signer: id of the key that this controller signs with: pages of another one are signed again.
        """
        self._load = load
        self._signer = signer
        self._old: dict[str, Put] = {}  # pages that another key has signed
        self._controller = controller
        self._view: View | None = None
        self._heads: dict[Stream, _Head] | None = None
        self._outlived: dict[Stream, _Head] = {}
        self._pending: list[Recorded] = []  # at most MAX_PENDING
        self._problems = _Problems()

    def start_term(self) -> None:
        """Begin a term: another controller may have written pages since."""
        self._forget_heads()
        self._problems = _Problems()
        self._pending = [("decisions", Event.of("lead taken", controller=self._controller))]

    def look(self, view: View) -> None:
        """Take over what the next transactions are to be held against."""
        self._view = view

    def note_problems(self, problems: Iterable[str]) -> None:
        """Record the problems that are new, and those that are gone: requests refused, reports disbelieved."""
        now, known = frozenset(problems), self._problems.open
        self._problems.open = now
        if time.monotonic() - self._problems.begun > _MINUTE_S:
            self._end_minute()
        for kind, texts in (("problem found", now - known), ("problem solved", known - now)):
            for text in sorted(texts):
                self._problems.count += 1
                if self._problems.count > MAX_PROBLEMS:
                    self._problems.left_out[kind] += 1
                else:
                    self._pending.append(("routine", Event.of(kind, reason=text)))
        del self._pending[:-MAX_PENDING]

    def _end_minute(self) -> None:
        left_out, problems = self._problems.left_out, self._problems
        problems.begun, problems.count, problems.left_out = time.monotonic(), 0, Counter()
        for kind, count in sorted(left_out.items()):
            self._pending.append(("routine", Event.of("problems not recorded", reason=kind, count=count)))

    @property
    def waits(self) -> bool:
        """Whether there is something to record that no transaction has told yet, or a page to sign again."""
        return bool(self._pending or self._old)

    def resigned(self) -> tuple[Put, ...]:
        """Return pages that another key has signed, as many as fit a transaction beside new ones."""
        return tuple(islice(self._old.values(), RESIGNED))

    def pages(self, ops: Sequence[Op]) -> Written:
        """Make the pages to be committed with operations. Raises Retryable: the log so far cannot be read."""
        made = list(events(ops, self._view)) if self._view is not None else []
        if not made and not self._pending:
            return Written()
        heads = dict(self._read())  # which may find something more to tell
        recorded = (*self._pending, *made)
        now, puts = time.time(), list[Put]()
        for stream in STREAMS:
            told = [event for of, event in recorded if of == stream]
            for raw in _batches(told):
                head = heads[stream]
                page = AuditPage(stream, head.number + 1, head.digest, now, self._controller, raw)
                heads[stream] = _Head(page.number, page.digest())
                puts.append(Put(page, None))
        return Written(tuple(puts), tuple(heads.items()), recorded)

    def commit(self, written: Written, revision: int | None) -> None:
        """Take note of a transaction's end: None for one that was not done."""
        if revision is None or not written.puts:
            return
        for put in written.puts:
            self._old.pop(put.key, None)
        self._heads = dict(written.heads)
        self._pending = []
        for stream, event in written.recorded:
            number = self._heads[stream].number
            log.info(
                "audit event recorded", kind=event.kind, number=number, stream=stream, details=dict(event.details)
            )

    def signed_again(self, puts: Iterable[Put], revision: int | None) -> None:
        """Take note of a transaction with `resigned`: where it was not done, the pages are read again."""
        if revision is None:
            self._old = {}  # `_read` finds them again
            self.lose()
        for put in puts:
            self._old.pop(put.key, None)

    def lose(self) -> None:
        """Take note that a transaction's outcome is unknown: the pages are read again."""
        self._forget_heads()

    def _forget_heads(self) -> None:
        self._outlived, self._heads = self._heads or self._outlived, None

    def _read(self) -> dict[Stream, _Head]:
        if self._heads is not None:
            return self._heads
        heads: dict[Stream, _Head] = {}
        stored = self._load((keyspace.AUDIT,))
        old = ((key, page) for key, page in stored.keys_of(AuditPage) if page.signer != self._signer)
        self._old = {key: Put(page.record, page.revision) for key, page in old}
        for chain in chains(stored):
            problems = list(chain.problems)
            head = _Head(chain.last.number, chain.last.digest()) if chain.last is not None else _Head()
            seen = self._outlived.get(chain.stream, _Head())
            if seen.number > head.number:
                problems.append(
                    f"audit log, {chain.stream}: it ended at {seen.number}, and ends at {head.number} now"
                )
                head = seen
            elif not head.number:
                self._pending.append((chain.stream, Event.of("audit log begun", stream=chain.stream)))
            for problem in problems:
                log.warning("audit log damaged", reason=problem)
                self._pending.append(("decisions", Event.of("audit log damaged", reason=problem)))
            heads[chain.stream] = head
        self._heads = heads
        return heads


def _batches(told: Sequence[Event]) -> list[bytes]:
    """Pack a transaction's events into pages; those that find no room are counted, and only logged."""
    batches = list(packed(told)) if told else []
    if len(batches) > MAX_PAGES:
        del batches[MAX_PAGES - 1 :]
        rest = len(told) - sum(len(batch) for batch, _ in batches)
        batches += packed([Event.of("events not recorded", count=rest)])
    return [raw for _, raw in batches]
