"""Audit log for `docker linkwire events`: the controller's pages, checked by this node, as lines of JSON."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from mesh.errors import InvalidRecordError
from mesh.model import keyspace
from mesh.model.audit.chain import chains
from mesh.model.audit.page import AuditPage
from mesh.model.snapshot import Snapshot
from mesh.store.client import Store

VERSION = 1
"""Of the lines' form."""
_BYTES = 4096


class AuditReader:
    """Lines of the log that were not given yet, from one snapshot to the next."""

    def __init__(self) -> None:
        """Start with none given."""
        self._last: dict[str, int] = {}  # stream -> the newest page that was given
        self._problems: set[str] = set()

    def news(self, snapshot: Snapshot) -> Iterator[dict[str, Any]]:
        """Yield the problems, which say what may be missing, and then the events, the oldest first.

        Args:
            snapshot: of everything under `audit/`.
        """
        pages: list[AuditPage] = []
        problems: set[str] = set()
        for chain in chains(snapshot):
            problems.update(chain.problems)
            last = self._last.get(chain.stream, 0)
            pages += (page for page in chain.pages if page.number > last)
            if chain.last is not None:
                self._last[chain.stream] = chain.last.number
        yield from (_problem(text) for text in sorted(problems - self._problems))
        self._problems = problems
        # Of one transaction's two pages the decisions come first.
        for page in sorted(pages, key=lambda page: (page.written, page.stream, page.number)):
            yield from _lines(page)


def show(store: Store, *, follow: bool) -> None:
    """Print the log, a line an event.

    Args:
        store: to read from.
        follow: go on until standard input ends: Docker sends no signal to what `docker exec` has started.

    Raises:
        LinkwireError: the store cannot be read.
    """
    reader = AuditReader()
    if not follow:
        _print(reader.news(store.load((keyspace.AUDIT,))))
        return
    ended, changed = threading.Event(), threading.Event()

    def wait_for_end() -> None:
        while os.read(sys.stdin.fileno(), _BYTES):
            pass
        ended.set()
        changed.set()

    threading.Thread(target=wait_for_end, name="reader", daemon=True).start()
    follower = store.follow((keyspace.AUDIT,), changed.set)
    try:
        while changed.wait() and not ended.is_set():
            changed.clear()
            if (snapshot := follower.snapshot).complete:
                _print(reader.news(snapshot))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is for nobody
    finally:
        follower.stop()


def _lines(page: AuditPage) -> Iterator[dict[str, Any]]:
    about = {"time": page.written, "stream": page.stream, "page": page.number, "controller": page.controller}
    try:
        told = page.events()
    except InvalidRecordError as error:
        yield _problem(str(error))
        return
    for event in told:
        yield {"v": VERSION, **about, "kind": event.kind, "details": dict(event.details)}


def _problem(text: str) -> dict[str, Any]:
    return {"v": VERSION, "problem": text}


def _print(lines: Iterable[dict[str, Any]]) -> None:
    for line in lines:
        sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
