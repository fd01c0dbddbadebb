"""Verified state: the part of the store that this node acts on, never older than one it has seen.

The highest manifest that was acted on is kept in a file on the node's own volume, as it was signed: so that a restart
forgets nothing, and so that the node can prove to a controller which generation there was. The state itself is kept
in another, not quite as new: for an agent that starts while there is no store, or an emptied one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import structlog

from agent.state import atomic_file, state_encoding
from mesh.crypto.signed_envelope import peek
from mesh.errors import InvalidRecordError, Terminal
from mesh.integrity.verification import verify_snapshot
from mesh.model import keyspace
from mesh.model.snapshot import Snapshot

log = structlog.get_logger(__name__)

FILE = "manifest"
STATE_FILE = "state"
SAVE_S = 10.0
"""At most so often, in seconds, is the state written down: what changed in it, and all of it when that is as much."""
ALONE_S = 5.0
"""Seconds after which an agent that has started and reaches no store goes on with what its node knew."""


def followed(node: str) -> tuple[str, ...]:
    """List the prefixes of the store that an agent reads."""
    return (
        keyspace.CLUSTER,
        keyspace.MANIFEST,
        keyspace.RECALL,
        keyspace.recalled(node, ""),
        keyspace.SERVICES,
        keyspace.ENDPOINTS,
        keyspace.EPOCHS,
        keyspace.ENCRYPTION,
        keyspace.ENCRYPTION_WANTED,
        keyspace.UNDERLAYS,
        keyspace.sealed_key(node, ""),
        keyspace.link_key(node, ""),
        keyspace.report(node, ""),
        keyspace.node(node),
        keyspace.member(node),
    )


class VerifiedState:
    """The last verified state, persisted. Not safe for several threads.

    Attributes:
        held: why the newest snapshot is not acted on, in words; empty while it is.
        manifest: the signed manifest of the highest generation that was acted on; empty while there was none.
        is_unsaved: whether the newest snapshot is not acted on only because the disk did not take its manifest:
            judged again later, it may be.
    """

    def __init__(self, folder: Path) -> None:
        """Read what was seen before a restart.

        Raises:
            Terminal: the file cannot be read. Without it nobody knows what is old, so nothing may be acted on.
        """
        self._path = folder / FILE
        self.manifest = remembered(folder)
        self._generation = generation(self.manifest)
        self.held = ""
        self.is_unsaved = False
        self._verified: Snapshot | None = None
        self._believed = Snapshot()
        self._opened: Callable[[Iterable[tuple[str, bytes]]], Snapshot] | None = None
        self._saved: Snapshot | None = None
        self._whole = self._size = 0
        self._saved_at = self._began = time.monotonic()

    def update(self, snapshot: Snapshot) -> Snapshot:
        """Judge a snapshot; return the one to act on, the same object while that is the same.

        What it gives is complete only if the snapshot is, and is verified.
        """
        if not snapshot.revision:  # nothing has been read yet
            if time.monotonic() - self._began > ALONE_S:
                self._go_on()
            return self._believed
        verdict = verify_snapshot(snapshot, self._generation, self.manifest, self._verified)
        problem = verdict.problem
        if verdict.verified:
            problem = self._remember(snapshot, verdict.generation)
        self.is_unsaved = verdict.verified and bool(problem)
        self._settle(problem)
        if not problem:
            self._verified = self._believed = snapshot
        elif self._believed.complete:
            self._believed = replace(self._believed, complete=False)
        else:
            self._go_on()
        return self._believed

    def recover(self, opened: Callable[[Iterable[tuple[str, bytes]]], Snapshot]) -> None:
        """Prepare to go on with the saved state where there is no other; `opened`, which is `Store.opened`, reads it.

        It takes as long as reading the store does: only where that brings nothing to act on is it read at all.
        """
        self._opened = opened

    def save(self, node: str) -> None:
        """Save the state that was verified last, as far as this node needs it, unless that was done just now."""
        now = time.monotonic()
        if self._verified is self._saved or self._verified is None or now - self._saved_at < SAVE_S:
            return
        before, self._saved, self._saved_at = self._saved, self._verified, now
        try:
            self._save(node, self._verified, before)
        except OSError as error:
            self._saved, self._size = None, 0  # nobody knows what is there: next time all of it is written
            log.warning("verified state not saved", file=STATE_FILE, error=error.strerror)

    def _save(self, node: str, state: Snapshot, before: Snapshot | None) -> None:
        """Append what changed since another was saved, or write all of it. Raises OSError."""
        path = self._path.with_name(STATE_FILE)
        changed = state.changed_since(before) if before is not None and self._size else None
        if changed is not None and self._size <= 2 * self._whole:
            values = ((key, record.raw if (record := state.records.get(key)) else None) for key in changed)
            added = state_encoding.addition((key, raw or b"") for key, raw in values if keyspace.read_by(key, node))
            if atomic_file.append(path, self._size, added):
                self._size += len(added)
                return
        all_of_it = ((key, record.raw) for key, record in state.records.items() if record.raw is not None)
        content = state_encoding.pack((key, raw) for key, raw in all_of_it if keyspace.read_by(key, node))
        atomic_file.write(path, content)
        self._whole = self._size = len(content)

    def _go_on(self) -> None:
        opened, self._opened = self._opened, None  # one look: what is kept changes only when something is believed
        if opened is None or self._believed.records:
            return
        path = self._path.with_name(STATE_FILE)
        try:
            state = opened(state_encoding.unpack(path.read_bytes()))
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            log.warning("verified state not read", file=str(path), error=str(error))
            return
        verdict = verify_snapshot(state)
        if verdict.verified:
            log.warning("verified state restored", count=len(state.records))
            self._believed = replace(state, complete=False)
        else:
            log.warning("verified state refused", file=str(path), error=verdict.problem)

    def _settle(self, problem: str) -> None:
        if problem == self.held:
            return
        if problem:
            log.warning("store content not acted on", error=problem)
        else:
            log.info("store content verified again")
        self.held = problem

    def _remember(self, snapshot: Snapshot, number: int) -> str:
        """Save the manifest before anything is done by it; return the error that prevents it, or an empty text."""
        if number == self._generation:
            return ""
        value = snapshot.records[keyspace.MANIFEST].raw or b""
        try:
            atomic_file.write_newest(self._path, value, generation)
        except (OSError, ValueError) as error:
            return f"generation {number} cannot be written down in {self._path}: {error}"
        self.manifest, self._generation = value, number
        return ""


def remembered(folder: Path) -> bytes:
    """Read the signed manifest of the highest generation that was acted on, empty for none. Raises Terminal."""
    path = folder / FILE
    try:
        value = atomic_file.read_newest(path, generation)
        peek(keyspace.MANIFEST, value)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise Terminal(f"the manifest that this node has acted on, {path}: {error.strerror}") from None
    except (InvalidRecordError, ValueError) as error:
        # Not its signature: the key that signed it may have been replaced since, and the file is the node's own.
        raise Terminal(
            f"the manifest that this node has acted on, {path}, is damaged ({error}); remove it to begin again"
        ) from None
    return value


def generation(manifest: bytes) -> int:
    """Return the generation of a signed manifest, unchecked; 0 for an empty one."""
    return peek(keyspace.MANIFEST, manifest).generation if manifest else 0
