"""Members of etcd as a client sees them: each endpoint asked by itself, with no right beyond that of a reader."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from mesh.errors import LinkwireError
from mesh.identity.tls import Tls
from mesh.store import range_response
from mesh.store.etcd_channel import DIAL_TIMEOUT, Channel, ChannelPool, rpc
from mesh.store.etcd_member import EtcdMember

_DB_SIZE, _DB_SIZE_IN_USE = 3, 9  # fields of StatusResponse; the second came with etcd 3.4, after etcd3's stubs
_AT_ONCE = 8


def members(targets: Sequence[str], tls: Tls | None, probe: bytes) -> tuple[EtcdMember, ...]:
    """Ask every endpoint by itself, all at once, each for two seconds at most.

    Args:
        targets: the endpoints, `host:port`.
        tls: certificates of both sides; None for plain text.
        probe: a readable key.
    """
    with ThreadPoolExecutor(max_workers=_AT_ONCE) as workers:
        return tuple(workers.map(lambda target: _asked(target, tls, probe), targets))


def _asked(target: str, tls: Tls | None, probe: bytes) -> EtcdMember:
    member = EtcdMember(target)
    pool = ChannelPool((target,), DIAL_TIMEOUT, tls, probe)
    try:
        with pool.use() as channel:  # it has answered a read with quorum
            raw = channel.raw("Maintenance/Status", rpc.StatusRequest(), DIAL_TIMEOUT)
        status, numbers = rpc.StatusResponse.FromString(raw), range_response.numbers(raw)
        own, size = int(status.header.member_id), numbers.get(_DB_SIZE)
        in_use = numbers.get(_DB_SIZE_IN_USE, size)
        member = replace(member, is_leader=own == int(status.leader), size=size, in_use=in_use)
        with pool.use() as channel:
            return replace(member, name=_name(channel, own))
    except LinkwireError as error:
        # Where it has told of its state, etcd keeps to itself no more than the names.
        return member if member.size is not None else replace(member, problem=str(error))
    finally:
        pool.close()


def _name(channel: Channel, member: int) -> str:
    """Return a member's name. Raises grpc.RpcError, which `ChannelPool.use` translates."""
    raw = channel.raw("Cluster/MemberList", rpc.MemberListRequest(), DIAL_TIMEOUT)
    listed = rpc.MemberListResponse.FromString(raw).members
    return next((str(one.name) for one in listed if int(one.ID) == member), "")
