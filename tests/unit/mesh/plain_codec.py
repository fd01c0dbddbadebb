"""Records as JSON, in the plainest way: what `mesh.model.codec` has to write and read, said without it.

Interprets the records' type hints over JSON of the standard library. Only the JSON types, the hints and the keyspace
are shared with the codec, so that a mistake in one shows in the other.
"""

from __future__ import annotations

import base64
import dataclasses
import ipaddress
import json
import math
import types
import typing
from typing import Any, Literal

from mesh.crypto.keys import EncodedKey
from mesh.errors import LinkwireError
from mesh.model import keyspace
from mesh.model.net import IPAddress
from mesh.model.records import Record

WHOLE = 2**53


def encode(record: Record) -> bytes:
    """Write a record."""
    return json.dumps({"v": 1, **plain_of(record)}, sort_keys=True, separators=(",", ":")).encode()


def plain_of(value: Any) -> Any:  # noqa: ANN401 - any part of a record
    """JSON's own types for a value."""
    if dataclasses.is_dataclass(value):
        known = {f.name: (getattr(value, f.name), f) for f in dataclasses.fields(value)}
        left_out = {n for n, (v, f) in known.items() if f.metadata.get("optional") and v == f.default}
        return {name: plain_of(field) for name, (field, _) in known.items() if name not in left_out}
    if isinstance(value, tuple):
        return [plain_of(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value if value is None or isinstance(value, str | int | float) else str(value)


def decode(key: str, value: bytes) -> Record:
    """Read a record; ValueError: there is none of ours."""
    kind = keyspace.KINDS[key.split("/", 1)[0]]
    try:
        plain = json.loads(value.decode(), parse_constant=_refuse, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("too deep") from None
    version = plain.pop("v", None) if isinstance(plain, dict) else None
    if type(version) is not int or version != 1:
        raise ValueError("another format")
    record = typing.cast("Record", read(kind, plain))
    if keyspace.key_of(record) != key:
        raise ValueError("under another key")
    return record


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name stands twice")
    return dict(pairs)


def read(hint: Any, plain: Any) -> Any:  # noqa: ANN401, PLR0911 - one return a shape of hint
    """Read a value for a type hint."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        assert args[1:] == (type(None),)
        return None if plain is None else read(args[0], plain)
    if origin is Literal:
        return _checked(plain, type(plain) is str and plain in args)
    if origin is tuple:
        return tuple(read(args[0], item) for item in _checked(plain, type(plain) is list))
    if hint is float and type(plain) is int:
        return float(_checked(plain, abs(plain) <= WHOLE))
    if hint in (str, int, bool, float):
        _checked(plain, type(plain) is hint and (hint is not float or math.isfinite(plain)))
        return _checked(plain, hint is not str or not any("\ud800" <= c <= "\udfff" for c in plain))
    if dataclasses.is_dataclass(hint):
        return _object(typing.cast("type", hint), plain)
    return _from_text(hint, _checked(plain, type(plain) is str))


def _checked(plain: Any, good: bool) -> Any:  # noqa: ANN401 - any JSON
    if not good:
        raise ValueError("not as it should be")
    return plain


def _object(hint: type, plain: Any) -> Any:  # noqa: ANN401 - a record, or a part of one
    hints = typing.get_type_hints(hint)
    known = {f.name: f for f in dataclasses.fields(hint)}
    optional = {name for name, f in known.items() if f.metadata.get("optional")}
    _checked(plain, type(plain) is dict and plain.keys() <= known.keys() <= plain.keys() | optional)
    fields = {name: read(hints[name], value) for name, value in plain.items()}
    _checked(plain, all(fields[name] != known[name].default for name in optional & fields.keys()))
    return hint(**fields)


def _from_text(hint: Any, text: str) -> Any:  # noqa: ANN401 - a type with a text form
    if hint is bytes:
        # Python takes more padding than there should be, as in `AAAA=`.
        return base64.b64decode(_checked(text, len(text) % 4 == 0), validate=True)
    try:
        if hint is IPAddress:
            return ipaddress.ip_address(text)
        return hint.parse(text) if issubclass(hint, EncodedKey) else hint(text)
    except LinkwireError as error:
        raise ValueError(str(error)) from None
