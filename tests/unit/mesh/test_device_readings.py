"""What a node has read of its devices, in parts: the same when put together, and of a bounded size."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.crypto.keys import PublicKey
from mesh.crypto.signed_envelope import MAX_BODY
from mesh.errors import InvalidRecordError
from mesh.model import codec, device_readings, keyspace
from mesh.model.device_readings import DeviceReading
from mesh.model.records import DeviceStatus, PeerStatus, Record, Refused, Status, View
from mesh.model.snapshot import Snapshot, Versioned

NODE = "n"


def device(task: int, peers: int) -> DeviceStatus:
    told = tuple(
        PeerStatus(
            PublicKey((task * 100_003 + n).to_bytes(32, "little")), n % 120 + 0.5, n * 977, n * 1013, "10.0.0.1:51820"
        )
        for n in range(peers)
    )
    return DeviceStatus(f"task{task}", PublicKey(task.to_bytes(32, "big")), told, (Refused("in", "s", 3),))


def shown(views: Sequence[View], status: Status | None = None) -> tuple[tuple[DeviceReading, ...], dict[str, str]]:
    """The devices of the node, and the parts that cannot be unpacked."""
    records: list[Record] = [status or Status(NODE, 7.0, ()), *views]
    found = {keyspace.key_of(record): Versioned(record, 1) for record in records}
    readings, invalid = device_readings.readings(Snapshot(1, True, MappingProxyType(found), MappingProxyType({})))
    return readings[NODE].devices, invalid


def read(*devices: DeviceStatus) -> tuple[DeviceReading, ...]:
    return tuple(map(device_readings.reading, devices))


@given(st.lists(st.integers(0, 5 * device_readings.PEERS // 2), max_size=4))
def test_what_is_packed_is_shown(sizes: list[int]) -> None:
    devices = tuple(device(task, peers) for task, peers in enumerate(sizes))
    views = device_readings.pack(NODE, 5.0, devices)
    assert shown(views) == (read(*devices), {})
    assert all(len(codec.encode(view)) < MAX_BODY / 2 for view in views)


def test_twenty_tasks_of_thousand_peers_fit() -> None:
    devices = tuple(device(task, 1000) for task in range(20))
    with pytest.raises(ValueError, match="bytes"):
        one_record(devices)
    views = device_readings.pack(NODE, 5.0, devices)
    assert shown(views) == (read(*devices), {})
    # So long a pause that the node writes no more than its share.
    written = sum(len(codec.encode(view)) for view in views)
    assert written / device_readings.pause(views) == pytest.approx(device_readings.BYTES_PER_S, rel=0.02)


def one_record(devices: tuple[DeviceStatus, ...]) -> None:
    """As it was before."""
    size = len(codec.encode(Status(NODE, 5.0, devices)))
    if size > MAX_BODY:
        raise ValueError(f"{size} bytes")


def test_parts_of_another_reading_count_for_nothing() -> None:
    devices = tuple(device(task, device_readings.PEERS) for task in range(3))
    before, after = device_readings.pack(NODE, 5.0, devices), device_readings.pack(NODE, 8.0, devices[:2])
    mixed = [after[0], before[1], before[2]]
    assert shown(mixed) == (read(devices[0]), {})


def test_undecodable_part_is_named_and_costs_nothing() -> None:
    good, bad = device_readings.pack(NODE, 5.0, [device(0, device_readings.PEERS), device(1, 1)])[:2]
    bomb = zlib.compress(b" " * (64 * device_readings.MAX_UNPACKED))
    other = device_readings.pack("m", 5.0, [device(1, 1)])[0].packed
    newer = zlib.compress(zlib.decompress(bad.packed).replace(b'"v":1', b'"v":2'))
    odd = [
        zlib.compress(zlib.decompress(bad.packed).replace(value, number))
        for value in (b'"handshake_age":0.5', b'"rx_bytes":0', b'"tx_bytes":0', b'"packets":3')
        for number in (value.partition(b":")[0] + b":" + text for text in (b"-1", b"1" + 19 * b"0", b"true"))
    ]
    for packed in (b"", b"no zlib", bad.packed[:-5], bomb, zlib.compress(b"{}"), other, newer, *odd):
        devices, invalid = shown([good, replace(bad, packed=packed)])
        assert devices == read(device(0, device_readings.PEERS))
        assert invalid == {"views/n/1": "views/n/1: cannot be unpacked"}
    with pytest.raises(InvalidRecordError, match="cannot be unpacked"):
        device_readings.unpack(replace(bad, packed=bomb))


def test_parts_beyond_an_honest_nodes_are_unread() -> None:
    (view,) = device_readings.pack(NODE, 5.0, [device(0, 1)])
    views = [replace(view, part=n, parts=10**9) for n in range(device_readings.MOST_PARTS + 50)]
    (shown_once,) = shown(views)[0]
    assert len(shown_once.peers) == device_readings.MOST_PARTS
