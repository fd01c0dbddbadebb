"""Decoder of etcd's RangeResponse, which has ten thousands of keys at a start. Pure.

It follows rpc.proto (RangeResponse, ResponseHeader) and kv.proto (KeyValue) of etcd, in protocol buffers' wire format
(protobuf.dev/programming-guides/encoding). All other messages are decoded by etcd3, whose generated code needs
protobuf's Python implementation and takes three times as long; tests/unit/mesh/test_range_response.py compares the
two.
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
    """One key and its value in etcd."""

    key: bytes
    value: bytes
    mod_revision: int
    """Revision of its last change."""


@dataclass(frozen=True, slots=True)
class Header:
    """The member that answered, and the revision of its answer."""

    cluster_id: int
    member_id: int
    revision: int
    raft_term: int


@dataclass(frozen=True, slots=True)
class Page:
    """Some keys of a range in order; `more` is True where others follow."""

    header: Header
    kvs: tuple[KeyValue, ...]
    more: bool


def decode(data: bytes) -> Page:
    """Decode a RangeResponse.

    Raises:
        ValueError: it is malformed.
    """
    header: dict[int, int] = {}
    kvs: list[KeyValue] = []
    more = False
    for number, value in _fields(data, 0, len(data)):
        if isinstance(value, int):
            more = bool(value) if number == _MORE else more
        elif number == _KVS:
            kvs.append(_key_value(data, *value))
        elif number == _HEADER:  # a repeated one is merged
            header.update((n, field) for n, field in _fields(data, *value) if isinstance(field, int))
    cluster, member, revision, term = (header.get(number, 0) for number in (_CLUSTER, _MEMBER, _REVISION, _TERM))
    return Page(Header(cluster, member, _signed(revision), term), tuple(kvs), more)


def numbers(data: bytes) -> dict[int, int]:
    """Decode the numeric fields of any message, by field number. Raises ValueError where it is malformed."""
    return {number: value for number, value in _fields(data, 0, len(data)) if isinstance(value, int)}


def _key_value(data: bytes, at: int, end: int) -> KeyValue:
    """Decode a KeyValue. Written out for speed, not by way of `_fields`: it is called once a key."""
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
    if at != end:  # a field reaches beyond its end
        raise ValueError(_CUT)
    return KeyValue(key, value, _signed(revision))


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int | tuple[int, int]]]:
    """Yield each field's number with its value: a number, or the start and end of its bytes."""
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
    """Return a field's number, its value as in `_fields` (None for an unused type) and its end."""
    tag, at = _varint(data, at)
    number, kind = tag >> 3, tag & 7
    if not number:
        raise ValueError("malformed answer of etcd: a field without a number")
    if kind == _VARINT:
        value, at = _varint(data, at)
        return number, value, at
    if kind == _BYTES:
        size, at = _varint(data, at)
        return number, (at, at + size), at + size
    if kind in (_FIXED64, _FIXED32):
        return number, None, at + (8 if kind == _FIXED64 else 4)
    raise ValueError(f"malformed answer of etcd: a field of wire type {kind}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return an integer of up to 64 bits, seven a byte, and its end. Raises IndexError at the data's end."""
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
    raise ValueError("malformed answer of etcd: a number without an end")


def _signed(value: int) -> int:
    """Read an unsigned number as an int64 in two's complement."""
    return value - 2 * _SIGN if value >= _SIGN else value


_CUT = "malformed answer of etcd: cut short"
