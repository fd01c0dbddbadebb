"""Disk space of an etcd member: measured, compacted, defragmented, its alarm disarmed.

etcd keeps every version of a key until its history is compacted, and a file that has grown until it is defragmented.
A member whose file has reached its quota raises the alarm NOSPACE and refuses every write until the alarm is
disarmed, even when space has become free (etcd, Documentation/op-guide/maintenance.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mesh.store import range_response
from mesh.store.etcd_channel import Channel, rpc

_ASKING = 5.0
_DEFRAGMENTING = 120.0
"""Seconds; etcd answers no other request while it copies its data."""
_DB_SIZE, _DB_SIZE_IN_USE = 3, 9  # fields of StatusResponse; the second came with etcd 3.4, after etcd3's stubs


@dataclass(frozen=True, slots=True)
class Space:
    """Disk space of one member.

    Attributes:
        size: bytes of its file.
        in_use: bytes of it in use; the rest is free for new data, or is given back by a defragmentation.
        alarm: whether it refuses writes for lack of space.
        revision: the store's, at the time of the measurement.
    """

    size: int
    in_use: int
    alarm: bool
    revision: int


def space(link: Channel) -> Space:
    """Measure a member's space as its user root. Raises grpc.RpcError, which `ChannelPool.use` translates."""
    numbers = range_response.numbers(link.raw("Maintenance/Status", rpc.StatusRequest(), _ASKING))
    alarm = any(each.alarm == rpc.NOSPACE for each in _alarms(link))
    size = numbers.get(_DB_SIZE, 0)
    revision = link.page(b"\0", b"\1", 0).header.revision
    return Space(size, numbers.get(_DB_SIZE_IN_USE, size), alarm, revision)


def compact(link: Channel, revision: int) -> None:
    """Delete all history up to a revision and free its pages. Raises grpc.RpcError."""
    link.compact(revision, _DEFRAGMENTING)


def defragment(link: Channel) -> None:
    """Copy the data into a new file; the member answers no other request meanwhile. Raises grpc.RpcError."""
    link.maintenance.Defragment(rpc.DefragmentRequest(), timeout=_DEFRAGMENTING)


def disarm(link: Channel) -> None:
    """Disarm the alarm: writes are accepted again as long as there is space. Raises grpc.RpcError."""
    for each in _alarms(link):
        request = rpc.AlarmRequest(action=rpc.AlarmRequest.DEACTIVATE, alarm=each.alarm, memberID=each.memberID)
        link.maintenance.Alarm(request, timeout=_ASKING)


def _alarms(link: Channel) -> Any:  # noqa: ANN401 - etcd3 is not typed
    request = rpc.AlarmRequest(action=rpc.AlarmRequest.GET, alarm=rpc.NOSPACE)
    return link.maintenance.Alarm(request, timeout=_ASKING).alarms
