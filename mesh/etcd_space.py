"""The space that an etcd member's data takes: asked, and made smaller. One of the adapters that import etcd3.

etcd keeps every version of a key until its history is compacted, and a file that has grown until it is defragmented.
A member whose file has reached its quota raises the alarm NOSPACE and refuses every write until the alarm is
disarmed, whatever has become free meanwhile (etcd, Documentation/op-guide/maintenance.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from etcd3 import etcdrpc

from mesh import etcd_pages
from mesh.etcd import Link

_ASKING = 5.0
_DEFRAGMENTING = 120.0
"""Seconds: etcd answers nothing else while it copies its data."""
_DB_SIZE, _DB_SIZE_IN_USE = 3, 9  # fields of StatusResponse; the second came with etcd 3.4, after etcd3's stubs


@dataclass(frozen=True, slots=True)
class Space:
    """What one member says of its data.

    Attributes:
        size: bytes of its file.
        in_use: bytes of it that hold something; the rest is free for new data, or for a defragmentation to give back.
        alarm: whether it refuses writes for want of space.
        revision: of the store when it was asked.
    """

    size: int
    in_use: int
    alarm: bool
    revision: int


def space(link: Link) -> Space:
    """Ask a member, as its user root. Raises grpc.RpcError, as `Line.use` turns into ours."""
    numbers = etcd_pages.numbers(link.raw("Maintenance/Status", etcdrpc.StatusRequest(), _ASKING))
    active = etcdrpc.AlarmRequest(action=etcdrpc.AlarmRequest.GET, alarm=etcdrpc.NOSPACE)
    raised = link.maintenance.Alarm(active, timeout=_ASKING)
    size = numbers.get(_DB_SIZE, 0)
    alarm = any(one.alarm == etcdrpc.NOSPACE for one in raised.alarms)
    revision = link.page(b"\0", b"\1", 0).header.revision
    return Space(size, numbers.get(_DB_SIZE_IN_USE, size), alarm, revision)


def compact(link: Link, revision: int) -> None:
    """Forget all history up to a revision, and give its pages free. Raises grpc.RpcError."""
    link.compact(revision, _DEFRAGMENTING)


def defragment(link: Link) -> None:
    """Copy what is in use into a new file; the member answers nobody else meanwhile. Raises grpc.RpcError."""
    link.maintenance.Defragment(etcdrpc.DefragmentRequest(), timeout=_DEFRAGMENTING)


def disarm(link: Link) -> None:
    """Take the alarm back: writes are accepted again, as long as there is space. Raises grpc.RpcError."""
    alarms = link.maintenance.Alarm(
        etcdrpc.AlarmRequest(action=etcdrpc.AlarmRequest.GET, alarm=etcdrpc.NOSPACE), timeout=_ASKING
    ).alarms
    for one in alarms:
        request = etcdrpc.AlarmRequest(action=etcdrpc.AlarmRequest.DEACTIVATE, alarm=one.alarm, memberID=one.memberID)
        link.maintenance.Alarm(request, timeout=_ASKING)
