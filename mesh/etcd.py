"""A connection to etcd that finds an endpoint which answers, and speaks bytes only.

etcd3 0.12 is used for its messages and stubs: its client raises nothing when a watch ends, and knows one endpoint.
No other module imports etcd3 or grpc, and no error of theirs leaves this one.
"""

from __future__ import annotations

import os
import queue
import threading
import time
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

# etcd3's generated code is too old for protobuf's C parser: "Descriptors cannot be created directly".
os.environ["PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"] = "python"
# gRPC's core prints every refused connection, and a line at every fork; errors reach us as exceptions.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # a hundred of them, all about that generated code
    from etcd3 import etcdrpc

from mesh import etcd_pages
from mesh.errors import LinkwireError, Retryable, Terminal
from mesh.tls import Tls, may_be_refused

PAGE = 4000  # keys a read: for each page etcd looks up all keys of its range
DIAL_TIMEOUT = 2.0  # seconds for an endpoint to answer its first question
PROBE = 1.5  # seconds between two signs of life asked of a watch
SILENCE = 4.0  # seconds after which a watch that gave none is dead

_CHANNEL = (
    ("grpc.max_receive_message_length", -1),  # etcd answers a watch in one message, however long
    ("grpc.enable_http_proxy", 0),  # etcd is inside the cluster
    # Otherwise a new channel to the same endpoint gets the old one's connection, the frozen one too.
    ("grpc.use_local_subchannel_pool", 1),
    # A second net under SILENCE. etcd closes connections that ping more than every 5 s.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
)
# WatchProgressRequest (field 3) came with etcd 3.4, after etcd3's stubs were made. Unknown fields are sent on.
_PROGRESS = etcdrpc.WatchRequest.FromString(b"\x1a\x00")
# Makes a member that lost its leader end the watch instead of staying silent (etcd, v3rpc/interceptor.go).
_REQUIRE_LEADER = (("hasleader", "true"),)

# After these the connection is not trusted again.
_LOST = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
}
# A revision that is compacted or not there yet; too many requests, or no space until somebody makes some; what a user
# of etcd may not do until somebody allows it.
_LATER = {
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.PERMISSION_DENIED,
}


_COMPACTED = "required revision has been compacted"
_CLOSED = "the store is closed"
_TOO_LARGE = "larger than max"  # gRPC's, of a request over etcd's limit and 512 KiB; etcd's own is INVALID_ARGUMENT
_OLD_AUTH = "revision of auth store is old"  # users or roles changed while we were asking


class LeaseLost(LinkwireError):  # noqa: N818 - named like those of mesh.errors
    """The lease ended, and with it every key that was bound to it: it has to be granted anew."""


class Link:
    """A gRPC channel to one endpoint, in the requests that we make. Its errors are gRPC's: see `Line.use`."""

    def __init__(self, target: str, timeout: float, tls: Tls | None = None) -> None:
        self.target = target
        self.shows = tls
        """What it shows to etcd."""
        self._timeout = timeout
        self._channel = _channel(target, tls)
        self._kv = etcdrpc.KVStub(self._channel)
        self._pages = self._channel.unary_unary(
            "/etcdserverpb.KV/Range",
            request_serializer=etcdrpc.RangeRequest.SerializeToString,
            response_deserializer=etcd_pages.decode,
        )
        self._lease = etcdrpc.LeaseStub(self._channel)
        self._watch = etcdrpc.WatchStub(self._channel)
        self.auth = etcdrpc.AuthStub(self._channel)
        """For mesh.etcd_roles."""
        self.maintenance = etcdrpc.MaintenanceStub(self._channel)
        """For mesh.etcd_space."""

    def close(self) -> None:
        """Break off everything that runs over it."""
        self._channel.close()

    def ask(self, key: bytes, timeout: float | None = None) -> None:
        """Ask for a key's name, by majority: a member that is cut off from the others does not answer."""
        self._kv.Range(etcdrpc.RangeRequest(key=key, keys_only=True), timeout=timeout or self._timeout)

    def page(self, first: bytes, end: bytes, revision: int) -> etcd_pages.Page:
        """Read up to PAGE keys of [first, end) as they were at a revision, 0 for now."""
        request = etcdrpc.RangeRequest(key=first, range_end=end, limit=PAGE, revision=revision)
        page: etcd_pages.Page = self._pages(request, timeout=self._timeout)
        return page

    def raw(self, method: str, request: Any, timeout: float) -> bytes:  # noqa: ANN401 - etcd3 is not typed
        """The bytes of an answer that has fields which came after etcd3's stubs."""
        call = self._channel.unary_unary(
            f"/etcdserverpb.{method}", request_serializer=type(request).SerializeToString
        )
        answer: bytes = call(request, timeout=timeout)
        return answer

    def compact(self, revision: int, timeout: float) -> None:
        """Forget all history up to a revision; done when its space is free. Again is no error."""
        try:
            self._kv.Compact(etcdrpc.CompactionRequest(revision=revision, physical=True), timeout=timeout)
        except grpc.RpcError as error:
            if _COMPACTED not in str(error.details()):
                raise

    def commit(
        self,
        conditions: Iterable[tuple[bytes, int]],
        puts: Iterable[tuple[bytes, bytes, int]],
        deletes: Iterable[bytes],
    ) -> int | None:
        """One transaction of (key, revision of its last change), (key, value, lease) and keys.

        Returns:
            The revision, or None when a condition did not hold.
        """
        request = etcdrpc.TxnRequest()
        for key, revision in conditions:
            request.compare.add(
                result=etcdrpc.Compare.EQUAL, target=etcdrpc.Compare.MOD, key=key, mod_revision=revision
            )
        for key, value, lease in puts:
            put = request.success.add().request_put
            put.key, put.value, put.lease = key, value, lease
        for key in deletes:
            request.success.add().request_delete_range.key = key
        response = self._kv.Txn(request, timeout=self._timeout)
        return int(response.header.revision) if response.succeeded else None

    def grant(self, ttl: int) -> int:
        """Make a lease of `ttl` seconds."""
        return int(self._lease.LeaseGrant(etcdrpc.LeaseGrantRequest(TTL=ttl), timeout=self._timeout).ID)

    def keep(self, lease: int) -> int:
        """Renew a lease; 0 or less: it is gone."""
        request = etcdrpc.LeaseKeepAliveRequest(ID=lease)
        call = self._lease.LeaseKeepAlive(iter([request]), timeout=self._timeout)
        try:
            return int(next(call).TTL)
        except StopIteration:
            raise Retryable(f"{self.target} ended the request without an answer") from None
        finally:
            call.cancel()

    def revoke(self, lease: int) -> None:
        """End a lease."""
        self._lease.LeaseRevoke(etcdrpc.LeaseRevokeRequest(ID=lease), timeout=self._timeout)

    def watch(self, first: bytes, end: bytes) -> Generator[Any]:
        """WatchResponses for [first, end) from now on: a created one, then events and answers about progress.

        Progress is asked for as soon as the caller comes back from the created one, and then every PROBE seconds
        in which it waits here. When nothing comes for SILENCE seconds, the stream is cancelled. Its end raises.
        """
        create = etcdrpc.WatchCreateRequest(key=first, range_end=end)
        signals: queue.SimpleQueue[bool] = queue.SimpleQueue()  # True: ask now, False: it is over
        waiting_since: float | None = time.monotonic()  # None while the caller is busy: silence is ours then
        asking = False

        def requests() -> Iterator[Any]:
            yield etcdrpc.WatchRequest(create_request=create)
            while True:
                try:
                    if not signals.get(timeout=PROBE):
                        return
                except queue.Empty:
                    since = waiting_since
                    if since is not None and time.monotonic() - since > SILENCE:
                        call.cancel()
                        return
                    if since is None or not asking:
                        continue
                yield _PROGRESS

        call = self._watch.Watch(requests(), metadata=_REQUIRE_LEADER)
        try:
            for response in call:
                waiting_since = None
                if response.canceled:
                    raise Retryable(f"etcd at {self.target} ended the watch: {response.cancel_reason or 'no reason'}")
                yield response
                waiting_since = time.monotonic()
                if not asking:
                    asking = True
                    signals.put(True)
            raise Retryable(f"etcd at {self.target} ended the watch")
        finally:
            signals.put(False)
            call.cancel()


class Line:
    """The one link in use, and a new one to the next endpoint when it fails. Safe for several threads."""

    def __init__(self, targets: Sequence[str], timeout: float, tls: Tls | None = None, probe: bytes = b"\0") -> None:
        """Only remember. `probe` is a key that we may read, which tells whether an endpoint answers."""
        self._targets = targets
        self._timeout = timeout
        self._tls = tls
        self._probe = probe
        self._next = 0
        self._link: Link | None = None
        self._dialled: Link | None = None
        self._closed = False
        self._failures = 0  # how often all endpoints were tried in vain, and what they last said
        self._failure = ""
        self._lock = threading.Lock()  # held for moments
        self._dialling = threading.Lock()  # held while endpoints are tried

    @contextmanager
    def use(self) -> Iterator[Link]:
        """Lend a link that answered when it was made, and turn gRPC's errors into ours.

        Raises:
            Retryable, Terminal, LeaseLost: what the text says.
        """
        link = self._get()
        try:
            yield link
        except grpc.RpcError as error:
            if error.code() in _LOST:
                self._drop(link)
            elif error.code() is grpc.StatusCode.PERMISSION_DENIED and self._tls and self._tls.first:
                self._drop(link, elsewhere=False)  # as another user, perhaps
            raise _ours(error, link.target) from error
        except ValueError as error:
            # gRPC raises a bare ValueError on a channel that another thread has closed meanwhile.
            if link is self._link:
                raise
            raise Retryable(f"the connection to {link.target} was closed meanwhile") from error

    @property
    def shows_first(self) -> bool:
        """Whether etcd has accepted what is to be shown first (mesh.tls), over the link that is in use."""
        link = self._state()[0]
        return link is not None and self._tls is not None and link.shows is self._tls.first

    def try_first(self) -> None:
        """Where something else is shown, have the next request see whether the first is accepted by now."""
        link = self._state()[0]
        if link is not None and self._tls is not None and self._tls.choices()[0] is not link.shows:
            self._drop(link, elsewhere=False)

    def close(self) -> None:
        """Break off whatever runs, for good."""
        with self._lock:
            self._closed = True
            links, self._link = (self._link, self._dialled), None
        for link in links:
            if link is not None:
                link.close()

    def _get(self) -> Link:
        link, failures = self._state()
        if link is None:
            with self._dialling:
                link, now = self._state()
                if link is None and now != failures:
                    # Who waited while another tried in vain does not try the same once more.
                    raise Retryable(self._failure)
                link = link or self._dial()
        return link

    def _state(self) -> tuple[Link | None, int]:
        with self._lock:
            return self._link, self._failures

    def _dial(self) -> Link:
        reasons = []
        for n in range(len(self._targets)):
            at = (self._next + n) % len(self._targets)
            for tls in self._tls.choices() if self._tls else (None,):
                try:
                    link = Link(self._targets[at], self._timeout, tls)
                except Terminal as error:  # a node's key that Swarm has encrypted since it was looked at
                    if tls is self._tls:
                        raise
                    reasons.append(str(error))
                    continue
                if not self._hold(dialled=link):
                    raise Terminal(_CLOSED)
                reason = self._refusal(link)
                if reason is None and self._hold(link=link):
                    self._next = at
                    return link
                if reason is None:
                    raise Terminal(_CLOSED)
                reasons.append(reason)
                if not may_be_refused(reason):
                    break  # whatever is shown
        with self._lock:
            if self._closed:
                raise Terminal(_CLOSED)
            self._failures += 1
            self._failure = "; ".join(reasons)
        raise Retryable(self._failure)

    def _refusal(self, link: Link) -> str | None:
        """Why a link is of no use, in words; None if it is of use."""
        try:
            link.ask(self._probe, min(self._timeout, DIAL_TIMEOUT))
        except grpc.RpcError as error:
            link.close()
            reason = str(_ours(error, link.target))
            return link.shows.explain(reason) if link.shows else reason
        except ValueError:  # gRPC's, for a channel that `close` has closed
            return "closed meanwhile"
        return None

    def _hold(self, *, dialled: Link | None = None, link: Link | None = None) -> bool:
        """Note a link where `close` finds it; False, and the link closed, when that has been called."""
        with self._lock:
            self._dialled, self._link = dialled, link
            closed = self._closed
        new = dialled or link
        if closed and new is not None:
            new.close()
        return not closed

    def _drop(self, link: Link, *, elsewhere: bool = True) -> None:
        with self._lock:
            if link is not self._link:
                return
            self._link = None
            self._next = (self._next + elsewhere) % len(self._targets)
        link.close()


def _ours(error: Any, target: str) -> LinkwireError:  # noqa: ANN401 - grpc is not typed
    code = error.code()
    text = f"etcd at {target}: {error.details()} ({code.name})"
    if code is grpc.StatusCode.NOT_FOUND:
        return LeaseLost(text)
    later = code in _LOST | _LATER and _TOO_LARGE not in text
    return Retryable(text) if later or _OLD_AUTH in text else Terminal(text)


def _channel(target: str, tls: Tls | None) -> Any:  # noqa: ANN401 - grpc is not typed
    if tls is None:
        return grpc.insecure_channel(target, options=_CHANNEL)
    ca, cert, key = tls.read()
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(ca, key, cert), options=_CHANNEL)
