"""Restore of a backup into the store, under the lead: no controller writes meanwhile, and agents keep what they have.

The restore takes the lead from whichever controller has it, as its successor would, and gives it up at the end; the
next leader hears the nodes, brings back what they have seen since, and plans on. If this process dies, a controller
takes the lead within seconds. To restore once more is always safe: what is there already is not written.
"""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from controller.backup import audit_pages, comparison
from controller.backup.comparison import Comparison
from controller.election import BEAT_S
from mesh.errors import LinkwireError, Retryable, Terminal
from mesh.model import keyspace
from mesh.model.audit.page import Event
from mesh.model.backup.contents import PREFIXES, Backup
from mesh.model.records import Leader, Tenure
from mesh.model.snapshot import Delete, Holds, Op, Put, Snapshot
from mesh.store.client import Store
from mesh.store.packing import pack

NAME = "restore"
"""Of the one who leads meanwhile, for people."""
TRIES = 5
WAIT_S = 0.5


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of a restore, or of a dry run.

    Attributes:
        problems: why nothing was written; empty where the backup may be restored.
        comparison: with the store; None where there are problems.
        pages: of the audit log that came back.
        written: whether the store was written to.
        generation: of the signed set that the store held before.
    """

    problems: tuple[str, ...] = ()
    comparison: Comparison | None = None
    pages: int = 0
    written: bool = False
    generation: int = 0


def restore(store: Store, backup: Backup, cluster: str, *, force: bool, dry_run: bool) -> Outcome:
    """Restore a backup.

    Args:
        store: to write to, as a controller.
        backup: to restore.
        cluster: id of this Swarm.
        force: whether to go on where something that runs would change.
        dry_run: whether to write nothing.

    Raises:
        LinkwireError: etcd does not answer; some of it may be written.
    """
    if backup.cluster != cluster:
        text = f"it is of the Swarm {backup.cluster}, and this is {cluster}: its signatures and keys hold there alone"
        return Outcome((text,))
    opened = store.opened(backup.values.items())
    if problems := comparison.problems(opened):
        return Outcome(tuple(problems))
    for attempt in itertools.count(1):
        try:
            return _once(store, backup, opened, force=force, dry_run=dry_run)
        except Retryable:
            if attempt == TRIES:
                raise
            time.sleep(WAIT_S)
    raise AssertionError("the count has no end")


def _once(store: Store, backup: Backup, opened: Snapshot, *, force: bool, dry_run: bool) -> Outcome:
    outcome, ops = _compared(store, backup, opened)
    found = outcome.comparison
    if found is None or dry_run or (found.lost and not force):
        return outcome
    with held_lead(store) as token:
        outcome, ops = _compared(store, backup, opened)  # nobody writes the controllers' records from now on
        if outcome.comparison is None or (outcome.comparison.lost and not force):
            return outcome
        _write(store, ops, token, max(outcome.generation, backup.generation) + 1)
    return replace(outcome, written=True)


def _compared(store: Store, backup: Backup, opened: Snapshot) -> tuple[Outcome, Sequence[Op]]:
    stored = store.load(PREFIXES, with_raw=True)
    strangers = [key for key in stored.invalid if keyspace.covered(key)]
    if strangers and not stored.contents.entries:
        text = f"etcd holds records that none of this Swarm's verify keys signed ({stored.invalid[strangers[0]]})"
        return Outcome((text,)), ()
    found = comparison.compare(opened, stored)
    manifest = stored.records.get(keyspace.MANIFEST)
    generation = manifest.generation if manifest is not None else 0
    mode = "whole" if found.whole else "missing"
    note = Event.of("backup restored", generation=backup.generation, revision=backup.revision, mode=mode)
    pages = audit_pages.joined(opened, stored, note, time.time(), NAME)
    found = replace(found, kept=(*found.kept, *pages.problems))
    return Outcome((), found, pages.restored, generation=generation), (*pages.ops, *found.ops)


@contextmanager
def held_lead(store: Store) -> Iterator[Holds]:
    """Take the lead for the time of a block, and show signs of life; gives the condition of each transaction.

    Raises:
        LinkwireError: it was not won.
    """
    instance = secrets.token_hex(8)
    for _ in range(TRIES):
        seen = store.load((keyspace.LEADER, keyspace.TENURE))
        lead = Put(Leader(NAME, instance), seen.revision_of(keyspace.LEADER))
        revision = store.commit((lead, Put(Tenure(instance, 0), seen.revision_of(keyspace.TENURE))))
        if revision is not None:
            break
    else:
        raise Retryable("the lead was not won: controllers take it from each other")
    token, ended = Holds(keyspace.LEADER, revision), threading.Event()

    def beat() -> None:
        for count in itertools.count(1):
            if ended.wait(BEAT_S):
                return
            with suppress(LinkwireError):  # a lead that is lost by it is noticed by the next write
                store.commit((token, Put(Tenure(instance, count), None)))

    thread = threading.Thread(target=beat, name="lead", daemon=True)
    thread.start()
    try:
        yield token
    finally:
        ended.set()
        thread.join()
        with suppress(LinkwireError):  # it ends by silence
            store.commit((Delete(keyspace.LEADER, revision),))


def _write(store: Store, ops: Sequence[Op], token: Holds, generation: int) -> None:
    """Write in order, in transactions of many."""
    refused: list[str] = []
    parts = ((None, (op,)) for op in ops)
    for batch in pack(parts, lambda _op, reason: refused.append(reason)):
        if store.commit((token, *(op for _, part in batch for op in part)), generation) is None:
            raise Retryable("the store changed while it was restored")
    if refused:
        raise Terminal(refused[0])
