"""View of a node's devices, packed into records of bounded size and put together again. Pure.

The devices of a node of 200 tasks with 1,000 peers each exceed an etcd request, and 300 such nodes that write them
every few seconds fill etcd. So a view is compressed, cut into parts, and written less often the larger it is.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import msgspec

from mesh.errors import InvalidRecordError
from mesh.model import codec, keyspace
from mesh.model.compression import decompressed
from mesh.model.records import MOST_BROKEN, BrokenPeers, DeviceStatus, Status, View
from mesh.model.snapshot import Snapshot

PEERS = 2000
"""Most peers in a part: some 400 kB of JSON, of which compression leaves less than half."""
BYTES_PER_S = 4096
"""Average write rate of a node: 300 nodes make 150 MiB in the two minutes of history that etcd may keep."""
MOST_PARTS = 128
"""Parts of one node, 256,000 peers; without a limit a node could fill every reader's memory."""
MAX_UNPACKED = codec.MAX_BYTES
"""Bytes of an unpacked part; without a limit a small record could unpack to gigabytes."""

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""A counter of a device. A node may say any number; one that no device has would break every reader's answer."""
Seconds = Annotated[float, msgspec.Meta(ge=0, le=2**53)]


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


class PeerReading(msgspec.Struct, frozen=True, gc=False):
    """A peer as read, for readers of many: of a PeerStatus what links are described by. The key is in base64."""

    public_key: str
    handshake_age: Seconds | None
    rx_bytes: Count
    tx_bytes: Count


class RefusedReading(msgspec.Struct, frozen=True):
    """A counter of refused packets as read: Refused with a number that a counter can have."""

    direction: Literal["in", "out", "apart"]
    service: str
    packets: Count


class DeviceReading(msgspec.Struct, frozen=True):
    """A task's device as read, likewise."""

    task: str
    peers: tuple[PeerReading, ...]
    refused: tuple[RefusedReading, ...]


@dataclass(frozen=True, slots=True)
class NodeReading:
    """All devices of a node as read; `written` is by its clock, as Status.written."""

    written: float
    devices: tuple[DeviceReading, ...]


class _Part(msgspec.Struct):
    """The content of a view; further fields of it are not looked at."""

    node: str
    devices: tuple[DeviceReading, ...]
    v: int


def unpack(view: View) -> tuple[DeviceReading, ...]:
    """Unpack one part.

    Raises:
        InvalidRecordError: `pack` has not made it.
    """
    try:
        part = _DECODER.decode(decompressed(view.packed, MAX_UNPACKED))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        part = None
    if part is None or (part.node, part.v) != (view.node, codec.FORMAT):
        raise InvalidRecordError(f"{keyspace.key_of(view)}: cannot be unpacked")
    return part.devices


def bounded(found: Iterable[BrokenPeers | None]) -> tuple[BrokenPeers, ...]:
    """Return the broken peers of a node's tasks, by task, and no more than a status may name."""
    kept: list[BrokenPeers] = []
    room = MOST_BROKEN
    for each in sorted((each for each in found if each is not None), key=lambda each: each.task):
        if room <= 0:
            break
        kept.append(replace(each, peers=each.peers[:room]))
        room -= len(each.peers)
    return tuple(kept)


def readings(snapshot: Snapshot) -> tuple[dict[str, NodeReading], dict[str, str]]:
    """Return what was read of the devices of every node that has a status, and what cannot be unpacked, by its key.

    Parts that were not written at the time of the first one, or cannot be unpacked, are ignored: their devices are
    unknown. A node without views has the devices of its status.
    """
    views: dict[str, list[View]] = {}
    for view in snapshot.all(View):
        views.setdefault(view.node, []).append(view)
    found: dict[str, NodeReading] = {}
    invalid: dict[str, str] = {}
    for status in snapshot.all(Status):
        found[status.node], malformed = of_node(status, views.get(status.node, ()))
        invalid.update(malformed)
    return found, invalid


def of_node(status: Status, views: Iterable[View]) -> tuple[NodeReading, dict[str, str]]:
    """Return what was read of the devices of one node, as `readings` does of all.

    Args:
        status: the node's.
        views: the node's, in any order.
    """
    parts = sorted(views, key=lambda view: view.part)
    if not parts:
        return NodeReading(status.written, tuple(map(reading, status.devices))), {}
    first, devices, invalid = parts[0], list[DeviceReading](), dict[str, str]()
    for view in parts:
        if view.written == first.written and view.part < min(first.parts, MOST_PARTS):
            try:
                devices += unpack(view)
            except InvalidRecordError as error:
                invalid[keyspace.key_of(view)] = str(error)
    return NodeReading(first.written, _joined(devices)), invalid


def reading(device: DeviceStatus) -> DeviceReading:
    """Return a device as its view would give it."""
    peers = (PeerReading(str(p.public_key), p.handshake_age, p.rx_bytes, p.tx_bytes) for p in device.peers)
    refused = (RefusedReading(each.direction, each.service, each.packets) for each in device.refused)
    return DeviceReading(device.task, tuple(peers), tuple(refused))


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


def _joined(devices: Iterable[DeviceReading]) -> tuple[DeviceReading, ...]:
    """Join devices that were cut."""
    by_task: dict[str, DeviceReading] = {}
    for device in devices:
        first = by_task.get(device.task)
        joined = DeviceReading(device.task, first.peers + device.peers, first.refused) if first else device
        by_task[device.task] = joined
    return tuple(by_task.values())


_DECODER = msgspec.json.Decoder(_Part)
