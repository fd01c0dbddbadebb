"""Records as JSON: a strict codec over the records' own type hints, by msgspec. No I/O.

A value that does not fit its record's hints exactly, has a field too many or too few, or lies under another key than
its content names, is an InvalidRecordError and never a half-read record.

msgspec checks types and missing fields. It ignores a name that it does not know, and all but the last of one that
stands twice. So each record is written again and compared with the value: anything ignored makes them differ.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Hashable, Mapping
from dataclasses import fields
from ipaddress import IPv4Address, IPv6Address
from typing import Any, cast

import msgspec

from mesh.crypto.keys import EncodedKey
from mesh.errors import InvalidRecordError, LinkwireError
from mesh.model import keyspace
from mesh.model.net import IPAddress
from mesh.model.records import Record

FORMAT = 1
MAX_BYTES = 1_000_000  # etcd refuses requests over 1.5 MiB (--max-request-bytes)

_CACHED = 4096  # texts of each type: the same addresses and keys recur, and some keys are expensive to check
_OCTETS = {str(number): number for number in range(256)}
_WHOLE = 2**53
"""Beyond it a float does not tell whole numbers apart, and far beyond it overflows."""


def encode(record: Record) -> bytes:
    """Write a record as ASCII JSON with sorted keys, so that equal records are equal bytes."""
    # Not by msgspec's encoder: it escapes text and rounds floats in another way, and stored bytes must not change.
    return _ENCODER.encode(msgspec.to_builtins(_fields(record), enc_hook=str)).encode()


def decode(key: str, value: bytes) -> Record:
    """Read the record under `key` (relative to the root).

    Raises:
        InvalidRecordError: not ours, of another format, malformed, or under a key that is not its own.
    """
    kind = keyspace.KINDS.get(key.split("/", 1)[0])
    if kind is None:
        raise InvalidRecordError(f"{key}: no record of ours lies under this key")
    if len(value) > MAX_BYTES:
        raise InvalidRecordError(f"{key}: {len(value)} bytes is more than any record of ours")
    texts: dict[int, str] = {}
    """Of each address and key, by identity: written as read, since to format them takes longer than all else."""

    def written(leaf: object) -> str:
        return texts[id(leaf)]

    try:
        record: Record = msgspec.json.decode(value, type=kind, dec_hook=functools.partial(_leaf, texts))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        _parse(key, value)
        raise InvalidRecordError(f"{key}: {error}") from None
    if msgspec.json.encode(_fields(record), enc_hook=written, order="sorted") != value:
        _compare(key, "$", _parse(key, value), msgspec.to_builtins(_fields(record), enc_hook=written))
    if keyspace.key_of(record) != key:
        raise InvalidRecordError(f"{key}: holds the record that belongs under {keyspace.key_of(record)}")
    return record


def _fields(record: Record) -> dict[str, Any]:
    """Return the top level of a record's JSON, without the optional fields that have their default."""
    names, optional = _names(cast("Hashable", type(record)))
    plain = {name: getattr(record, name) for name in names}
    for name, default in optional.items():
        if plain[name] == default:
            del plain[name]
    plain["v"] = FORMAT
    return plain


@functools.cache
def _names(kind: type[Record]) -> tuple[tuple[str, ...], Mapping[str, Any]]:
    """Return the names of a kind's fields, and the defaults of those that are left out where they have it."""
    known = fields(kind)
    return tuple(f.name for f in known), {f.name: f.default for f in known if f.metadata.get("optional")}


def _leaf(texts: dict[int, str], hint: Any, text: Any) -> Any:  # noqa: ANN401 - any type with a text form
    """Read an address or a key, and note its text."""
    if type(text) is not str:
        raise ValueError("Expected text")
    try:
        leaf = _parser(hint)(text)
    except (KeyError, ValueError, LinkwireError):
        raise ValueError(f"Not a {hint.__name__}") from None
    texts[id(leaf)] = text
    return leaf


@functools.cache
def _parser(hint: Any) -> Callable[[str], Any]:  # noqa: ANN401 - as above
    """Return the parser of a type, with a cache: all of these are immutable, so one may be part of many records."""
    parse = {IPAddress: _address, IPv4Address: _ipv4}.get(hint)
    return functools.lru_cache(_CACHED)(parse or (hint.parse if issubclass(hint, EncodedKey) else hint))


def _address(text: str) -> IPv4Address | IPv6Address:
    return IPv6Address(text) if ":" in text else _ipv4(text)


def _ipv4(text: str) -> IPv4Address:
    """Read four numbers without leading zeros, in a third of the time that ipaddress takes for the same."""
    one, two, three, four = text.split(".")
    return IPv4Address(_OCTETS[one] << 24 | _OCTETS[two] << 16 | _OCTETS[three] << 8 | _OCTETS[four])


def _parse(key: str, value: bytes) -> dict[str, Any]:
    """Read JSON strictly, whatever is in it but the format.

    Raises:
        InvalidRecordError: not JSON, a name stands twice, or of another format.
    """
    try:
        plain = _DECODER.decode(value.decode())
    except (ValueError, RecursionError):
        raise InvalidRecordError(f"{key}: not JSON") from None
    version = plain.get("v") if isinstance(plain, dict) else None
    if type(version) is not int or version != FORMAT:
        raise InvalidRecordError(f"{key}: not a record of format {FORMAT}")
    return cast("dict[str, Any]", plain)


def _compare(key: str, where: str, plain: Any, written: Any) -> None:  # noqa: ANN401 - any JSON
    """Refuse a value whose names differ from those of the record read from it; types were compared by msgspec.

    Order, white space, escapes and the form of a number are free.
    """
    if isinstance(written, dict):
        if odd := ", ".join(sorted(plain.keys() ^ written.keys())):
            raise InvalidRecordError(f"{key}: Missing or unknown: {odd} - at `{where}`")
        for name in written:
            _compare(key, f"{where}.{name}", plain[name], written[name])
    elif isinstance(written, list | tuple):
        for number, (one, other) in enumerate(zip(plain, written, strict=True)):
            _compare(key, f"{where}[{number}]", one, other)
    elif type(plain) is int and abs(plain) > _WHOLE and type(written) is float:
        raise InvalidRecordError(f"{key}: Number out of range - at `{where}`")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    plain = dict(pairs)
    if len(plain) != len(pairs):
        raise ValueError("a name stands twice")
    return plain


def _refuse(constant: str) -> Any:  # noqa: ANN401 - never returns
    """NaN and Infinity are Python's and not JSON's; NaN does not even equal itself."""
    raise ValueError(constant)


_DECODER = json.JSONDecoder(parse_constant=_refuse, object_pairs_hook=_unique)
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"))

for _kind in keyspace.KINDS.values():
    msgspec.json.Decoder(_kind)  # what msgspec learns of a type it keeps; two threads that learn it at once crash
