"""Records to bytes and back: JSON, strict in both directions, no I/O.

One generic codec over the records' own type hints. What does not fit a hint exactly, has a field too many or
too few, or lies under another key than its content says, is an InvalidRecord and never a half-read record.

What a record is is said here, the plain way. `mesh.readers` gives the same for what is in order, and sooner.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import functools
import ipaddress
import json
import math
import operator
import types
import typing
from collections.abc import Callable, Hashable
from typing import Any, Literal

from mesh import keyspace
from mesh.errors import InvalidRecord, LinkwireError
from mesh.readers import KEYS, WHOLE, Odd, hints, optional, reader
from mesh.records import Record

FORMAT = 1
MAX_BYTES = 1_000_000  # etcd refuses requests over 1.5 MiB (--max-request-bytes)

_ADDRESSES = (ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Network, ipaddress.IPv6Network)


def encode(record: Record) -> bytes:
    """Write a record as UTF-8 JSON with sorted keys, so that equal records are equal bytes."""
    return _ENCODER.encode({"v": FORMAT, **_plain(record)}).encode()


def decode(key: str, value: bytes) -> Record:
    """Read the record under `key` (relative to the root).

    Raises:
        InvalidRecord: not ours, of another format, malformed, or under a key that is not its own.
    """
    kind = keyspace.KINDS.get(key.split("/", 1)[0])
    if kind is None:
        raise InvalidRecord(f"{key}: no record of ours lies under this key")
    if len(value) > MAX_BYTES:
        raise InvalidRecord(f"{key}: {len(value)} bytes is more than any record of ours")
    try:
        plain = _DECODER.decode(value.decode())
    except (ValueError, RecursionError):
        raise InvalidRecord(f"{key}: not JSON") from None
    version = plain.pop("v", None) if isinstance(plain, dict) else None
    if type(version) is not int or version != FORMAT:
        raise InvalidRecord(f"{key}: not a record of format {FORMAT}")
    try:
        record: Record = reader(typing.cast("Hashable", kind))(plain)
    except (Odd, ValueError, LinkwireError):
        record = _plainly(key, kind, plain)
    if keyspace.key_of(record) != key:
        raise InvalidRecord(f"{key}: holds the record that belongs under {keyspace.key_of(record)}")
    return record


def _plainly(key: str, kind: type[Record], plain: dict[str, Any]) -> Record:
    try:
        return typing.cast("Record", _read(kind, plain, ""))
    except (ValueError, LinkwireError) as error:
        raise InvalidRecord(f"{key}: {error}") from None


def _refuse(constant: str) -> Any:  # noqa: ANN401 - never returns
    """NaN and Infinity are Python's and not JSON's; NaN does not even equal itself."""
    raise ValueError(constant)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    plain = dict(pairs)
    if len(plain) != len(pairs):
        raise ValueError("a name stands twice")
    return plain


_DECODER = json.JSONDecoder(parse_constant=_refuse, object_pairs_hook=_unique)
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


def _plain(value: Any) -> Any:  # noqa: ANN401 - any field of a record
    return _writer(typing.cast("Hashable", type(value)))(value)


@functools.cache
def _writer(kind: type) -> Callable[[Any], Any]:
    """What makes JSON's own types of a value of a type."""
    is_record = dataclasses.is_dataclass(kind) and not issubclass(kind, KEYS)
    if is_record:
        names, may = tuple(hints(kind)), optional(kind)
        if not may:
            return lambda value: {name: _plain(getattr(value, name)) for name in names}
        told = operator.attrgetter(*names)
        return lambda value: {
            name: _plain(field)
            for name, field in zip(names, told(value), strict=True)
            if name not in may or field != may[name]
        }
    if issubclass(kind, tuple):
        return lambda value: [_plain(item) for item in value]
    if issubclass(kind, bytes):
        return lambda value: base64.b64encode(value).decode()
    if issubclass(kind, (*KEYS, *_ADDRESSES)):
        return str
    return lambda value: value


def _read(hint: Any, plain: Any, where: str) -> Any:  # noqa: ANN401 - one return a shape of hint
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _read_union(typing.get_args(hint), plain, where)
    if origin is Literal:
        if plain in typing.get_args(hint):
            return plain
        raise ValueError(f"{where}: none of {', '.join(map(str, typing.get_args(hint)))}")
    if origin is tuple:
        if not isinstance(plain, list):
            raise ValueError(f"{where}: a list was expected")
        return tuple(_read(typing.get_args(hint)[0], item, f"{where}[{n}]") for n, item in enumerate(plain))
    if hint in (str, int, bool, float):
        return _scalar(hint, plain, where)
    if not (dataclasses.is_dataclass(hint) and hint not in KEYS):
        return _from_text(hint, plain, where)
    return _object(typing.cast("type", hint), plain, where)


def _object(hint: type, plain: Any, where: str) -> Any:  # noqa: ANN401 - a record, or a part of one
    if not isinstance(plain, dict):
        raise ValueError(f"{where or 'record'}: an object was expected")
    wanted, may = hints(hint), optional(hint)
    if odd := ", ".join(sorted((plain.keys() ^ wanted.keys()) - (may.keys() - plain.keys()))):
        raise ValueError(f"{where or 'record'}: missing or unknown: {odd}")
    fields = {n: _read(h, plain[n], f"{where}.{n}" if where else n) for n, h in wanted.items() if n in plain}
    for name in fields.keys() & may.keys():
        if fields[name] == may[name]:  # there is one way only to write a record
            raise ValueError(f"{where or 'record'}: {name} is left out where it is {may[name]}")
    return hint(**fields)


def _scalar(hint: type, plain: Any, where: str) -> Any:  # noqa: ANN401 - one of the scalars
    if hint is float and type(plain) is int and abs(plain) <= WHOLE:
        return float(plain)
    if type(plain) is not hint or (isinstance(plain, float) and not math.isfinite(plain)):
        raise ValueError(f"{where}: {hint.__name__} was expected")
    if isinstance(plain, str) and not plain.isascii() and any("\ud800" <= c <= "\udfff" for c in plain):
        raise ValueError(f"{where}: half a character")  # JSON can say it, nobody can print it
    return plain


def _from_text(hint: Any, plain: Any, where: str) -> Any:  # noqa: ANN401 - a type with a text form
    if not isinstance(plain, str):
        raise ValueError(f"{where}: text was expected")
    try:
        if hint is bytes:
            return base64.b64decode(plain, validate=True)
        return hint.parse(plain) if hint in KEYS else hint(plain)
    except (binascii.Error, ValueError, LinkwireError):
        raise ValueError(f"{where}: not a {hint.__name__}") from None


def _read_union(hints: tuple[Any, ...], plain: Any, where: str) -> Any:  # noqa: ANN401 - one of several
    if plain is None and type(None) in hints:
        return None
    error = ValueError(f"{where}: no value was expected")
    for hint in hints:
        if hint is not type(None):
            try:
                return _read(hint, plain, where)
            except ValueError as this:
                error = this
    raise error
