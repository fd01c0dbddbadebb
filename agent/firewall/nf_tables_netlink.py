"""nf_tables netlink: generation, tables and counters of a namespace's nftables: linux/netfilter/nf_tables.h."""

from __future__ import annotations

import errno
import socket
import struct
from typing import Literal

from agent.linux import netlink_socket
from agent.linux.netlink_socket import NETLINK_NETFILTER, attribute, attributes, explained, text, text_attribute
from agent.linux.netns import TaskNetns
from mesh.errors import Terminal

_NF_TABLES = 10 << 8  # NFNL_SUBSYS_NFTABLES, linux/netfilter/nfnetlink.h
_GET_TABLE, _GET_CHAIN, _GET_RULE, _GET_GENERATION, _GET_OBJECT = (
    _NF_TABLES | number for number in (1, 4, 7, 16, 19)
)
"""NFT_MSG_GET..."""
_GROUP_NFTABLES = 7  # NFNLGRP_NFTABLES, linux/netfilter/nfnetlink.h
_FAMILY = {"any": 0, "inet": 1, "netdev": 5, "bridge": 7}  # linux/netfilter.h
_HEADER = struct.Struct("=BBH")  # struct nfgenmsg
_TABLE_NAME = 1
_CHAIN_TABLE, _CHAIN_NAME = 1, 3
_GEN_ID = 1
_OBJ_TABLE, _OBJ_NAME, _OBJ_TYPE, _OBJ_DATA = 1, 2, 3, 4
_COUNTER = 1  # NFT_OBJECT_COUNTER
_COUNTER_PACKETS = 2


def generation(netns: TaskNetns) -> int:
    """Read the number that every change of the namespace's nftables raises, whoever makes it.

    Raises:
        NetnsGoneError, Retryable.
        Terminal: the kernel has no nf_tables.
    """
    with explained("ask for the generation of nftables"):
        answer = netns.socket(NETLINK_NETFILTER).request(_GET_GENERATION, _HEADER.pack(_FAMILY["any"], 0, 0))
    for message in answer:
        for kind, value in attributes(message.payload[_HEADER.size :]):
            if kind == _GEN_ID:
                return int.from_bytes(value, "big")
    raise Terminal("the kernel tells no generation of nftables; Linkwire needs Linux 5.2 or newer")


def exists(netns: TaskNetns, table: str) -> bool:
    """Tell whether there is a table of that name of the family inet. Raises as `generation`."""
    wanted = text_attribute(_TABLE_NAME, table)
    with explained("ask for a table of nftables"):
        try:
            netns.socket(NETLINK_NETFILTER).request(_GET_TABLE, _HEADER.pack(_FAMILY["inet"], 0, 0) + wanted)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return False
            raise
    return True


def chains(netns: TaskNetns, family: Literal["netdev", "bridge"], table: str) -> frozenset[str]:
    """List the chains of a table, by name. Raises as `generation`."""
    with explained("list the chains of nftables"):
        request = _HEADER.pack(_FAMILY[family], 0, 0)
        answer = netns.socket(NETLINK_NETFILTER).dump(_GET_CHAIN, request)
    values = (dict(attributes(message.payload[_HEADER.size :])) for message in answer)
    return frozenset(text(one[_CHAIN_NAME]) for one in values if text(one[_CHAIN_TABLE]) == table)


def counted(netns: TaskNetns, table: str) -> dict[str, int]:
    """Read the packets that each named counter of a table of the family inet has counted. Raises as `generation`."""
    wanted = text_attribute(_OBJ_TABLE, table) + attribute(_OBJ_TYPE, struct.pack(">I", _COUNTER))
    with explained("read the counters of nftables"):
        answer = netns.socket(NETLINK_NETFILTER).dump(_GET_OBJECT, _HEADER.pack(_FAMILY["inet"], 0, 0) + wanted)
    counts: dict[str, int] = {}
    for message in answer:
        values = dict(attributes(message.payload[_HEADER.size :]))
        # Kernels before 4.20 have no filter for dumps: they list what others have, too.
        if text(values[_OBJ_TABLE]) == table and int.from_bytes(values[_OBJ_TYPE], "big") == _COUNTER:
            data = dict(attributes(values[_OBJ_DATA]))
            counts[text(values[_OBJ_NAME])] = int.from_bytes(data[_COUNTER_PACKETS], "big")
    return counts


def listed(netns: TaskNetns, table: str) -> tuple[bytes, ...]:
    """List chains and rules of a table of the family inet in the kernel's form: equal until one is changed.

    Raises as `generation`.
    """
    request = _HEADER.pack(_FAMILY["inet"], 0, 0) + text_attribute(_TABLE_NAME, table)
    with explained("list the rules of nftables"):
        answers = [netns.socket(NETLINK_NETFILTER).dump(kind, request) for kind in (_GET_CHAIN, _GET_RULE)]
    every = (bytes(message.payload[_HEADER.size :]) for answer in answers for message in answer)
    # NFTA_CHAIN_TABLE and NFTA_RULE_TABLE are both 1. Not every kernel filters such a list.
    return tuple(payload for payload in every if text(dict(attributes(memoryview(payload)))[_TABLE_NAME]) == table)


def subscribed(netns: TaskNetns) -> socket.socket:
    """Open a socket that is readable after every change of the namespace's nftables; what it reads means nothing.

    Raises NetnsGoneError; Terminal where the kernel does not tell of them.
    """
    with explained("follow the changes of nftables"):
        return netns.run(lambda: netlink_socket.subscribed(NETLINK_NETFILTER, _GROUP_NFTABLES))
