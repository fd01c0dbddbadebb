"""The nodes whose agents are not simulated: only what they write, signed by keys of their own.

Each is there and says that every task of its which has an endpoint runs and is wired. When asked to, it says its
status, and what it has read of its devices, as often as an agent does.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable
from contextlib import closing

from mesh.crypto.hpke import NodeKey
from mesh.crypto.keys import PublicKey
from mesh.crypto.signed_envelope import Signer, SigningKey, peek, wrap
from mesh.errors import LinkwireError
from mesh.integrity.record_signing import RecordSigner
from mesh.model import codec, device_readings, keyspace
from mesh.model.records import Node, Record, Status, TaskReport
from mesh.model.snapshot import Delete, Op, Write
from mesh.store.client import Store
from mesh.store.watch_stream import Ranges, WatchStream
from tests.bench.scale.node import KEYRING, PORTS, device
from tests.bench.scale.world import CLUSTER, hostname, underlay

_LEASE_S = 3600
_BATCH = 100
STATUS_S = 3.0
ALIVE_S = 4.0
"""Between the signs of life of nodes that say no status: a node without them is silent after twice as long."""
PEERS = 10
"""Of each device. Whose keys they are makes no difference to what is written."""


class Crowd:
    """Many nodes in one process, without agents."""

    def __init__(self, nodes: Iterable[str], endpoint: str) -> None:
        """Make their keys."""
        self._endpoint = endpoint
        self._store = Store([endpoint], RecordSigner.reader(KEYRING))
        self._keys = {node: (NodeKey.generate().public, SigningKey.generate()) for node in nodes}
        self._generation = 0
        self._devices: dict[str, dict[str, PublicKey]] = {node: {} for node in self._keys}
        self._views_due = dict.fromkeys(self._keys, 0.0)
        self._statuses = threading.Event()
        self._stopped = threading.Event()
        self._feed: WatchStream | None = None
        self._threads: list[threading.Thread] = []

    def fingerprints(self) -> dict[str, str]:
        """What an operator would approve."""
        return {node: self._node(node).statement(CLUSTER).fingerprint for node in self._keys}

    def start(self) -> None:
        """Say that the nodes are there, and from now on what their tasks do."""
        lease = self._store.grant(_LEASE_S)
        self._write([self._write_of(node, self._node(node), lease) for node in self._keys])
        self._write([self._vitals(node, time.time()) for node in self._keys])
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._follow, self._say)]
        for thread in self._threads:
            thread.start()

    def statuses(self, *, on: bool) -> None:
        """From now on each node says its status every three seconds, or none does."""
        (self._statuses.set if on else self._statuses.clear)()

    def fall_silent(self, node: str) -> None:
        """A node is heard no more."""
        self._store.commit([Delete(keyspace.node(node), None)])

    def stop(self) -> None:
        """End it."""
        self._stopped.set()
        if self._feed is not None:
            self._feed.close()
        for thread in self._threads:
            thread.join(5)
        self._store.close()

    def _follow(self) -> None:
        ranges = Ranges.of(keyspace.ROOT.encode(), [keyspace.ENDPOINTS.encode()])
        while not self._stopped.is_set():
            self._feed = WatchStream((self._endpoint.removeprefix("http://"),), 5.0, ranges, None)
            said: dict[str, str] = {}
            try:
                with closing(self._feed.batches()) as batches:
                    for batch in batches:
                        self._write(list(self._answers([(c.key.decode(), c.value) for c in batch.changes], said)))
            except LinkwireError:
                time.sleep(0.2)

    def _answers(self, changes: Iterable[tuple[str, bytes | None]], said: dict[str, str]) -> Iterable[Op]:
        for key, value in changes:
            if value is None:
                if node := said.pop(key, None):
                    task = key.rpartition("/")[2]
                    self._devices[node].pop(task, None)
                    yield Delete(keyspace.report(node, task), None)
                continue
            told = json.loads(peek(key, value).body)
            node = told["node"]
            if node in self._keys and key not in said:
                said[key] = node
                self._devices[node][told["task"]] = PublicKey.parse(told["public_key"])
                report = TaskReport(told["task"], told["service"], node, "running", True, None, None, ())
                yield self._write_of(node, report)

    def _say(self) -> None:
        alive_at = 0.0
        while not self._stopped.is_set():
            if not self._statuses.wait(0.2):
                if time.monotonic() - alive_at >= ALIVE_S:
                    alive_at = time.monotonic()
                    self._write([self._vitals(node, time.time()) for node in self._keys])
                continue
            for node in self._keys:
                self._write(self._status(node))
                if self._stopped.wait(STATUS_S / len(self._keys)) or not self._statuses.is_set():
                    break

    def _status(self, node: str) -> list[Op]:
        now = round(time.time(), 1)
        vitals: list[Op] = [self._vitals(node, now)]
        if now < self._views_due[node]:
            return vitals
        known = list(self._devices[node].items())
        peers = [key for _, key in known][:PEERS]
        views = device_readings.pack(node, now, [device(task, key, peers) for task, key in known])
        self._views_due[node] = now + device_readings.pause(views)
        return [*vitals, *(self._write_of(node, view) for view in views)]

    def _vitals(self, node: str, now: float) -> Write:
        return self._write_of(node, Status(node, now, ()))

    def _node(self, node: str) -> Node:
        sealing, report = self._keys[node]
        return Node(
            id=node,
            hostname=hostname(node),
            sealing_key=sealing,
            report_key=report.verify_key,
            counter=1,
            proof=None,
            unproven="unreadable",
            address=underlay(node),
            first_port=PORTS[0],
            last_port=PORTS[1],
            backend="simulated",
            version="0",
        )

    def _write_of(self, node: str, record: Record, lease: int | None = None) -> Write:
        self._generation += 1
        key = keyspace.key_of(record)
        value = wrap(Signer(CLUSTER, self._keys[node][1]), key, self._generation, codec.encode(record))
        return Write(key, self._generation, value, None, lease)

    def _write(self, ops: list[Op]) -> None:
        for start in range(0, len(ops), _BATCH):
            self._store.commit(ops[start : start + _BATCH])
