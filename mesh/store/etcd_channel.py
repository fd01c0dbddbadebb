"""Connection to etcd with failover between its endpoints; bytes in, bytes out.

etcd3 0.12 is used for its messages and stubs: its client raises no error when a watch ends, and knows one endpoint.
No grpc error leaves `ChannelPool.use`. Other modules take etcd3's messages from here (`rpc`): it has to be imported
with the settings below.
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

from mesh.errors import LinkwireError, Retryable, Terminal
from mesh.identity.tls import Tls, may_be_refused
from mesh.store import range_response

rpc: Any = etcdrpc
"""etcd3's messages and stubs."""

PAGE = 4000  # keys in one read: for each page etcd looks up all keys of its range
DIAL_TIMEOUT = 2.0  # seconds for an endpoint to answer its first request
PROBE = 1.5  # seconds between two progress requests of a watch
SILENCE = 4.0  # seconds without an answer after which a watch is dead

_CHANNEL = (
    ("grpc.max_receive_message_length", -1),  # etcd answers a watch in one message, however long
    ("grpc.enable_http_proxy", 0),  # etcd is inside the cluster
    # Otherwise a new channel to the same endpoint reuses the old one's connection, even a frozen one.
    ("grpc.use_local_subchannel_pool", 1),
    # A second net under SILENCE. etcd closes connections that ping more than every 5 s.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    # `ChannelPool` tries again. gRPC (1.85) would for a stream that an etcd which stops has not begun, and where
    # nobody listens there any more, it then waits for ever, past the deadline too.
    ("grpc.enable_retries", 0),
)
# WatchProgressRequest (field 3) came with etcd 3.4, after etcd3's stubs were made. Unknown fields are sent on.
_PROGRESS = etcdrpc.WatchRequest.FromString(b"\x1a\x00")
# Makes a member that lost its leader end the watch instead of staying silent (etcd, v3rpc/interceptor.go).
_REQUIRE_LEADER = (("hasleader", "true"),)

# Errors after which the connection is not used again.
_LOST = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
}
# Errors that may pass: a compacted or future revision; too many requests or no space; a permission that has not been
# granted yet.
_LATER = {
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.PERMISSION_DENIED,
}


_COMPACTED = "required revision has been compacted"
_CLOSED = "the store is closed"
_TOO_LARGE = "larger than max"  # gRPC's, of a request over etcd's limit and 512 KiB; etcd's own is INVALID_ARGUMENT
_OLD_AUTH = "revision of auth store is old"  # users or roles changed during the request


class LeaseLostError(LinkwireError):
    """The lease has ended, and every key bound to it is deleted: grant another one."""


class Channel:
    """A gRPC channel to one endpoint. Its errors are gRPC's: see `ChannelPool.use`."""

    def __init__(self, target: str, timeout: float, tls: Tls | None = None) -> None:
        self.target = target
        self.tls = tls
        """Files of the connection; None for plain text."""
        self._timeout = timeout
        self._channel = _channel(target, tls)
        self._kv = etcdrpc.KVStub(self._channel)
        self._pages = self._channel.unary_unary(
            "/etcdserverpb.KV/Range",
            request_serializer=etcdrpc.RangeRequest.SerializeToString,
            response_deserializer=range_response.decode,
        )
        self._lease = etcdrpc.LeaseStub(self._channel)
        self._watch = etcdrpc.WatchStub(self._channel)
        self.auth = etcdrpc.AuthStub(self._channel)
        """Used by controller.etcd.roles."""
        self.maintenance = etcdrpc.MaintenanceStub(self._channel)
        """Used by controller.etcd.space."""

    def close(self) -> None:
        """Abort everything that runs over it."""
        self._channel.close()

    def ask(self, key: bytes, timeout: float | None = None) -> None:
        """Read a key's name with quorum: a member that is cut off from the others does not answer."""
        self._kv.Range(etcdrpc.RangeRequest(key=key, keys_only=True), timeout=timeout or self._timeout)

    def page(
        self, first: bytes, end: bytes, revision: int, limit: int = PAGE, *, keys_only: bool = False
    ) -> range_response.Page:
        """Read up to `limit` keys of [first, end) at a revision, 0 for the current one; or `keys_only`, no values."""
        request = etcdrpc.RangeRequest(key=first, range_end=end, limit=limit, revision=revision, keys_only=keys_only)
        page: range_response.Page = self._pages(request, timeout=self._timeout)
        return page

    def count(self, first: bytes, end: bytes) -> int:
        """Count the keys of [first, end)."""
        request = etcdrpc.RangeRequest(key=first, range_end=end, count_only=True)
        return int(self._kv.Range(request, timeout=self._timeout).count)

    def delete_range(self, first: bytes, end: bytes) -> None:
        """Delete the keys of [first, end), in one transaction of etcd's own."""
        self._kv.DeleteRange(etcdrpc.DeleteRangeRequest(key=first, range_end=end), timeout=self._timeout)

    def raw(self, method: str, request: Any, timeout: float) -> bytes:  # noqa: ANN401 - etcd3 is not typed
        """Return the bytes of an answer that has fields which etcd3's stubs lack."""
        call = self._channel.unary_unary(
            f"/etcdserverpb.{method}", request_serializer=type(request).SerializeToString
        )
        answer: bytes = call(request, timeout=timeout)
        return answer

    def compact(self, revision: int, timeout: float) -> None:
        """Delete all history up to a revision, and return when its space is free; repeating it is no error."""
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
        """Commit one transaction.

        Args:
            conditions: (key, revision of its last change).
            puts: (key, value, lease).
            deletes: keys.

        Returns:
            The revision; None when a condition did not hold.
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
        """Grant a lease of `ttl` seconds and return its id."""
        return int(self._lease.LeaseGrant(etcdrpc.LeaseGrantRequest(TTL=ttl), timeout=self._timeout).ID)

    def renew_lease(self, lease: int) -> int:
        """Renew a lease and return its seconds; 0 or less: it is gone."""
        raw = self.raw("Lease/LeaseKeepAlive", etcdrpc.LeaseKeepAliveRequest(ID=lease), self._timeout)
        if not raw:
            raise Retryable(f"{self.target} ended the request without an answer")
        return int(etcdrpc.LeaseKeepAliveResponse.FromString(raw).TTL)

    def revoke(self, lease: int) -> None:
        """End a lease."""
        self._lease.LeaseRevoke(etcdrpc.LeaseRevokeRequest(ID=lease), timeout=self._timeout)

    def watch(self, first: bytes, end: bytes) -> Generator[Any]:
        """Yield WatchResponses for [first, end) from now on: a created one, then events and progress answers.

        Progress is requested when the caller asks for the second response, and then every PROBE seconds while it
        waits. After SILENCE seconds without a response the stream is cancelled. Its end raises.
        """
        create = etcdrpc.WatchCreateRequest(key=first, range_end=end)
        signals: queue.SimpleQueue[bool] = queue.SimpleQueue()  # True: request progress now; False: end
        waiting_since: float | None = (
            time.monotonic()
        )  # None while the caller is busy, and so is the cause of the silence
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


class ChannelPool:
    """The channel in use, replaced by one to the next endpoint when it fails. Safe for several threads."""

    def __init__(self, targets: Sequence[str], timeout: float, tls: Tls | None = None, probe: bytes = b"\0") -> None:
        """Connect to nothing yet; `probe` is a readable key, read to find out whether an endpoint answers."""
        self._targets = targets
        self._timeout = timeout
        self._tls = tls
        self._probe = probe
        self._next = 0
        self._link: Channel | None = None
        self._dialled: Channel | None = None
        self._closed = False
        self._failures = 0  # times that all endpoints failed, and their last errors
        self._failure = ""
        self._lock = threading.Lock()  # for the fields
        self._dialling = threading.Lock()  # for trying endpoints

    @contextmanager
    def use(self) -> Iterator[Channel]:
        """Yield a channel that answered when it was opened, and translate gRPC's errors.

        Raises:
            Retryable, Terminal, LeaseLostError: as `mesh.errors` says.
        """
        link = self._get()
        try:
            yield link
        except grpc.RpcError as error:
            if error.code() in _LOST:
                self._drop(link)
            elif error.code() is grpc.StatusCode.PERMISSION_DENIED and self._tls and self._tls.preferred:
                self._drop(link, elsewhere=False)  # perhaps with a certificate of another user
            raise _ours(error, link.target) from error
        except ValueError as error:
            # gRPC raises a bare ValueError on a channel that another thread has closed meanwhile.
            if link is self._link:
                raise
            raise Retryable(f"the connection to {link.target} was closed meanwhile") from error

    @property
    def uses_preferred(self) -> bool:
        """Whether the channel in use was opened with the preferred certificate (`Tls.preferred`)."""
        link = self._state()[0]
        return link is not None and self._tls is not None and link.tls is self._tls.preferred

    def retry_preferred(self) -> None:
        """Make the next request try the preferred certificate again, unless it is in use."""
        link = self._state()[0]
        if link is not None and self._tls is not None and self._tls.choices()[0] is not link.tls:
            self._drop(link, elsewhere=False)

    def close(self) -> None:
        """Abort running requests and refuse later ones."""
        with self._lock:
            self._closed = True
            links, self._link = (self._link, self._dialled), None
        for link in links:
            if link is not None:
                link.close()

    def _get(self) -> Channel:
        link, failures = self._state()
        if link is None:
            with self._dialling:
                link, now = self._state()
                if link is None and now != failures:
                    # Another thread has just tried all endpoints in vain.
                    raise Retryable(self._failure)
                link = link or self._dial()
        return link

    def _state(self) -> tuple[Channel | None, int]:
        with self._lock:
            return self._link, self._failures

    def _dial(self) -> Channel:
        reasons = []
        for n in range(len(self._targets)):
            at = (self._next + n) % len(self._targets)
            for tls in self._tls.choices() if self._tls else (None,):
                try:
                    link = Channel(self._targets[at], self._timeout, tls)
                except Terminal as error:  # Swarm has encrypted the node's key since `choices`
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
                    break  # another certificate would not help
        with self._lock:
            if self._closed:
                raise Terminal(_CLOSED)
            self._failures += 1
            self._failure = "; ".join(reasons)
        raise Retryable(self._failure)

    def _refusal(self, link: Channel) -> str | None:
        """Return why a channel is of no use; None if it answers."""
        try:
            link.ask(self._probe, min(self._timeout, DIAL_TIMEOUT))
        except grpc.RpcError as error:
            link.close()
            reason = str(_ours(error, link.target))
            return link.tls.explain(reason) if link.tls else reason
        except ValueError:  # gRPC's, for a channel that `close` has closed
            return "closed meanwhile"
        return None

    def _hold(self, *, dialled: Channel | None = None, link: Channel | None = None) -> bool:
        """Set a channel where `close` finds it; after `close`, close the channel and return False."""
        with self._lock:
            self._dialled, self._link = dialled, link
            closed = self._closed
        new = dialled or link
        if closed and new is not None:
            new.close()
        return not closed

    def _drop(self, link: Channel, *, elsewhere: bool = True) -> None:
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
        return LeaseLostError(text)
    later = code in _LOST | _LATER and _TOO_LARGE not in text
    return Retryable(text) if later or _OLD_AUTH in text else Terminal(text)


def _channel(target: str, tls: Tls | None) -> Any:  # noqa: ANN401 - grpc is not typed
    if tls is None:
        return grpc.insecure_channel(target, options=_CHANNEL)
    ca, cert, key = tls.read()
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(ca, key, cert), options=_CHANNEL)
