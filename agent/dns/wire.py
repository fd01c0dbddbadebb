"""Codec of DNS messages: one question, its answer (RFC 1035, EDNS of RFC 6891). Pure: bytes in, bytes out.

Only what the rules turn to the responder is read (`agent.dns.ruleset`): a plain query of exactly one question, whose
name is written out in full. The bytes are a task's and may be anything.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address

_HEADER = struct.Struct(">HHHHHH")  # id, flags, then how many questions, answers, authorities, additionals
_QUESTION = struct.Struct(">HH")  # type, class
_RECORD = struct.Struct(">HHHIH")  # name (a pointer), type, class, TTL, length of the data
_QR, _AA, _RD, _RA = 0x8000, 0x0400, 0x0100, 0x0080
_OPCODE = 0x7800
_POINTER = 0xC000
_NAME_AT = 0xC00C  # a pointer to the question's name, which follows the header
_A, _AAAA, _OPT, _ANY = 1, 28, 41, 255  # IANA, DNS parameters
_IN = 1
_PLAIN_BYTES = 512
"""The most that a program takes which says nothing of it (RFC 1035, 4.2.1)."""
_MOST_BYTES = 1232
"""The most that passes unfragmented everywhere (DNS flag day 2020)."""
_MOST_NAME = 255
_MOST_LABEL = 63


class Rcode(IntEnum):
    """The response codes that are given (IANA, DNS RCODEs)."""

    NO_ERROR = 0
    NAME_ERROR = 3
    REFUSED = 5
    BAD_VERSION = 16


@dataclass(frozen=True, slots=True)
class Question:
    """A query of one question.

    Attributes:
        id: chosen by whoever asks.
        flags: of the header, as they came.
        name: the labels joined by dots, in lower case, without the last dot.
        kind: the type that is asked for (QTYPE).
        network: the class (QCLASS).
        raw: the question as it came, with the case that it has.
        room: bytes that the answer may have.
        edns: the version of EDNS that is spoken, None for none.
    """

    id: int
    flags: int
    name: str
    kind: int
    network: int
    raw: bytes
    room: int
    edns: int | None


def parse(message: bytes) -> Question | None:
    """Read a query; None for what is none, or holds anything but one question written out in full."""
    if len(message) < _HEADER.size:
        return None
    identifier, flags, questions, answers, authorities, additionals = _HEADER.unpack_from(message)
    if flags & (_QR | _OPCODE) or questions != 1 or answers or authorities:
        return None
    end = _end_of_name(message, _HEADER.size)
    if end is None or len(message) < end + _QUESTION.size:
        return None
    name = _dotted(message[_HEADER.size : end])
    kind, network = _QUESTION.unpack_from(message, end)
    end += _QUESTION.size
    room, edns = _PLAIN_BYTES, None
    if additionals and (spoken := _edns(message, end, additionals)) is not None:
        edns, size = spoken
        room = min(max(size, _PLAIN_BYTES), _MOST_BYTES)
    return Question(identifier, flags, name, kind, network, message[_HEADER.size : end], room, edns)


def answer(
    question: Question, rcode: Rcode, addresses: Sequence[IPv4Address | IPv6Address] = (), ttl: int = 0
) -> bytes:
    """Encode the answer to a question.

    Of more addresses than fit the first are given, and nothing says that there are more: that would have the program
    ask again by TCP, which is not answered here.

    Args:
        question: as it was read.
        rcode: whether there is such a name.
        addresses: all that the name has; those of the family that is asked for are given, in this order.
        ttl: seconds for which the answer may be kept.
    """
    if question.edns:
        rcode, addresses = Rcode.BAD_VERSION, ()
    if question.network not in (_IN, _ANY):
        rcode, addresses = (Rcode.REFUSED if rcode is not Rcode.BAD_VERSION else rcode), ()
    opt = b"" if question.edns is None else _opt(rcode)
    room = question.room - _HEADER.size - len(question.raw) - len(opt)
    records: list[bytes] = []
    for address in addresses if rcode is Rcode.NO_ERROR else ():
        kind = _A if address.version == 4 else _AAAA  # noqa: PLR2004 - IP version
        if question.kind in (kind, _ANY):
            record = _RECORD.pack(_NAME_AT, kind, _IN, ttl, len(address.packed)) + address.packed
            room -= len(record)
            if room < 0:
                break
            records.append(record)
    flags = _QR | _AA | _RA | question.flags & _RD | rcode & 0xF
    header = _HEADER.pack(question.id, flags, 1, len(records), 0, 1 if opt else 0)
    return b"".join((header, question.raw, *records, opt))


def encoded(name: str) -> bytes | None:
    """Encode a name as labels, each after its length, without the root's; None for what no question can hold."""
    labels = name.rstrip(".").split(".")
    if not name.isascii() or any(not 0 < len(label) <= _MOST_LABEL for label in labels):
        return None
    wire = b"".join(bytes((len(label),)) + label.encode() for label in labels)
    return wire if len(wire) < _MOST_NAME else None


def _end_of_name(message: bytes, at: int) -> int | None:
    """Find the end of a name that is written out in full, the root's zero included."""
    begin = at
    while at < len(message) and at - begin < _MOST_NAME:
        length = message[at]
        if length > _MOST_LABEL:
            return None
        at += 1 + length
        if not length:
            return at
    return None


def _dotted(wire: bytes) -> str:
    labels, at = [], 0
    while wire[at]:
        # A dot inside a label is written so that it is taken for no other name's.
        labels.append(wire[at + 1 : at + 1 + wire[at]].decode("latin-1").replace(".", "\\."))
        at += 1 + wire[at]
    # Not str.lower() of all that Latin-1 holds: DNS folds A to Z alone (RFC 4343).
    return ".".join(labels).translate(_LOWER)


_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


def _edns(message: bytes, at: int, records: int) -> tuple[int, int] | None:
    """Read the version of EDNS and the bytes that may be sent; None where no additional record is of it."""
    for _ in range(records):
        end = _end_of_name(message, at)
        if end is None and message[at : at + 1] and message[at] >= _POINTER >> 8:
            end = at + 2
        if end is None or len(message) < end + _RECORD.size - 2:
            return None
        kind, size, _, version, _, length = struct.unpack_from(">HHBBHH", message, end)
        if kind == _OPT:
            return version, size
        at = end + _RECORD.size - 2 + length
    return None


def _opt(rcode: Rcode) -> bytes:
    return b"\0" + struct.pack(">HHBBHH", _OPT, _MOST_BYTES, rcode >> 4, 0, 0, 0)
