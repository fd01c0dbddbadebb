"""Queries `links` of a whole Swarm, asked of one agent: what `docker linkwire ps` and `status` cost it.

    .venv/bin/python -m tests.bench.links 100 1000 5000

The store, its connection and all signatures are real. Each of a service's ten tasks has a device with all its peers.
"""

from __future__ import annotations

import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

from agent.queries.answers import Answers, Running
from agent.queries.server import encoded
from mesh.crypto.envelope import Signer, SigningKey, wrap
from mesh.crypto.keys import KEY_BYTES, PublicKey
from mesh.integrity.record_signing import RecordSigner
from mesh.model import codec, device_readings, keyspace
from mesh.model.net import UdpEndpoint
from mesh.model.records import (
    Cluster,
    DeviceStatus,
    Endpoint,
    Member,
    Node,
    PeerStatus,
    Record,
    Service,
    Status,
    TaskReport,
)
from mesh.model.snapshot import Snapshot, Versioned, Write
from mesh.store.client import Store
from mesh.topology.ipam import ula
from mesh.topology.link_graph import LinkGraph, index
from tests.bench.scale import world as worlds
from tests.bench.scale.node import KEYRING, SIGNING_KEY
from tests.bench.scale.part import SUBNET
from tests.store.etcd_server import EtcdServer
from tests.support import cluster

_BATCH = 20
_TURNS = 3
_RANDOM = Random(1)  # noqa: S311 - numbers of packets, no secrets
_FIRST_VIP = 1 << 15


def controllers(world: worlds.World) -> Snapshot:
    """What the controller has written of a world, as far as links are described by it."""
    records: list[Record] = [Cluster("cluster", SUBNET, ula("cluster"))]
    for number, one in enumerate(world.services.values()):
        vip = SUBNET.network_address + _FIRST_VIP + number
        links = one.labels.links
        records.append(Service(one.id, one.name, vip, links, None, strict=True, dnsrr=False, elsewhere=()))
    for number, task in enumerate(world.tasks.values(), 1):
        records.append(
            Endpoint(
                service=task.service,
                task=task.id,
                slot=task.slot + 1,
                node=task.node,
                address=SUBNET.network_address + number,
                public_key=PublicKey(_RANDOM.randbytes(KEY_BYTES)),
                epoch=0,
                underlay=UdpEndpoint(worlds.underlay(task.node), 51820),
                ready=True,
                elsewhere=(),
            )
        )
    return Snapshot(1, complete=True, records={keyspace.key_of(each): Versioned(each, 1) for each in records})


class Nodes:
    """The nodes of a world, as they write: every task is wired, and was read with all its peers."""

    def __init__(self, world: worlds.World, graph: LinkGraph) -> None:
        """Make their keys."""
        self._world = world
        self._graph = graph
        self._keys = {node: SigningKey.generate() for node in world.nodes}
        self._generation = 0

    def once(self) -> Iterator[Write]:
        """Yield what is there from the beginning."""
        node = next(cluster.stored(1).all(Node))
        for name, key in self._keys.items():
            address = worlds.underlay(name)
            hostname = worlds.hostname(name)
            yield self._by(
                self._keys[name],
                replace(node, id=name, hostname=hostname, report_key=key.verify_key, address=address),
            )
            yield self._by(SIGNING_KEY, Member(name, node.sealing_key, key.verify_key, 1))
        for task in self._world.tasks.values():
            report = TaskReport(task.id, task.service, task.node, "running", True, None, None, ())
            yield self._by(self._keys[task.node], report)

    def readings(self) -> Iterator[Write]:
        """Yield another reading of all devices."""
        now = round(time.time(), 1)
        devices: dict[str, list[DeviceStatus]] = {node: [] for node in self._keys}
        for endpoint in self._graph.by_task.values():
            peers = tuple(map(_peer, self._graph.peers(endpoint)))
            devices[endpoint.node].append(DeviceStatus(endpoint.task, endpoint.public_key, peers, ()))
        for node, key in self._keys.items():
            yield self._by(key, Status(node, now, ()))
            for view in device_readings.pack(node, now, devices[node]):
                yield self._by(key, view)

    def _by(self, signing_key: SigningKey, record: Record) -> Write:
        self._generation += 1
        key, signer = keyspace.key_of(record), Signer(worlds.CLUSTER, signing_key)
        return Write(key, self._generation, wrap(signer, key, self._generation, codec.encode(record)), None)


def _peer(endpoint: Endpoint) -> PeerStatus:
    age = round(_RANDOM.random() * 240, 1)
    received, sent = _RANDOM.getrandbits(34), _RANDOM.getrandbits(34)
    return PeerStatus(endpoint.public_key, age, received, sent, str(endpoint.underlay))


def _write(store: Store, writes: Iterator[Write]) -> None:
    ops: list[Write] = []
    for write in writes:
        if ops and (len(ops) == _BATCH or len(write.value) > 50_000):
            store.commit(ops)
            ops = []
        ops.append(write)
    store.commit(ops)


def _mib(name: str) -> float:
    (found,) = re.findall(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found) / 1024


def cost(answers: Answers, query: Mapping[str, Any]) -> dict[str, float]:
    """What an answer costs: seconds and CPU seconds of the thread, memory beyond what was held, size."""
    Path("/proc/self/clear_refs").write_text("5")
    held, began, spent = _mib("VmRSS"), time.monotonic(), time.thread_time()
    sent = 0
    for document in answers.links(query):
        sent += len(encoded(document))
    return {
        "s CPU": time.thread_time() - spent,
        "s": time.monotonic() - began,
        "MiB more at most": _mib("VmHWM") - held,
        "MB of answer": sent / 10**6,
    }


def measure(links: int, folder: Path) -> None:
    """Print what the answers to both queries cost, median of three."""
    world = worlds.stacks(links * 2)
    verified = controllers(world)
    graph = index(verified)
    nodes = Nodes(world, graph)
    with EtcdServer(folder) as etcd:
        store = Store([etcd.endpoint], RecordSigner.reader(KEYRING))
        try:
            _write(store, nodes.once())
            desired: Any = SimpleNamespace(graph=graph, verified=verified, trust=SimpleNamespace(held=""))
            running = Running(desired, lambda: None, lambda _revision: 60.0)
            answers = Answers(store, worlds.CLUSTER, folder, folder, running)
            for name, query in (("status", {"counted": True}), ("ps", {})):
                _write(store, nodes.readings())
                costs = [cost(answers, query) for _ in range(_TURNS + 1)][1:]
                middle = {unit: statistics.median(each[unit] for each in costs) for unit in costs[0]}
                print(links, name, ", ".join(f"{figure:.2f} {unit}" for unit, figure in middle.items()), flush=True)
        finally:
            store.close()


if __name__ == "__main__":
    for size in map(int, sys.argv[1:] or ("100", "1000", "5000")):
        with tempfile.TemporaryDirectory(prefix="linkwire-bench-") as name:
            measure(size, Path(name))
