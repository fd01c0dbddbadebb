"""What a node has read of its devices, packed into records of a bounded size, and put together again. Pure.

A node of 200 tasks with 1,000 peers each has more to say than etcd takes in a request, and 300 nodes that say all of
it every few seconds fill etcd. So it is compressed, cut into parts, and said as seldom as its size asks for.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from mesh import codec, keyspace
from mesh.errors import InvalidRecord
from mesh.records import DeviceStatus, Status, View
from mesh.snapshot import Snapshot

PEERS = 2000
"""Most peers in a part: some 400 kB of JSON, of which compression leaves less than half."""
BYTES_PER_S = 4096
"""What a node writes of its devices on average: 300 nodes make 150 MiB in the two minutes that etcd may keep."""
MOST_PARTS = 128
"""Of one node, 256,000 peers: who writes them could have there be any number."""
MAX_UNPACKED = codec.MAX_BYTES
"""Bytes that a part may become: who writes it could have it stand for much more."""


def pack(node: str, written: float, devices: Sequence[DeviceStatus]) -> tuple[View, ...]:
    """Make the parts of a node's view, at least one.

    Args:
        node: its id.
        written: seconds since the epoch of the node's clock, the same in all parts.
        devices: as read back.
    """
    packed = [zlib.compress(codec.encode(Status(node, written, part)), level=1) for part in _parts(devices)]
    return tuple(View(node, number, len(packed), written, part) for number, part in enumerate(packed))


def pause(views: Iterable[View]) -> float:
    """Seconds until a node may say so much again."""
    # A record's bytes are base64 in its JSON.
    return sum(len(view.packed) * 4 / 3 for view in views) / BYTES_PER_S


def unpack(view: View) -> tuple[DeviceStatus, ...]:
    """Read one part.

    Raises:
        InvalidRecord: it is not what `pack` makes.
    """
    opened = zlib.decompressobj()
    try:
        plain = opened.decompress(view.packed, MAX_UNPACKED)
    except zlib.error:
        plain = b""
    if not opened.eof:
        raise InvalidRecord(f"{keyspace.key_of(view)}: cannot be unpacked")
    status = codec.decode(keyspace.status(view.node), plain)
    return status.devices if isinstance(status, Status) else ()


def with_devices(snapshot: Snapshot) -> Snapshot:
    """A snapshot whose nodes' statuses have the devices that their views show.

    Parts that were written at another time than the first, or cannot be unpacked, count for nothing: what they would
    show is unknown.
    """
    views: dict[str, list[View]] = {}
    for view in snapshot.all(View):
        views.setdefault(view.node, []).append(view)
    records, invalid = dict(snapshot.records), dict(snapshot.invalid)
    for node, parts in views.items():
        key = keyspace.status(node)
        found = records.get(key)
        if found is None or not isinstance(found.record, Status):
            continue
        first = min(parts, key=lambda view: view.part)
        devices: list[DeviceStatus] = []
        for view in sorted(parts, key=lambda view: view.part):
            if view.written == first.written and view.part < min(first.parts, MOST_PARTS):
                try:
                    devices += unpack(view)
                except InvalidRecord as error:
                    invalid[keyspace.key_of(view)] = str(error)
        status = replace(found.record, written=first.written, devices=_joined(devices))
        records[key] = replace(found, record=status)
    return replace(snapshot, records=MappingProxyType(records), invalid=MappingProxyType(invalid))


def _parts(devices: Sequence[DeviceStatus]) -> Iterator[tuple[DeviceStatus, ...]]:
    """Cut by the number of peers; a device with more than a part holds is in several."""
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
    """Devices that were cut, whole again."""
    by_task: dict[str, DeviceStatus] = {}
    for device in devices:
        before: Mapping[str, DeviceStatus] = by_task
        known = before.get(device.task)
        whole = device if known is None else replace(known, peers=known.peers + device.peers)
        by_task[device.task] = whole
    return tuple(by_task.values())
