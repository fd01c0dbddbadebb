"""The store: records read, written, leased and followed in etcd. The only I/O of mesh.

It promises that a commit is all or nothing, and that a snapshot is a picture of one revision.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from mesh import codec, keyspace
from mesh.errors import Retryable
from mesh.etcd import LeaseLost, Line, Link
from mesh.etcd_feed import EtcdFeed, read
from mesh.follow import Batch, Change, Follower, Picture
from mesh.ranges import Ranges
from mesh.seal import Seal, Unsealed
from mesh.snapshot import Delete, Op, Put, Snapshot, Write
from mesh.tls import Tls

__all__ = ["MAX_OPS", "Follower", "LeaseLost", "Store"]

MAX_OPS = 128  # etcd's --max-txn-ops

T = TypeVar("T")


class Store:
    """The records under one root of one etcd. Safe for several threads.

    Nothing is connected before the first call. Every call goes to the endpoint that answered last; after it
    failed, the next call finds one that answers. Besides what they name, all methods raise Retryable when
    no endpoint answers in time, and Terminal when etcd refuses the request or the store is closed.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        seal: Seal,
        *,
        root: str = keyspace.ROOT,
        timeout: float = 5.0,
        tls: Tls | None = None,
    ) -> None:
        """Only remember where etcd is.

        Args:
            endpoints: the members of one etcd cluster, `https://host:port` with `tls`, else `http://host:port` or
                `host:port`.
            seal: signs what is written and checks what is read.
            root: what all keys begin with.
            timeout: seconds for one request.
            tls: what to show and whom to trust; None to speak in clear.

        Raises:
            ValueError: no endpoint, or one that is not of that form; a root that does not end with a slash.
        """
        if not root.endswith("/"):
            raise ValueError(f"the root of all keys must end with a slash: {root!r}")
        if not endpoints:
            raise ValueError("name at least one etcd endpoint, such as http://10.0.0.1:2379")
        self._seal = seal
        self._targets = tuple(_target(endpoint, "http" if tls is None else "https") for endpoint in endpoints)
        self._tls = tls
        self._root = root.encode()
        self._timeout = timeout
        self._line = Line(self._targets, timeout, tls, self._key(keyspace.CLUSTER))
        self._followers: list[Follower] = []
        self._lock = threading.Lock()

    def load(self, prefixes: Sequence[str]) -> Snapshot:
        """Read some prefixes at one revision; the snapshot is complete.

        Args:
            prefixes: `nodes/` for all below it, `cluster` (no slash) for this one key, an empty one for all; at
                least one.
        """
        ranges = self._ranges(prefixes)
        picture = Picture(self._seal)
        picture.replace(self._twice(lambda link: read(link, ranges)))
        return picture.snapshot(complete=True)

    def commit(self, ops: Sequence[Op], generation: int = 1) -> int | None:
        """Do all of it if all conditions hold, and else nothing, in one transaction.

        Args:
            ops: what to do.
            generation: signed with each record that is put; those of a Write are signed already.

        Returns:
            The store's revision with the changes in it (and so the revision of every record put here), or
            None when a condition did not hold.

        Raises:
            Retryable: the outcome is unknown, it may have been done. A commit whose records carry a condition
                may simply be tried again: the second time says None.
            LeaseLost: a lease to bind to is gone; nothing was done.
            ValueError: more than MAX_OPS operations.
        """
        if len(ops) > MAX_OPS:
            raise ValueError(f"{len(ops)} operations in one transaction: etcd takes {MAX_OPS}")
        conditions = [(self._key(op.key), op.revision) for op in ops if op.revision is not None]
        writes = [self.seal(op, generation) if isinstance(op, Put) else op for op in ops]
        puts = [(self._key(op.key), op.value, op.lease or 0) for op in writes if isinstance(op, Write)]
        deletes = [self._key(op.key) for op in ops if isinstance(op, Delete)]
        with self._line.use() as link:
            return link.commit(conditions, puts, deletes)

    def seal(self, put: Put, generation: int) -> Write:
        """Sign what is to be put, as `commit` does. Raises Terminal where this side does not write that kind."""
        value = self._seal.close(put.key, generation, codec.encode(put.record))
        return Write(put.key, generation, value, put.revision, put.lease)

    def opened(self, values: Iterable[tuple[str, bytes]]) -> Snapshot:
        """The records in values that were found elsewhere, with those values: as if a store held them."""
        picture = Picture(self._seal, keep=True)
        picture.replace(Batch(0, whole=True, changes=[Change(key.encode(), value, 0) for key, value in values]))
        return picture.snapshot(complete=True)

    def unseal(self, key: str, value: bytes) -> Unsealed:
        """Open a value of a key that was found elsewhere, such as in a report. Raises InvalidRecord."""
        return self._seal.open(key, value)

    def grant(self, ttl: int) -> int:
        """Make a lease of `ttl` seconds and return its id. When no answer comes, what was made ends by itself."""
        with self._line.use() as link:
            return link.grant(ttl)

    def keep(self, lease: int) -> int:
        """Renew a lease and return the seconds that it has from now.

        Raises:
            LeaseLost: it is gone.
        """
        left = self._twice(lambda link: link.keep(lease))
        if left <= 0:
            raise LeaseLost(f"lease {lease:x} is gone")
        return left

    def revoke(self, lease: int) -> None:
        """End a lease, which deletes what is bound to it; one that is gone already is no error."""
        try:
            self._twice(lambda link: link.revoke(lease))
        except LeaseLost:
            return

    def follow(self, prefixes: Sequence[str], changed: Callable[[], None], *, keep: bool = False) -> Follower:
        """Keep a snapshot of some prefixes (as in `load`) up to date, over a connection of its own.

        One watch spans from the first prefix to the last, since only a single watch gives whole revisions: keys
        in between are received and passed over.

        Args:
            prefixes: as in `load`.
            changed: called from the follower's thread after every change of its snapshot, at most once a
                response of etcd. What it raises is logged.
            keep: whether records keep their values too, as they lie in the store.

        Returns:
            The follower, running; to be stopped, which `close` does too.
        """
        feed = EtcdFeed(self._targets, self._timeout, self._ranges(prefixes), self._tls)
        follower = Follower(feed, self._seal, changed, keep=keep)
        with self._lock:
            self._followers.append(follower)
        return follower

    @property
    def shows_first(self) -> bool:
        """Whether what is to be shown first (mesh.tls) is what requests other than a follower's are made with."""
        return self._line.shows_first

    def try_first(self) -> None:
        """Where it is not, have the next request see whether etcd accepts it by now."""
        self._line.try_first()

    def close(self) -> None:
        """Stop all followers and break off what runs; every later call raises Terminal."""
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

    def _twice(self, request: Callable[[Link], T]) -> T:
        """Make a request that does no harm when made twice, once more after a lost connection."""
        try:
            with self._line.use() as link:
                return request(link)
        except Retryable:
            with self._line.use() as link:
                return request(link)


def _target(endpoint: str, wanted: str) -> str:
    """Read `http://host:port` or `host:port` into what gRPC dials."""
    scheme, _, rest = endpoint.rpartition("://")
    host, _, port = rest.rstrip("/").rpartition(":")
    if scheme not in ("", wanted):
        raise ValueError(f"the etcd endpoint {endpoint!r} must begin with {wanted}:// or with nothing")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) <= 65535:  # noqa: PLR2004 - the highest port
        raise ValueError(f"the etcd endpoint {endpoint!r} must be host:port, such as http://10.0.0.1:2379")
    return f"{host}:{port}"
