"""Connection tracking of a task's namespace, by ctnetlink: linux/netfilter/nfnetlink_conntrack.h.

A connection keeps the backend that it was given for as long as anything is sent on it. Where that backend is gone for
good, a flow of datagrams would go nowhere for ever, and so would the next try from the same port.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address

from agent.linux.netlink_socket import NETLINK_NETFILTER, NLA_F_NESTED, attribute, attributes, explained
from agent.linux.netns import TaskNetns

# NFNL_SUBSYS_CTNETLINK; IPCTNL_MSG_CT_GET, _DELETE and _GET_STATS
_GET, _DELETE, _GET_STATS = 1 << 8 | 1, 1 << 8 | 2, 1 << 8 | 5
_HEADER = struct.Struct("=BBH")  # struct nfgenmsg
_ORIGINAL, _REPLY, _STATUS, _ID = 1, 2, 3, 12  # CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_STATUS, CTA_ID
_ENTRIES = 1  # CTA_STATS_GLOBAL_ENTRIES, of this namespace for all that
_SEEN_REPLY = 1 << 1  # IPS_SEEN_REPLY, linux/netfilter/nf_conntrack_common.h
_TUPLE_IP, _V4_SOURCE, _V6_SOURCE = 1, 1, 3  # CTA_TUPLE_IP, CTA_IP_V4_SRC, CTA_IP_V6_SRC

Address = IPv4Address | IPv6Address


def forget(netns: TaskNetns, is_gone: Callable[[Address], bool], *, unanswered: bool = False) -> int:
    """Forget the connections whose answers would come from an address that is gone.

    Args:
        netns: the task's.
        is_gone: asked of the address from which answers would come.
        unanswered: only those on which nothing has come back.

    Returns:
        How many there were.

    Raises:
        NetnsGoneError, Retryable, Terminal.
    """
    requests = list(_to_whoever_is(netns, is_gone, unanswered=unanswered))
    socket = netns.socket(NETLINK_NETFILTER)
    with explained("forget a connection to a task that is gone"):
        for request in requests:
            try:
                socket.request(_DELETE, request)
            except OSError as error:
                if error.errno != errno.ENOENT:  # it ended meanwhile
                    raise
    return len(requests)


def _to_whoever_is(netns: TaskNetns, is_gone: Callable[[Address], bool], *, unanswered: bool) -> Iterator[bytes]:
    """Return the requests that delete them."""
    if not _count(netns):
        return
    with explained("list the task's connections"):
        answer = netns.socket(NETLINK_NETFILTER).dump(_GET, _HEADER.pack(0, 0, 0))
    for message in answer:
        entry = dict(attributes(message.payload[_HEADER.size :]))
        if unanswered and int.from_bytes(entry.get(_STATUS, b""), "big") & _SEEN_REPLY:
            continue
        source = _source(entry.get(_REPLY))
        if source is not None and is_gone(source):
            named = attribute(_ORIGINAL | NLA_F_NESTED, bytes(entry[_ORIGINAL]))
            named += attribute(_ID, bytes(entry[_ID])) if _ID in entry else b""
            yield bytes(message.payload[: _HEADER.size]) + named


def _count(netns: TaskNetns) -> int:
    """Return how many there are at most.

    To list them, the kernel walks the table of all namespaces, which takes 9 ms where it has 262,144 buckets.
    """
    with explained("count the task's connections"):
        (answer,) = netns.socket(NETLINK_NETFILTER).request(_GET_STATS, _HEADER.pack(0, 0, 0))
    return int.from_bytes(dict(attributes(answer.payload[_HEADER.size :]))[_ENTRIES], "big")


def _source(reply: memoryview | None) -> Address | None:
    place = dict(attributes(dict(attributes(reply)).get(_TUPLE_IP, memoryview(b"")))) if reply is not None else {}
    if _V4_SOURCE in place:
        return IPv4Address(bytes(place[_V4_SOURCE]))
    return IPv6Address(bytes(place[_V6_SOURCE])) if _V6_SOURCE in place else None
