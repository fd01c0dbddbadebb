"""etcd's answer to a read, from its bytes: the one that a start has by the ten thousand keys. Pure.

As in etcd's rpc.proto (RangeResponse, ResponseHeader) and kv.proto (KeyValue), in the protocol buffers' wire format
(protobuf.dev/programming-guides/encoding). All other messages are etcd3's, whose generated code needs protobuf's
Python implementation and three times as long; tests/unit/test_etcd_pages.py holds this one against them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_HEADER, _KVS, _MORE = 1, 2, 3  # fields of RangeResponse
_CLUSTER, _MEMBER, _REVISION, _TERM = 1, 2, 3, 4  # of ResponseHeader
_KEY = 1 << 3 | _BYTES  # tags in KeyValue, each one byte
_MOD_REVISION = 3 << 3 | _VARINT
_VALUE = 5 << 3 | _BYTES

_MORE_FOLLOWS = 0x80  # of a varint's byte
_MAX_VARINT = 10  # bytes
_MASK = 2**64 - 1
_SIGN = 2**63


class KeyValue(NamedTuple):
    """One key as it lies in etcd."""

    key: bytes
    value: bytes
    mod_revision: int
    """The store's revision of its last change."""


@dataclass(frozen=True, slots=True)
class Header:
    """Who answered, and when."""

    cluster_id: int
    member_id: int
    revision: int
    raft_term: int


@dataclass(frozen=True, slots=True)
class Page:
    """Some keys of a range, in their order; `more`: there are others after them."""

    header: Header
    kvs: tuple[KeyValue, ...]
    more: bool


def decode(data: bytes) -> Page:
    """Read a RangeResponse.

    Raises:
        ValueError: it is none.
    """
    header: dict[int, int] = {}
    kvs: list[KeyValue] = []
    more = False
    for number, value in _fields(data, 0, len(data)):
        if isinstance(value, int):
            more = bool(value) if number == _MORE else more
        elif number == _KVS:
            kvs.append(_key_value(data, *value))
        elif number == _HEADER:  # said twice, it is one message
            header.update((n, told) for n, told in _fields(data, *value) if isinstance(told, int))
    said = [header.get(number, 0) for number in (_CLUSTER, _MEMBER, _REVISION, _TERM)]
    return Page(Header(said[0], said[1], _signed(said[2]), said[3]), tuple(kvs), more)


def numbers(data: bytes) -> dict[int, int]:
    """Read the fields of any message that are numbers, by field. Raises ValueError where it is no message."""
    return {number: value for number, value in _fields(data, 0, len(data)) if isinstance(value, int)}


def _key_value(data: bytes, at: int, end: int) -> KeyValue:
    """Written out, and not by way of `_fields`: this is called once a key."""
    key, value, revision = b"", b"", 0
    try:
        while at < end:
            tag = data[at]
            if tag in (_KEY, _VALUE):
                size, at = _varint(data, at + 1)
                start, at = at, at + size
                if tag == _KEY:
                    key = data[start:at]
                else:
                    value = data[start:at]
            elif tag == _MOD_REVISION:
                revision, at = _varint(data, at + 1)
            else:
                _, _, at = _field(data, at)
    except IndexError:
        raise ValueError(_CUT) from None
    if at != end:  # a part of it reaches beyond it
        raise ValueError(_CUT)
    return KeyValue(key, value, _signed(revision))


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int | tuple[int, int]]]:
    """Each field's number, with its number or the place of its bytes."""
    try:
        while at < end:
            number, value, at = _field(data, at)
            if at > end:
                raise ValueError(_CUT)
            if value is not None:
                yield number, value
    except IndexError:
        raise ValueError(_CUT) from None


def _field(data: bytes, at: int) -> tuple[int, int | tuple[int, int] | None, int]:
    """A field's number, what it holds as `_fields` says (None for what we have none of), and where it ends."""
    tag, at = _varint(data, at)
    number, kind = tag >> 3, tag & 7
    if not number:
        raise ValueError("not an answer of etcd's: a field without a number")
    if kind == _VARINT:
        value, at = _varint(data, at)
        return number, value, at
    if kind == _BYTES:
        size, at = _varint(data, at)
        return number, (at, at + size), at + size
    if kind in (_FIXED64, _FIXED32):
        return number, None, at + (8 if kind == _FIXED64 else 4)
    raise ValueError(f"not an answer of etcd's: a field of wire type {kind}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A whole number of up to 64 bits, seven in a byte, and where it ends. Raises IndexError at the data's end."""
    byte = data[at]
    if byte < _MORE_FOLLOWS:
        return byte, at + 1
    value = shift = 0
    for end in range(at + 1, at + 1 + _MAX_VARINT):
        value |= (byte & ~_MORE_FOLLOWS) << shift
        if byte < _MORE_FOLLOWS:
            return value & _MASK, end
        shift += 7
        byte = data[end]
    raise ValueError("not an answer of etcd's: a number without an end")


def _signed(value: int) -> int:
    """An int64 as it was sent, in two's complement."""
    return value - 2 * _SIGN if value >= _SIGN else value


_CUT = "not an answer of etcd's: cut short"
