"""Queries `links` of a whole Swarm, asked of one agent: what `ps` and `status` cost it, first and again.

    .venv/bin/python -m tests.bench.links 100 1000 5000

The store, its connection and all signatures are real. Each of a service's ten tasks has a device with all its peers.
"""

from __future__ import annotations

import hashlib
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, Self

from agent.queries.answers import Answers, Running
from agent.queries.server import encoded
from mesh.crypto.keys import KEY_BYTES, PublicKey
from mesh.crypto.signed_envelope import Signer, SigningKey, wrap
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
from mesh.process.gc_tuning import IdleCollector
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
    """What the controller has written of a world, as far as links are described by it: the same each time."""
    random = Random(1)  # noqa: S311 - no keys
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
                public_key=PublicKey(random.randbytes(KEY_BYTES)),
                epoch=0,
                underlay=UdpEndpoint(worlds.underlay(task.node), 51820),
                ready=True,
                elsewhere=(),
            )
        )
    return Snapshot(1, complete=True, records={keyspace.key_of(each): Versioned(each, 1) for each in records})


def key_of(node: str) -> SigningKey:
    """A node's report key: the same in every process of a simulation."""
    return SigningKey(hashlib.sha256(node.encode()).digest())


class Nodes:
    """The nodes of a world, as they write: every task is wired, and was read with all its peers."""

    def __init__(self, world: worlds.World, graph: LinkGraph) -> None:
        """Make their keys."""
        self._world = world
        self._graph = graph
        self._keys = {node: key_of(node) for node in world.nodes}
        self._generation = 0

    def once(self) -> Iterator[Write]:
        """Yield what is there from the beginning."""
        node = next(cluster.stored(1).all(Node))
        for name, key in self._keys.items():
            address = worlds.underlay(name)
            hostname = worlds.hostname(name)
            yield self.signed(
                self._keys[name],
                replace(node, id=name, hostname=hostname, report_key=key.verify_key, address=address),
            )
            yield self.signed(SIGNING_KEY, Member(name, node.sealing_key, key.verify_key, 1))
        for task in self._world.tasks.values():
            report = TaskReport(task.id, task.service, task.node, "running", True, None, None, ())
            yield self.signed(self._keys[task.node], report)

    def readings(self, count: int | None = None) -> Iterator[Write]:
        """Yield another reading of all devices, or of those of the first so many nodes."""
        now = round(time.time(), 1)
        devices: dict[str, list[DeviceStatus]] = {node: [] for node in self._keys}
        for endpoint in self._graph.by_task.values():
            peers = tuple(map(_peer, self._graph.peers(endpoint)))
            devices[endpoint.node].append(DeviceStatus(endpoint.task, endpoint.public_key, peers, ()))
        for node, key in list(self._keys.items())[:count]:
            yield self.signed(key, Status(node, now, ()))
            for view in device_readings.pack(node, now, devices[node]):
                yield self.signed(key, view)

    def signed(self, signing_key: SigningKey, record: Record) -> Write:
        """Sign a record."""
        self._generation += 1
        key, signer = keyspace.key_of(record), Signer(worlds.CLUSTER, signing_key)
        return Write(key, self._generation, wrap(signer, key, self._generation, codec.encode(record)), None)


def _peer(endpoint: Endpoint) -> PeerStatus:
    age = round(_RANDOM.random() * 240, 1)
    received, sent = _RANDOM.getrandbits(34), _RANDOM.getrandbits(34)
    return PeerStatus(endpoint.public_key, age, received, sent, str(endpoint.underlay))


def write(store: Store, writes: Iterable[Write]) -> None:
    """Write all of it, a few at a time."""
    ops: list[Write] = []
    for write in writes:
        if ops and (len(ops) == _BATCH or len(write.value) > 50_000):
            store.commit(ops)
            ops = []
        ops.append(write)
    if ops:
        store.commit(ops)


class Swarm:
    """A store with a Swarm of some tasks, ten a service, and the answers of one agent to questions about it."""

    def __init__(self, tasks: int, folder: Path) -> None:
        """Start the store, and write what is there from the beginning."""
        world = worlds.stacks(tasks)
        self._verified = controllers(world)
        graph = index(self._verified)
        self.nodes = Nodes(world, graph)
        self.count = len(world.nodes)
        self._etcd = EtcdServer(folder)
        self._store = Store([self._etcd.__enter__().endpoint], RecordSigner.reader(KEYRING))
        write(self._store, self.nodes.once())
        desired: Any = SimpleNamespace(graph=graph, verified=self._verified, trust=SimpleNamespace(held=""))
        running = Running(desired, lambda: None, lambda _revision: 60.0)
        self.answers = Answers(self._store, worlds.CLUSTER, folder, folder, running)
        IdleCollector().collect(time.monotonic())  # as in an agent, no collection goes over what stays

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._store.close()
        self._etcd.__exit__(None, None, None)

    def read(self, count: int | None = None) -> None:
        """Let all nodes read their devices again, or the first so many."""
        write(self._store, self.nodes.readings(count))


def _mib(name: str, file: Path = Path("/proc/self/status")) -> float:
    (found,) = re.findall(rf"{name}:\s+(\d+) kB", file.read_text())
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


def _agent(swarm: Swarm, links: int, name: str, query: Mapping[str, Any]) -> None:
    """Print what an answer costs the agent: asked for the first time, again, and when a tenth of the nodes is new."""
    tenth = max(1, swarm.count // 10)
    costs: dict[str, list[dict[str, float]]] = {"first": [], "tenth new": [], "again": []}
    for _ in range(_TURNS):
        swarm.read()
        swarm.answers.forget()
        costs["first"].append(cost(swarm.answers, query))
        swarm.read(tenth)
        costs["tenth new"].append(cost(swarm.answers, query))
        costs["again"].append(cost(swarm.answers, query))
    for when, turns in costs.items():
        _say(links, f"agent, {name}, {when}", turns)


def _say(links: int, name: str, turns: list[dict[str, float]]) -> None:
    middle = {unit: statistics.median(each[unit] for each in turns) for unit in turns[0]}
    load, _, _ = os.getloadavg()
    told = ", ".join(f"{figure:.2f} {unit}" for unit, figure in middle.items())
    print(f"{links} links, {name}: {told} (load {load:.0f})", flush=True)


def measure(links: int, folder: Path) -> None:
    """Print what questions about some links cost the agent; medians of three."""
    with Swarm(links * 2, folder) as swarm:
        for name, query in (
            ("status", {"counted": True}),
            ("ps", {"totals": True}),
            ("ps in columns", {"columns": True}),
            ("ps in objects", {}),
        ):
            _agent(swarm, links, name, query)


if __name__ == "__main__":
    for size in map(int, sys.argv[1:] or ("100", "1000", "5000")):
        with tempfile.TemporaryDirectory(prefix="linkwire-bench-") as name:
            measure(size, Path(name))
