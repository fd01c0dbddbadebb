"""What 300 nodes tell of 33 tasks with 10 peers each, in a real etcd of 256 MiB, minute after simulated minute.

Data lies in memory, and history is compacted one simulated minute behind, as `linkwire-etcd` has etcd do it.
LINKWIRE_SIMULATED_MINUTES makes it longer: a minute takes about a second.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import pytest

from mesh.crypto.keys import PublicKey
from mesh.crypto.signed_envelope import Signer, SigningKey, wrap
from mesh.errors import LinkwireError
from mesh.model import codec, device_readings, keyspace
from mesh.model.records import DeviceStatus, PeerStatus, Record, Status
from mesh.store.etcd_channel import ChannelPool
from tests.store.etcd_server import EtcdServer

from controller.etcd import space  # isort: skip  # after mesh.store.etcd_channel, which sets up protobuf

NODES, TASKS, PEERS = 300, 33, 10
QUOTA = 256 * 1024**2
MINUTES = int(os.environ.get("LINKWIRE_SIMULATED_MINUTES", "8"))
FILLED_BY = 4
"""Minutes after which all pages that are ever needed are there."""
STATUS_S = 3
MAX_BYTES, MAX_OPS = 900_000, 100

_RANDOM = Random(1)  # noqa: S311 - the same numbers each time
_SIGNER = Signer("cluster", SigningKey.generate())

Put = tuple[bytes, bytes, int]


@dataclass(frozen=True, slots=True)
class Said:
    """What one node writes, and every how many seconds."""

    puts: tuple[Put, ...]
    every: float


def node(number: int) -> str:
    return f"node{number:021d}"


def peer() -> PeerStatus:
    endpoint = f"10.0.{_RANDOM.randrange(256)}.{_RANDOM.randrange(256)}:{51820 + _RANDOM.randrange(2000)}"
    sent, received = _RANDOM.getrandbits(34), _RANDOM.getrandbits(34)
    return PeerStatus(PublicKey(_RANDOM.randbytes(32)), _RANDOM.random() * 120, sent, received, endpoint)


def status() -> Status:
    devices = tuple(
        DeviceStatus(f"task{n:021d}", PublicKey(_RANDOM.randbytes(32)), tuple(peer() for _ in range(PEERS)), ())
        for n in range(TASKS)
    )
    return Status(node(0), 1.0, devices, manifest=bytes(220))


def put(record: Record) -> Put:
    key = keyspace.key_of(record)
    return (keyspace.ROOT + key).encode(), wrap(_SIGNER, key, 1, codec.encode(record)), 0


def as_before(whole: Status) -> list[Said]:
    """All in one record every three seconds."""
    return [Said((put(whole),), STATUS_S)]


def as_now(whole: Status) -> list[Said]:
    views = device_readings.pack(whole.node, whole.written, whole.devices)
    vitals = Said((put(replace(whole, devices=())),), STATUS_S)
    return [vitals, Said(tuple(put(view) for view in views), device_readings.pause(views))]


def batches(puts: Iterator[Put]) -> Iterator[list[Put]]:
    """As a reporter writes, though many nodes in one: each key once in a batch."""
    batch: dict[bytes, Put] = {}
    for each in puts:
        batch[each[0]] = each
        if len(batch) == MAX_OPS or sum(len(value) for _, value, _ in batch.values()) > MAX_BYTES:
            yield list(batch.values())
            batch = {}
    yield list(batch.values())


def minutes(line: ChannelPool, nodes: list[list[Said]]) -> Iterator[int]:
    """The size of etcd's file after each simulated minute. Raises LinkwireError when etcd takes no more."""
    due = {
        (n, s): _RANDOM.random() * said.every for n, all_said in enumerate(nodes) for s, said in enumerate(all_said)
    }
    before = 0
    for minute in range(MINUTES):
        for now in range(minute * 60, minute * 60 + 60, STATUS_S):
            over = [at for at, when in due.items() if when <= now]
            due.update((at, now + nodes[at[0]][at[1]].every) for at in over)
            for batch in batches(each for n, s in over for each in nodes[n][s].puts):
                with line.use() as link:
                    link.commit([], batch, [])
        with line.use() as link:
            found = space.space(link)
            if before:
                space.compact(link, before)
        before = found.revision
        yield found.size


@pytest.fixture
def line() -> Iterator[ChannelPool]:
    with (
        tempfile.TemporaryDirectory(prefix="linkwire-growth-", dir="/dev/shm") as folder,
        EtcdServer(Path(folder), arguments=(f"--quota-backend-bytes={QUOTA}", "--snapshot-count=2000")) as server,
        closing(ChannelPool([server.target], 30.0)) as to,
    ):
        yield to


def everybody(said: Callable[[Status], list[Said]]) -> list[list[Said]]:
    models = [status() for _ in range(10)]
    return [said(replace(models[n % len(models)], node=node(n))) for n in range(NODES)]


def test_what_nodes_tell_does_not_fill_etcd(line: ChannelPool, figure: Callable[[str], None]) -> None:
    sizes = list(minutes(line, everybody(as_now)))
    mib = [size // 1024**2 for size in sizes]
    figure(f"etcd with {NODES} nodes of {TASKS} x {PEERS} peers, MiB after each simulated minute: {mib}")
    assert max(sizes) < QUOTA
    assert max(sizes[FILLED_BY:]) <= max(sizes[:FILLED_BY]) * 1.1, "it goes on growing"


def test_formerly_it_filled_within_minutes(line: ChannelPool) -> None:
    with pytest.raises(LinkwireError, match="database space exceeded"):
        list(minutes(line, everybody(as_before)))
