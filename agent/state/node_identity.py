"""Identity of this node: the statement about its keys, and the proof of it by its Swarm certificate.

Beside the sealing key lie, on the node's own volume, the key that its reports are signed with, and a counter. The
counter grows, in the file first, with every start and every new statement, so that a statement can be told from an
earlier one and a report from one that was made before a restart, whatever the clock does. Where the volume is lost
the keys are new and the counter begins again: then the node goes on above what the controller has accepted
(`catch_up`).

Swarm's key is read, used and let go, and no log or error quotes it or its headers, of which a manager's has one that
is a secret in itself.
"""

from __future__ import annotations

import fcntl
import threading
from dataclasses import replace
from pathlib import Path

import structlog

from agent.state import atomic_file, key_file
from mesh.crypto.hpke import NodePublicKey
from mesh.crypto.signed_envelope import SigningKey
from mesh.errors import Retryable, Terminal
from mesh.identity.attestation import KeyLockedError, NodeProof, NodeStatement, make_proof
from mesh.model.records import Member, Unproven

log = structlog.get_logger(__name__)

REPORT_KEY_FILE = "report.key"
COUNTER_FILE = "counter"
MAX_COUNTER = 2**31 - 1
"""A generation is the counter and 32 bits, and has 63 (mesh.crypto.signed_envelope.MAX_GENERATION)."""

_HEADER = b"linkwire report key 1\n"
SEQUENCE_BITS = 32

Stamp = tuple[tuple[int, int, int] | None, ...]
"""Modification time, inode and size of Swarm's two files."""


class _Generations:
    """Numbers that only grow: the counter in the node's folder, and a sequence below it. Safe for several threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._sequence = 0
        self.counter = _counted(folder, 0)

    def begin(self, counter: int) -> None:
        """Go on with a higher counter, which is in the file."""
        with self._lock:
            self.counter, self._sequence = counter, 0

    def next(self) -> int:
        """Return the next number."""
        with self._lock:
            self._sequence += 1
            return (self.counter << SEQUENCE_BITS) + self._sequence

    def never_made(self, generation: int) -> bool:
        """Tell whether a number is ahead of this one."""
        with self._lock:
            counter, sequence = self.counter, self._sequence
        counted = generation >> SEQUENCE_BITS
        if counted <= counter:
            return generation > (counter << SEQUENCE_BITS) + sequence
        return counted > _stored(self._folder)  # another agent of this node may be starting


class Identity:
    """This node's statement about its keys and the proof of it, renewed as Swarm renews its files."""

    def __init__(self, folder: Path, certificates: Path, cluster: str, node: str, sealing_key: NodePublicKey) -> None:
        """Read the node's own files, or make them, and prove what they say as far as that goes now.

        Args:
            folder: the node's own.
            certificates: what Swarm keeps in /var/lib/docker/swarm/certificates.
            cluster: Swarm's cluster id.
            node: Swarm's id of this node.
            sealing_key: what is to be proven besides the report key.

        Raises:
            Terminal: the node's own files cannot be used.
        """
        self._folder = folder
        self._certificates = certificates
        self._cluster = cluster
        self._node = node
        self._sealing_key = sealing_key
        self.key = _report_key(folder)
        """Signs this node's records."""
        self._generations = _Generations(folder)
        self.proof: NodeProof | None = None
        self.unproven: Unproven | None = None
        self.since = self.generation()
        """Records signed with a lower generation are signed again: somebody may have put them back."""
        self._looked: Stamp | None = None
        self.look()

    @property
    def counter(self) -> int:
        """Number of the node's statement, higher than those of all its earlier ones."""
        return self._generations.counter

    @property
    def statement(self) -> NodeStatement:
        """The node's present statement."""
        return NodeStatement(self._cluster, self._node, self._sealing_key, self.key.verify_key, self.counter)

    def look(self) -> bool:
        """Prove the keys again if Swarm's files changed since the last proof; return whether the statement changed.

        Costs two stat() calls where they are not. A proof that there is stays where no new one can be made: it holds
        until its certificate ends.
        """
        stamp = self._stamp()
        if stamp == self._looked:
            return False
        before = self.counter, self.unproven
        try:
            self._prove()
        except Retryable as error:
            # Swarm writes one after the other: what is not of one pair now will be at a later look.
            log.info("proof of node keys postponed", error=str(error))
            return False
        except KeyLockedError as error:
            self._cannot("locked", error)
        except Terminal as error:
            self._cannot("unreadable", error)
        self._looked = stamp
        return (self.counter, self.unproven) != before

    def catch_up(self, accepted: Member) -> bool:
        """Begin above the statement that the controller has accepted, where that is later; return whether it was.

        So it is when the node's volume was lost, or put back from a copy: to the controller the node's statement is
        an earlier one then.
        """
        same = (accepted.sealing_key, accepted.report_key) == (self._sealing_key, self.key.verify_key)
        if accepted.counter < self.counter or (same and accepted.counter == self.counter):
            return False
        log.warning("node counter behind: the volume was lost or restored", counter=accepted.counter)
        self._generations.begin(_counted(self._folder, accepted.counter))
        self.since = self.generation()
        self.proof, self._looked = None, None
        self.look()
        return True

    def generation(self) -> int:
        """Return a number that is higher than every one before, for a record to be signed."""
        return self._generations.next()

    def never_made(self, generation: int) -> bool:
        """Tell whether this node has not come to that number yet: whoever signed with it has stolen the key."""
        return self._generations.never_made(generation)

    def disown(self) -> None:
        """Give up the report key: the agent makes a new one at its next start. Raises Terminal."""
        path = self._folder / REPORT_KEY_FILE
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise Terminal(f"the node's report key {path} cannot be removed: {error.strerror}") from None

    def _prove(self) -> None:
        counter = _counted(self._folder, self.counter)
        certificates, key = self._read("swarm-node.crt"), self._read("swarm-node.key")
        proof = make_proof(certificates, key, replace(self.statement, counter=counter))
        self._generations.begin(counter)
        self.proof, self.unproven = proof, None
        log.info("node keys proven", counter=counter)

    def _cannot(self, why: Unproven, error: Terminal) -> None:
        if self.proof is None:
            self.unproven = why
        shown = self.statement.fingerprint
        approve = f"docker linkwire node approve {self._node} --fingerprint {shown}"
        log.warning("node keys not proven", error=str(error), fingerprint=shown, command=approve)

    def _read(self, name: str) -> bytes:
        path = self._certificates / name
        try:
            return path.read_bytes()
        except OSError as error:
            raise Terminal(
                f"{path}: {error.strerror}; the agent needs the node's /var/lib/docker/swarm/certificates, bound "
                "read-only (LINKWIRE_CERTIFICATES says where), to prove whose keys it has"
            ) from error

    def _stamp(self) -> Stamp:
        return tuple(_stamp(self._certificates / name) for name in ("swarm-node.crt", "swarm-node.key"))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def _report_key(folder: Path) -> SigningKey:
    path = folder / REPORT_KEY_FILE
    raw = key_file.load_or_make(path, lambda: _HEADER + SigningKey.generate().raw, "the node's report key")
    if not raw.startswith(_HEADER) or len(raw) != len(_HEADER) + SigningKey.SIZE:
        raise Terminal(f"{path} is not a report key of this version; remove it: the node gets a new one")
    return SigningKey(raw[len(_HEADER) :])


def _stored(folder: Path) -> int:
    """Return the number in the file; beyond all numbers where it cannot be read."""
    try:
        return int((folder / COUNTER_FILE).read_text("ascii"))
    except (OSError, ValueError):
        return MAX_COUNTER


def _counted(folder: Path, above: int) -> int:
    """Return the next number, higher than the file's and than `above`, and in the file before it is used.

    Raises:
        Terminal: the file cannot be used, or the numbers have ended.
    """
    path = folder / COUNTER_FILE
    try:
        with (folder / f".{COUNTER_FILE}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two agents may start at once
            text = path.read_text("ascii") if path.exists() else "0"
            number = max(int(text), above) + 1
            if number > MAX_COUNTER:
                raise Terminal(
                    f"{path}: the node's counter is exhausted: remove its folder, and the node begins as a new one"
                )
            atomic_file.write(path, f"{number}\n".encode())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a number"
        raise Terminal(f"the node's counter {path}: {reason}") from None
    return number
