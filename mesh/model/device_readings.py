"""View of a node's devices, packed into records of bounded size and put together again. Pure.

The devices of a node of 200 tasks with 1,000 peers each exceed an etcd request, and 300 such nodes that write them
every few seconds fill etcd. So a view is compressed, cut into parts, and written less often the larger it is.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from types import MappingProxyType

from mesh.errors import InvalidRecordError
from mesh.model import codec, keyspace
from mesh.model.records import DeviceStatus, Status, View
from mesh.model.snapshot import Snapshot

PEERS = 2000
"""Most peers in a part: some 400 kB of JSON, of which compression leaves less than half."""
BYTES_PER_S = 4096
"""Average write rate of a node: 300 nodes make 150 MiB in the two minutes of history that etcd may keep."""
MOST_PARTS = 128
"""Parts of one node, 256,000 peers; without a limit a node could fill every reader's memory."""
MAX_UNPACKED = codec.MAX_BYTES
"""Bytes of an unpacked part; without a limit a small record could unpack to gigabytes."""


def pack(node: str, written: float, devices: Sequence[DeviceStatus]) -> tuple[View, ...]:
    """Pack a node's view into parts, at least one.

    Args:
        node: its id.
        written: seconds since the epoch by the node's clock, the same in all parts.
        devices: as observed.
    """
    packed = [zlib.compress(codec.encode(Status(node, written, part)), level=1) for part in _parts(devices)]
    return tuple(View(node, number, len(packed), written, part) for number, part in enumerate(packed))


def pause(views: Iterable[View]) -> float:
    """Return the seconds after which a node may write a view of this size again."""
    # A record's bytes are base64 in its JSON.
    return sum(len(view.packed) * 4 / 3 for view in views) / BYTES_PER_S


def unpack(view: View) -> tuple[DeviceStatus, ...]:
    """Unpack one part.

    Raises:
        InvalidRecordError: `pack` has not made it.
    """
    opened = zlib.decompressobj()
    try:
        plain = opened.decompress(view.packed, MAX_UNPACKED)
    except zlib.error:
        plain = b""
    if not opened.eof:
        raise InvalidRecordError(f"{keyspace.key_of(view)}: cannot be unpacked")
    status = codec.decode(keyspace.status(view.node), plain)
    return status.devices if isinstance(status, Status) else ()


def with_devices(snapshot: Snapshot) -> Snapshot:
    """Return a snapshot whose node statuses have the devices of their views.

    Parts that were not written at the time of the first one, or cannot be unpacked, are ignored: their devices are
    unknown.
    """
    views: dict[str, list[View]] = {}
    for view in snapshot.all(View):
        views.setdefault(view.node, []).append(view)
    records, invalid = dict(snapshot.records), dict(snapshot.invalid)
    for node, parts in views.items():
        key = keyspace.status(node)
        versioned = records.get(key)
        if versioned is None or not isinstance(versioned.record, Status):
            continue
        first = min(parts, key=lambda view: view.part)
        devices: list[DeviceStatus] = []
        for view in sorted(parts, key=lambda view: view.part):
            if view.written == first.written and view.part < min(first.parts, MOST_PARTS):
                try:
                    devices += unpack(view)
                except InvalidRecordError as error:
                    invalid[keyspace.key_of(view)] = str(error)
        status = replace(versioned.record, written=first.written, devices=_joined(devices))
        records[key] = replace(versioned, record=status)
    return replace(snapshot, records=MappingProxyType(records), invalid=MappingProxyType(invalid))


def _parts(devices: Sequence[DeviceStatus]) -> Iterator[tuple[DeviceStatus, ...]]:
    """Cut devices into parts by the number of peers; a device with more than PEERS is in several."""
    part: list[DeviceStatus] = []
    room = PEERS
    for device in devices:
        left, rest = device, device.peers
        while True:
            part.append(replace(left, peers=rest[:room]))
            rest, room = rest[room:], room - len(rest[:room])
            if not rest:
                break
            yield tuple(part)
            part, room = [], PEERS
            left = replace(device, refused=())
        if room <= 0:
            yield tuple(part)
            part, room = [], PEERS
    yield tuple(part)


def _joined(devices: Iterable[DeviceStatus]) -> tuple[DeviceStatus, ...]:
    """Join devices that were cut."""
    by_task: dict[str, DeviceStatus] = {}
    for device in devices:
        first = by_task.get(device.task)
        by_task[device.task] = device if first is None else replace(first, peers=first.peers + device.peers)
    return tuple(by_task.values())
