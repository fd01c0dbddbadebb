"""Client of the store: records read, written, leased and followed in etcd.

It promises that a commit is all or nothing, and that a snapshot is that of one revision.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TypeVar

from mesh.errors import Retryable
from mesh.identity.tls import Tls
from mesh.integrity.record_signing import OpenedValue, RecordSigner
from mesh.model import codec, keyspace
from mesh.model.labels.ports import MAX_PORT
from mesh.model.records import Record
from mesh.model.snapshot import Delete, Op, Put, Snapshot, Versioned, Write
from mesh.store.etcd_channel import Channel, ChannelPool, LeaseLostError
from mesh.store.etcd_member import EtcdMember
from mesh.store.follower import Batch, Follower, MaterializedView, RecordChange
from mesh.store.members import members
from mesh.store.range_response import Page
from mesh.store.watch_stream import Ranges, WatchStream, read

__all__ = ["MAX_OPS", "Follower", "LeaseLostError", "Store"]

MAX_OPS = 128  # etcd's --max-txn-ops
_NOTHING: Mapping[str, Versioned[Record]] = MappingProxyType({})

T = TypeVar("T")


class Store:
    """Records under one root of one etcd. Safe for several threads.

    The first call connects. Every call goes to the endpoint that answered last; after that has failed, the next
    call looks for one that answers. All methods also raise Retryable when no endpoint answers in time, and Terminal
    when etcd refuses the request or the store is closed.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        signer: RecordSigner,
        *,
        root: str = keyspace.ROOT,
        timeout: float = 5.0,
        tls: Tls | None = None,
    ) -> None:
        """Connect to nothing yet.

        Args:
            endpoints: the members of one etcd cluster, `https://host:port` with `tls`, else `http://host:port` or
                `host:port`.
            signer: signs written records and checks read ones.
            root: prefix of all keys.
            timeout: seconds for one request.
            tls: certificates of both sides; None for plain text.

        Raises:
            ValueError: there is no endpoint, one is malformed, or the root does not end with a slash.
        """
        if not root.endswith("/"):
            raise ValueError(f"the root of all keys must end with a slash: {root!r}")
        if not endpoints:
            raise ValueError("name at least one etcd endpoint, such as http://10.0.0.1:2379")
        self._signer = signer
        self._targets = tuple(_target(endpoint, "http" if tls is None else "https") for endpoint in endpoints)
        self._tls = tls
        self._root = root.encode()
        self._timeout = timeout
        self._line = ChannelPool(self._targets, timeout, tls, self._key(keyspace.CLUSTER))
        self._followers: list[Follower] = []
        self._lock = threading.Lock()

    def load(
        self,
        prefixes: Sequence[str],
        known: Mapping[str, Versioned[Record]] = _NOTHING,
        *,
        with_raw: bool = False,
    ) -> Snapshot:
        """Read some prefixes at one revision; the snapshot is complete.

        Args:
            prefixes: `nodes/` for all keys below it, `cluster` (no slash) for this one key, an empty one for all
                keys; at least one.
            known: records of an earlier snapshot. One that has the same bytes is not decoded again.
            with_raw: whether every record has its signed bytes (`Versioned.raw`).
        """
        ranges = self._ranges(prefixes)
        # By its bytes a record is known again, those of the controller's too, which are checked when they are read.
        picture = MaterializedView(self._signer, known=known, with_raw=with_raw or known is not _NOTHING)
        picture.replace(self._twice(lambda link: read(link, ranges)))
        return picture.snapshot(complete=True)

    def revisions(self, prefix: str) -> dict[str, int]:
        """Return the keys below a prefix, each with the revision of its last change; no value is read."""
        first = self._key(prefix)
        end, found = first[:-1] + bytes([first[-1] + 1]), dict[str, int]()
        more = True
        while more:
            page = self._twice(partial(_keys, first=first, end=end))
            for entry in page.kvs:
                found[entry.key.removeprefix(self._root).decode(errors="replace")] = entry.mod_revision
                first = entry.key + b"\0"
            more = page.more
        return found

    def commit(self, ops: Sequence[Op], generation: int = 1) -> int | None:
        """Do all operations in one transaction if all their conditions hold, else none.

        Args:
            ops: at most MAX_OPS.
            generation: signed with the record of each Put; a Write is signed already.

        Returns:
            The revision of the commit, and so of every record in it; None when a condition did not hold.

        Raises:
            Retryable: the outcome is unknown. A commit whose records have conditions may be tried again: if the
                first one was done, the second returns None.
            LeaseLostError: a lease to bind to is gone; nothing was done.
            ValueError: more than MAX_OPS operations.
        """
        if len(ops) > MAX_OPS:
            raise ValueError(f"{len(ops)} operations in one transaction: etcd takes {MAX_OPS}")
        conditions = [(self._key(op.key), op.revision) for op in ops if op.revision is not None]
        writes = [self.sign(op, generation) if isinstance(op, Put) else op for op in ops]
        puts = [(self._key(op.key), op.value, op.lease or 0) for op in writes if isinstance(op, Write)]
        deletes = [self._key(op.key) for op in ops if isinstance(op, Delete)]
        with self._line.use() as link:
            return link.commit(conditions, puts, deletes)

    def sign(self, put: Put, generation: int) -> Write:
        """Sign a Put as `commit` does. Raises Terminal where this side does not write that kind."""
        value = self._signer.sign(put.key, generation, codec.encode(put.record))
        return Write(put.key, generation, value, put.revision, put.lease)

    def opened(self, values: Iterable[tuple[str, bytes]]) -> Snapshot:
        """Return a snapshot of values from elsewhere as if they were in a store, with `raw` set."""
        picture = MaterializedView(self._signer, with_raw=True)
        picture.replace(Batch(0, whole=True, changes=[RecordChange(key.encode(), value, 0) for key, value in values]))
        return picture.snapshot(complete=True)

    def open(self, key: str, value: bytes) -> OpenedValue:
        """Open a value from elsewhere, such as a report. Raises InvalidRecordError."""
        return self._signer.open(key, value)

    def grant(self, ttl: int) -> int:
        """Grant a lease of `ttl` seconds and return its id. If the answer is lost, the lease ends by itself."""
        with self._line.use() as link:
            return link.grant(ttl)

    def renew_lease(self, lease: int) -> int:
        """Renew a lease and return the seconds that it lasts from now.

        Raises:
            LeaseLostError: it is gone.
        """
        left = self._twice(lambda link: link.renew_lease(lease))
        if left <= 0:
            raise LeaseLostError(f"lease {lease:x} is gone")
        return left

    def revoke(self, lease: int) -> None:
        """End a lease, which deletes the keys bound to it; one that is gone already is no error."""
        try:
            self._twice(lambda link: link.revoke(lease))
        except LeaseLostError:
            return

    def follow(self, prefixes: Sequence[str], changed: Callable[[], None], *, with_raw: bool = False) -> Follower:
        """Keep a snapshot of some prefixes (as in `load`) up to date, over a connection of its own.

        One watch spans from the first prefix to the last, since only a single watch gives whole revisions; keys in
        between are received and ignored.

        Args:
            prefixes: as in `load`.
            changed: called from the follower's thread after every change of its snapshot, at most once a response
                of etcd. An exception that it raises is logged.
            with_raw: whether every record has its signed bytes (`Versioned.raw`).

        Returns:
            The running follower; stop it, or `close` does.
        """
        feed = WatchStream(self._targets, self._timeout, self._ranges(prefixes), self._tls)
        follower = Follower(feed, self._signer, changed, with_raw=with_raw)
        with self._lock:
            self._followers.append(follower)
        return follower

    def members(self) -> tuple[EtcdMember, ...]:
        """Ask every endpoint by itself how it is; takes two seconds where one does not answer, and raises nothing."""
        return members(self._targets, self._tls, self._key(keyspace.CLUSTER))

    @property
    def uses_preferred(self) -> bool:
        """Whether requests, but for those of followers, are made with the preferred certificate (`Tls.preferred`)."""
        return self._line.uses_preferred

    def retry_preferred(self) -> None:
        """Make the next request try the preferred certificate again, unless it is in use."""
        self._line.retry_preferred()

    def close(self) -> None:
        """Stop all followers and abort running requests; every later call raises Terminal."""
        with self._lock:
            followers, self._followers = self._followers, []
        for follower in followers:
            follower.stop()
        self._line.close()

    def _key(self, key: str) -> bytes:
        return self._root + key.encode()

    def _ranges(self, prefixes: Sequence[str]) -> Ranges:
        if not prefixes:
            raise ValueError("name at least one prefix")
        return Ranges.of(self._root, (prefix.encode() for prefix in prefixes))

    def _twice(self, request: Callable[[Channel], T]) -> T:
        """Make an idempotent request, and once more after a lost connection."""
        try:
            with self._line.use() as link:
                return request(link)
        except Retryable:
            with self._line.use() as link:
                return request(link)


def _keys(link: Channel, first: bytes, end: bytes) -> Page:
    return link.page(first, end, 0, keys_only=True)


def _target(endpoint: str, wanted: str) -> str:
    """Parse `http://host:port` or `host:port` into a gRPC target."""
    scheme, _, rest = endpoint.rpartition("://")
    host, _, port = rest.rstrip("/").rpartition(":")
    if scheme not in ("", wanted):
        raise ValueError(f"the etcd endpoint {endpoint!r} must begin with {wanted}:// or have no scheme")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) <= MAX_PORT:
        raise ValueError(f"the etcd endpoint {endpoint!r} must be host:port, such as http://10.0.0.1:2379")
    return f"{host}:{port}"
