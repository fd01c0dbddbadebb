"""The store on a real etcd of one member: a list of many records, and one record on its way to a follower."""

from __future__ import annotations

import itertools
import queue
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc

from mesh.model import codec, keyspace
from mesh.model.records import Endpoint
from mesh.model.snapshot import Put
from mesh.store.client import MAX_OPS, Store
from tests.bench.measure import Effort, Row, alternate, timed
from tests.store.etcd_server import EtcdServer
from tests.support import cluster
from tests.support.signing import RECORD_SIGNER

_WAIT = 10.0  # seconds for a change to be seen
_RAW_KEY = b"/raw"


def measure(effort: Effort) -> list[Row]:
    """List and follow."""
    with tempfile.TemporaryDirectory(prefix="linkwire-bench-") as folder, EtcdServer(Path(folder)) as etcd:
        with closing(Store([etcd.endpoint], RECORD_SIGNER)) as store:
            records = list(cluster.stored(effort.endpoints).all(Endpoint))
            for first in range(0, len(records), MAX_OPS):
                store.commit([Put(record, 0) for record in records[first : first + MAX_OPS]])
            count = len(records)
            listing = alternate(
                effort.rounds,
                lambda: timed(lambda: _list_ours(store, count)),
                lambda: timed(lambda: _list_theirs(etcd, count)),
            )
            with _ours(store, records[0]) as ours, raw(etcd, codec.encode(records[0])) as bare:
                following = alternate(effort.puts, ours, bare)
        return [
            Row("store.list", f"read and decode {count} endpoints", "etcdctl get --prefix", "ms", "lower", *listing),
            Row("store.follow", "put, until a follower has it", "gRPC put and watch", "ms", "lower", *following),
        ]


def _list_ours(store: Store, count: int) -> None:
    assert len(store.load([keyspace.ENDPOINTS]).records) == count


def _list_theirs(etcd: EtcdServer, count: int) -> None:
    command = ["etcdctl", "--endpoints", etcd.endpoint, "get", "--prefix", keyspace.ROOT + keyspace.ENDPOINTS]
    environment = {"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, check=True, capture_output=True, env=environment)
    assert done.stdout.count(b"\n") >= 2 * count  # a signature may have one too


@contextmanager
def _ours(store: Store, record: Endpoint) -> Iterator[Callable[[], float]]:
    """Put and follow among all the other endpoints."""
    seen: queue.SimpleQueue[None] = queue.SimpleQueue()
    follower = store.follow([keyspace.ENDPOINTS], lambda: seen.put(None))
    seen.get(timeout=_WAIT)
    epochs = itertools.count(1)

    def once() -> float:
        changed = replace(record, epoch=next(epochs))
        key = keyspace.key_of(changed)
        began = time.perf_counter()
        store.commit([Put(changed, None)])
        while follower.snapshot.get(key, Endpoint) != changed:
            seen.get(timeout=_WAIT)
        return (time.perf_counter() - began) * 1000

    try:
        yield once
    finally:
        follower.stop()


@contextmanager
def raw(etcd: EtcdServer, value: bytes) -> Iterator[Callable[[], float]]:
    """The same bytes put and watched by gRPC calls, under a key of their own, undecoded.

    Not by etcd3's client, whose watching thread dies with a traceback when its channel is closed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from etcd3 import etcdrpc  # noqa: PLC0415 - only after mesh.store.etcd_channel can it be imported

    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
    requests.put(etcdrpc.WatchRequest(create_request=etcdrpc.WatchCreateRequest(key=_RAW_KEY)))
    seen: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    numbers = itertools.count()

    def watch(responses: Any) -> None:  # noqa: ANN401 - grpc is not typed
        with suppress(grpc.RpcError):  # how it ends when it is cancelled
            for response in responses:
                for found in [b""] if response.created else [event.kv.value for event in response.events]:
                    seen.put(found)

    def once() -> float:
        numbered = value + str(next(numbers)).encode()
        began = time.perf_counter()
        put(etcdrpc.PutRequest(key=_RAW_KEY, value=numbered), timeout=_WAIT)
        while seen.get(timeout=_WAIT) != numbered:
            pass
        return (time.perf_counter() - began) * 1000

    with grpc.insecure_channel(f"127.0.0.1:{etcd.port}") as channel, ThreadPoolExecutor(1) as pool:
        put = etcdrpc.KVStub(channel).Put
        responses = etcdrpc.WatchStub(channel).Watch(iter(requests.get, None))
        try:
            pool.submit(watch, responses)
            seen.get(timeout=_WAIT)
            yield once
        finally:
            responses.cancel()
            requests.put(None)
