"""libnftables, on a table of rules in a task's network namespace: the only place that calls it.

A context of libnftables is a netlink socket with a parser and a copy of what it last listed. It is made in the
namespace for each call and freed after it: that costs 0.5 ms and more for a long listing (measured, nftables 1.0.6),
and a kept one costs 0.7 MB for 100 peers and more, as long as the task lives, and would keep its namespace from
ending. The library says nothing of threads: one of them calls it at a time.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TypeVar

from agent import rules as ruleset
from agent.netns import TaskNetns, in_scratch_netns
from agent.rules import Rules, Table
from mesh.errors import LinkwireError, Retryable, Terminal
from mesh.policy import Allow, Balance, Policy
from mesh.ports import PortRange

T = TypeVar("T")

_LIBRARY = "libnftables.so.1"
_OUTPUT = 1 << 4 | 1 << 7  # NFT_CTX_OUTPUT_JSON, NFT_CTX_OUTPUT_NUMERIC_PROTO, nftables/libnftables.h
_NETLINK_NETFILTER = 12  # linux/netlink.h
_LONGEST_TEXT = 300
# The table was changed by somebody else between the look at it and the change, or the kernel is short of something.
_TRY_AGAIN = tuple(
    os.strerror(code)
    for code in (errno.ENOENT, errno.EEXIST, errno.EBUSY, errno.EINTR, errno.EAGAIN, errno.ENOMEM, errno.ENOBUFS)
)
_NO_TABLE = os.strerror(errno.ENOENT)

# One of each thing that the rules are made of, as nft(8) writes it, each on top of those before it.
_NEEDED: Mapping[str, str] = {
    "tables for both families (NF_TABLES_INET)": "add table inet linkwire; add chain inet linkwire c",
    "address translation (NFT_NAT)": "add chain inet linkwire n { type nat hook output priority -100; }; "
    "add rule inet linkwire n ip daddr 192.0.2.1 dnat ip to 192.0.2.2",
    "random choice (NFT_NUMGEN)": "add rule inet linkwire c ct mark set numgen random mod 2",
    "connection tracking (NFT_CT)": "add rule inet linkwire c ct state related ct direction reply accept",
    "look-up of local addresses (NFT_FIB_INET)": "add rule inet linkwire c fib daddr type local accept",
    "named counters (NF_TABLES)": "add counter inet linkwire k; add rule inet linkwire c counter name k",
    "maps of verdicts (NF_TABLES)": "add rule inet linkwire c ip saddr vmap { 192.0.2.1 : accept }",
    "sets of ranges (NF_TABLES)": "add rule inet linkwire c tcp dport { 1, 5-9 } accept",
    "refusal with an answer (NFT_REJECT_INET)": "add rule inet linkwire c reject with icmpx port-unreachable",
}
_PEERS = (IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2"))
_PORTS = (PortRange("tcp", 1, 1), PortRange("tcp", 5, 9), PortRange("udp", 1, 9))
_EVERYTHING = Policy(
    subnet=IPv4Network("192.0.2.0/24"),
    subnet6=IPv6Network("2001:db8::/96"),
    balance=(Balance(IPv4Address("192.0.2.8"), _PEERS), Balance(IPv4Address("192.0.2.9"), _PEERS[:1])),
    outbound=(Allow("one", _PEERS, _PORTS),),
    inbound=(Allow("all", (IPv4Address("192.0.2.3"),), None), Allow("one", _PEERS[:1], ())),
    apart=(IPv4Address("198.51.100.1"), IPv6Address("2001:db8:1::1"), IPv6Address("2001:db8:1::2")),
)

_calls = threading.Lock()


class _Refused(Exception):  # noqa: N818 - never leaves this module
    """libnftables did not do it; the text is its own."""


class Context:
    """libnftables in the network namespace of the thread that makes it, until `close`.

    Raises:
        Retryable: the process has no descriptor left.
        Terminal: there is no libnftables, or no nf_tables in the kernel.
    """

    def __init__(self) -> None:
        self._library = _library()
        _check_socket()
        with _calls:
            self._context: int = self._library.nft_ctx_new(0)
            self._library.nft_ctx_output_set_flags(self._context, _OUTPUT)
            self._library.nft_ctx_buffer_output(self._context)
            self._library.nft_ctx_buffer_error(self._context)

    def run(self, command: str) -> str:
        """Give it a command and get its output. Raises _Refused."""
        with _calls:
            failed = self._library.nft_run_cmd_from_buffer(self._context, command.encode())
            output: bytes = self._library.nft_ctx_get_output_buffer(self._context)
            said: bytes = self._library.nft_ctx_get_error_buffer(self._context)
        if failed:
            raise _Refused(_in_one_line(said.decode(errors="replace")))
        return output.decode(errors="replace")

    def close(self) -> None:
        """Free it. To be called once."""
        with _calls:
            self._library.nft_ctx_free(self._context)


def read(netns: TaskNetns) -> Table | None:
    """The table as it is, or None when there is none. Raises NetnsGone, Retryable, Terminal."""
    return _in(netns, _read)


def apply(netns: TaskNetns, rules: Rules) -> None:
    """Make the table be these rules, at once; nothing is done to a table that is them.

    Raises:
        NetnsGone, Retryable.
        Terminal: the kernel does not take them.
    """
    _in(netns, lambda context: _apply(context, rules))


def remove(netns: TaskNetns) -> None:
    """Take the table away, if it is there. Raises NetnsGone, Retryable, Terminal."""
    _in(netns, _remove)


def require() -> None:
    """Try in a namespace of its own all that the rules need.

    Raises:
        Terminal: the node lacks some of it; the text says what.
        Retryable: it could not be tried.
    """
    if lacking := in_scratch_netns(lambda: _with_context(lambda context: _lacking(context, _NEEDED))):
        raise Terminal(f"nftables of this node cannot do what links need: {'; '.join(lacking)}")
    in_scratch_netns(lambda: _with_context(_try_everything))


def _lacking(context: Context, needed: Mapping[str, str]) -> list[str]:
    """What of it the kernel does not take, and why."""
    lacking = []
    for what, command in needed.items():
        try:
            context.run(command)
        except _Refused as error:
            lacking.append(f"{what}: {error}")
    return lacking


def _try_everything(context: Context) -> None:
    meant = ruleset.render(_EVERYTHING, "lw0")
    _apply(context, meant)
    table = _read(context)
    differing = sorted(set(meant).symmetric_difference(table.rules if table else ()))
    if differing:
        raise Terminal(f"libnftables lists rules in a form that is not understood: {differing[0][:_LONGEST_TEXT]}")


def _in(netns: TaskNetns, work: Callable[[Context], T]) -> T:
    done = netns.run(lambda: _with_context(work))
    netns.check()
    return done


def _with_context(work: Callable[[Context], T]) -> T:
    with closing(Context()) as context:
        return work(context)


def _read(context: Context) -> Table | None:
    try:
        return ruleset.parse(context.run(ruleset.request()))
    except _Refused as error:
        if _NO_TABLE in str(error):
            return None
        raise _explained("read the rules", error) from error


def _apply(context: Context, rules: Rules) -> None:
    present = _read(context)
    if present is None or present.rules != rules:
        _run(context, ruleset.transaction(rules, present.rules if present else None), "set the rules")


def _remove(context: Context) -> None:
    if _read(context) is not None:
        _run(context, ruleset.removal(), "remove the rules")


def _run(context: Context, command: str, doing: str) -> None:
    try:
        context.run(command)
    except _Refused as error:
        raise _explained(doing, error) from error


def _explained(doing: str, error: _Refused) -> LinkwireError:
    text = f"cannot {doing} of the task: nftables says: {error}"
    if any(again in str(error) for again in _TRY_AGAIN):
        return Retryable(text)
    if os.strerror(errno.EPERM) in str(error):
        return Terminal(
            f"{text} (the agent needs NET_ADMIN, and a table that another program owns cannot be changed)"
        )
    return Terminal(text)


def _in_one_line(text: str) -> str:
    """What libnftables says is wrong, without the place in the command that it shows below each error."""
    errors = [line.partition("Error: ")[2] for line in text.splitlines() if "Error: " in line]
    said = "; ".join(dict.fromkeys(errors)) or " ".join(text.split())
    return said if len(said) <= _LONGEST_TEXT else f"{said[:_LONGEST_TEXT]}..."


def _check_socket() -> None:
    """Libnftables ends the process when it gets no socket (netlink.c, netlink_init_error): so try it first."""
    try:
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER).close()
    except OSError as error:
        if error.errno in {errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT}:
            raise Terminal("the kernel has no nf_tables: links need a kernel with CONFIG_NF_TABLES") from error
        raise Retryable(f"cannot open a netlink socket: {error.strerror}") from error


@cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise Terminal(f"{_LIBRARY} is not installed: the Debian package is libnftables1 ({error})") from error
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    library.nft_ctx_output_set_flags.restype = None
    library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
        getattr(library, name).restype = ctypes.c_char_p
    library.nft_ctx_free.restype = None
    library.nft_ctx_free.argtypes = [ctypes.c_void_p]
    return library
