"""Netlink transport: one socket, requests one at a time, answers whole; RFC 3549, linux/netlink.h.

A socket belongs for ever to the network namespace of the thread that opened it, whichever thread uses it, and keeps
that namespace alive until it is closed.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import socket
import struct
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.errors import PortTakenError
from mesh.errors import DeviceNotFoundError, LinkwireError, NetnsGoneError, Retryable, Terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12
NETLINK_GENERIC = 16

# linux/netlink.h
NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP = 0x300
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLA_F_NESTED = 0x8000
_NLM_F_DUMP_INTR = 0x10
_NLM_F_CAPPED = 0x100
_NLM_F_ACK_TLVS = 0x200
_NLA_TYPE_MASK = 0x3FFF
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLMSGERR_ATTR_MSG = 1
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_NETLINK_GET_STRICT_CHK = 12

_SIOCGIFINDEX = 0x8933  # linux/sockios.h
_IFREQ = struct.Struct("16si20x")
"""struct ifreq with the name and the index of a device; 40 bytes on 64-bit processors."""
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ANSWER_SECONDS = 10.0
_RECEIVE_BYTES = 1 << 17
"""More than the kernel puts into one datagram of a dump (32 KiB, net/netlink/af_netlink.c)."""
_DUMP_ATTEMPTS = 10

TRY_AGAIN = frozenset(
    {errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ENETDOWN, errno.ENOBUFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
)
"""Errors of a kernel, or of a process, that is short of something for the moment."""


@dataclass(frozen=True, slots=True)
class Message:
    """One netlink message, header included."""

    kind: int
    flags: int
    raw: bytes

    @property
    def payload(self) -> memoryview:
        """The bytes after the header."""
        return memoryview(self.raw)[_HEADER.size :]


def subscribed(protocol: int, *groups: int, buffer_bytes: int = 0) -> socket.socket:
    """Open a socket of the calling thread's network namespace that hears of changes, and never blocks.

    Args:
        protocol: NETLINK_ROUTE or NETLINK_NETFILTER.
        groups: of changes.
        buffer_bytes: that the kernel keeps until they are read; 0 for as many as it has by default.

    Raises:
        OSError: the kernel does not tell of them.
    """
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    try:
        made.bind((0, 0))
        if buffer_bytes:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        for group in groups:
            made.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
        made.setblocking(False)
    except OSError:
        made.close()
        raise
    return made


class Subscription:
    """Subscription that is tried again each time it is asked for, until the kernel gives it. For one thread.

    Args:
        subscribe: opens its socket. Raises LinkwireError.
        failed: called once, with the first error in a row.
    """

    def __init__(self, subscribe: Callable[[], socket.socket], failed: Callable[[LinkwireError], None]) -> None:
        self._subscribe = subscribe
        self._failed = failed
        self._socket: socket.socket | None = None
        self._has_failed = False

    def socket(self) -> socket.socket | None:
        """Return the socket, which never blocks; None while the kernel does not tell of changes.

        Ask for it before each look: a change that comes between the two is then told or seen.
        """
        if self._socket is None:
            try:
                self._socket = self._subscribe()
                self._has_failed = False
            except LinkwireError as error:
                if not self._has_failed:
                    self._failed(error)
                self._has_failed = True
        return self._socket

    def close(self) -> None:
        """Close the socket. May be called twice."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class NetlinkSocket:
    """A netlink socket of the calling thread's network namespace. Safe to share between threads.

    Args:
        protocol: NETLINK_ROUTE or NETLINK_GENERIC.
    """

    def __init__(self, protocol: int) -> None:
        self._lock = threading.Lock()
        self._sequence = itertools.count(1)
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.bind((0, 0))
        self._socket.settimeout(_ANSWER_SECONDS)
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
            try:
                self._socket.setsockopt(_SOL_NETLINK, option, 1)
            except OSError as error:
                # Comforts of Linux 4.3, 4.12 and 4.20: error texts and dumps that the kernel filters for us.
                if error.errno != errno.ENOPROTOOPT:
                    raise

    def request(self, kind: int, payload: bytes, flags: int = 0) -> list[Message]:
        """Send one message and return what the kernel answers before its acknowledgement.

        Args:
            kind: nlmsg_type.
            payload: what follows the netlink header.
            flags: such as NLM_F_CREATE, to be added to NLM_F_REQUEST and NLM_F_ACK.

        Raises:
            OSError: the kernel refused; the text is the kernel's own where it gives one.
            NetnsGoneError: the socket was closed.
            Retryable: no answer came.
        """
        with self._lock:
            return self._exchange(kind, payload, flags | NLM_F_REQUEST | NLM_F_ACK)

    def dump(self, kind: int, payload: bytes) -> list[Message]:
        """Send one message that asks for a list, and return all of the list, as it was at one moment.

        Raises:
            OSError: the kernel refused.
            NetnsGoneError: the socket was closed.
            Retryable: no answer came, or the list changed each time while it was read.
        """
        with self._lock:
            for _ in range(_DUMP_ATTEMPTS):
                answer = self._exchange(kind, payload, NLM_F_REQUEST | NLM_F_DUMP)
                if not any(message.flags & _NLM_F_DUMP_INTR for message in answer):
                    return answer
        raise Retryable("the kernel's tables changed each time they were read")

    def device_index(self, name: str) -> int:
        """Look up the number of a device of the namespace, without the lock of all devices that a request waits for.

        Raises:
            OSError: ENODEV, there is no such device.
            NetnsGoneError: the socket was closed.
        """
        with self._lock:
            self._check_open()
            answer = fcntl.ioctl(self._socket, _SIOCGIFINDEX, _IFREQ.pack(name.encode(), 0))
        return int(_IFREQ.unpack(answer)[1])

    def close(self) -> None:
        """Close the socket, and so let go of its network namespace. May be called twice."""
        with self._lock:
            self._socket.close()

    def _check_open(self) -> None:
        if self._socket.fileno() < 0:
            raise NetnsGoneError("the network namespace was closed while it was worked in")

    def _exchange(self, kind: int, payload: bytes, flags: int) -> list[Message]:
        self._check_open()
        sequence = next(self._sequence) & 0xFFFFFFFF
        self._socket.send(_HEADER.pack(_HEADER.size + len(payload), kind, flags, sequence, 0) + payload)
        answer: list[Message] = []
        while True:
            try:
                datagram = self._socket.recv(_RECEIVE_BYTES)
            except TimeoutError as error:
                raise Retryable(f"no answer from the kernel within {_ANSWER_SECONDS:.0f} s") from error
            for message, of_sequence in _messages(datagram):
                if of_sequence != sequence:  # the late answer to a request that was given up
                    continue
                if message.kind in (_NLMSG_ERROR, _NLMSG_DONE):
                    _raise_if_failed(message)
                    return answer
                answer.append(message)


def attribute(kind: int, payload: bytes) -> bytes:
    """Encode one attribute, padded to four bytes (linux/netlink.h, struct nlattr).

    Args:
        kind: nla_type; or-ed with NLA_F_NESTED when the payload is attributes itself.
        payload: at most 65,531 bytes.
    """
    return _ATTRIBUTE.pack(len(payload) + _ATTRIBUTE.size, kind) + payload + bytes(-len(payload) % 4)


def attributes(buffer: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Iterate over the attributes in a buffer, as (type without flags, payload)."""
    offset = 0
    while offset + _ATTRIBUTE.size <= len(buffer):
        length, kind = _ATTRIBUTE.unpack_from(buffer, offset)
        if length < _ATTRIBUTE.size or offset + length > len(buffer):
            raise Terminal("the kernel sent an attribute longer than its message")
        yield kind & _NLA_TYPE_MASK, buffer[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3


def text_attribute(kind: int, text: str) -> bytes:
    """Encode an attribute of text, which the kernel has end with a zero."""
    return attribute(kind, text.encode() + b"\0")


def text(value: memoryview | None) -> str:
    """Decode an attribute of text; empty for none."""
    return bytes(value).rstrip(b"\0").decode(errors="replace") if value is not None else ""


def number(value: memoryview | None) -> int:
    """Decode an attribute that is a number in the processor's order; 0 for none."""
    return int.from_bytes(value, sys.byteorder) if value is not None else 0


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turn an OSError of the kernel into the error the caller acts on.

    Args:
        doing: what was tried, to follow "cannot".

    Raises:
        DeviceNotFoundError: ENODEV.
        PortTakenError: EADDRINUSE.
        Retryable: the kernel was short of something for the moment.
        Terminal: anything else.
    """
    try:
        yield
    except OSError as error:
        reason = f"cannot {doing}: {error.strerror or error}"
        if error.errno == errno.ENODEV:
            raise DeviceNotFoundError(reason) from error
        if error.errno == errno.EADDRINUSE:
            raise PortTakenError(reason) from error
        if error.errno in TRY_AGAIN:
            raise Retryable(reason) from error
        if error.errno == errno.EPERM:
            raise Terminal(f"{reason} (the agent needs NET_ADMIN and SYS_ADMIN)") from error
        raise Terminal(reason) from error


def _messages(datagram: bytes) -> Iterator[tuple[Message, int]]:
    offset = 0
    while offset + _HEADER.size <= len(datagram):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(datagram, offset)
        if length < _HEADER.size or offset + length > len(datagram):
            raise Terminal("the kernel sent a message longer than its datagram")
        yield Message(kind, flags, datagram[offset : offset + length]), sequence
        offset += (length + 3) & ~3


def _raise_if_failed(message: Message) -> None:
    """Both NLMSG_ERROR and NLMSG_DONE begin with a negative errno or 0; a done without one is a success."""
    payload = message.payload
    code = -struct.unpack_from("=i", payload)[0] if len(payload) >= 4 else 0  # noqa: PLR2004 - sizeof(int)
    if code:
        raise OSError(code, _kernels_text(message) or os.strerror(code))


def _kernels_text(message: Message) -> str:
    if message.kind != _NLMSG_ERROR or not message.flags & _NLM_F_ACK_TLVS:
        return ""
    # struct nlmsgerr: the errno, the header of the request and, unless capped, the request itself.
    echoed = _HEADER.size if message.flags & _NLM_F_CAPPED else _HEADER.unpack_from(message.payload, 4)[0]
    for kind, value in attributes(message.payload[4 + ((echoed + 3) & ~3) :]):
        if kind == _NLMSGERR_ATTR_MSG:
            return text(value)
    return ""
