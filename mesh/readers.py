"""Quick readers of JSON into records, made once for each type from its hints. No I/O.

Whatever is not as it should be is Odd, with no word about what: `mesh.codec` then reads it once more, the plain way,
which says what is wrong. So a reader has one promise to keep: what it gives is what the plain way gives.
"""

from __future__ import annotations

import binascii
import dataclasses
import functools
import ipaddress
import math
import types
import typing
from collections.abc import Callable
from typing import Any, Literal

from mesh.envelope import VerifyKey
from mesh.hybrid import NodePublicKey
from mesh.keys import PublicKey

KEYS = (PublicKey, NodePublicKey, VerifyKey)
WHOLE = 2**53
"""Beyond it a float does not tell whole numbers apart, and far beyond it overflows."""

Reader = Callable[[Any], Any]

_KEPT = 4096  # texts of each type: addresses come again and again, and keys, which are dear to check twice
_EXACT = {ipaddress.IPv4Address, ipaddress.IPv6Address}
_OCTETS = {str(number): number for number in range(256)}
_MISSING = object()


class Odd(Exception):  # noqa: N818 - it is no error yet
    """Not read by a quick reader."""


@functools.cache
def hints(kind: type) -> dict[str, Any]:
    """The fields of a record, or of a part of one, with their types."""
    found = typing.get_type_hints(kind)
    return {f.name: found[f.name] for f in dataclasses.fields(kind)}


@functools.cache
def optional(kind: type) -> dict[str, Any]:
    """Fields that are left out where they have their default, with that."""
    return {f.name: f.default for f in dataclasses.fields(kind) if f.metadata.get("optional")}


@functools.cache
def reader(hint: Any) -> Reader:  # noqa: ANN401 - any hint of a record's
    """What reads a value for a type hint; it raises Odd, or what the type itself raises."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _union(typing.get_args(hint))
    if origin is Literal:
        return _literal(typing.get_args(hint))
    if origin is tuple:
        return _list(reader(typing.get_args(hint)[0]))
    if hint in _LEAVES:
        return _LEAVES[hint]
    if dataclasses.is_dataclass(hint) and hint not in KEYS:
        return _object(typing.cast("type", hint))
    return _text(hint.parse if hint in KEYS else hint)


def _union(args: tuple[Any, ...]) -> Reader:
    hinted = tuple(arg for arg in args if arg is not type(None))
    if len(hinted) == len(args):
        return _either(hinted)
    inner = reader(hinted[0]) if len(hinted) == 1 else _either(hinted)
    return lambda plain: None if plain is None else inner(plain)


def _either(args: tuple[Any, ...]) -> Reader:
    """Of two the first that fits. Only where what does not fit one reader is none of its for the plain way too."""
    if len(args) != 2 or not set(args) <= _EXACT:  # noqa: PLR2004 - this one or that one
        raise TypeError(f"one of {args}: no quick reader can tell which")
    one, other = map(reader, args)

    def read(plain: Any) -> Any:  # noqa: ANN401 - either
        try:
            return one(plain)
        except (Odd, ValueError):
            return other(plain)

    return read


def _literal(args: tuple[Any, ...]) -> Reader:
    texts = frozenset(arg for arg in args if isinstance(arg, str))

    def read(plain: Any) -> Any:  # noqa: ANN401 - one of the texts
        if type(plain) is str and plain in texts:
            return plain
        raise Odd

    return read


def _list(item: Reader) -> Reader:
    def read(plain: Any) -> Any:  # noqa: ANN401 - a tuple of what `item` reads
        if type(plain) is not list:
            raise Odd
        return tuple([item(one) for one in plain]) if plain else ()

    return read


def _object(kind: type) -> Reader:
    defaults = optional(kind)
    needed = tuple((name, reader(hint)) for name, hint in hints(kind).items() if name not in defaults)
    left_out = tuple((name, reader(hints(kind)[name]), default) for name, default in defaults.items())
    if [*hints(kind)] != [*(name for name, _ in needed), *defaults]:
        raise TypeError(f"{kind.__name__}: what may be left out comes last")  # or a value would land in another field

    def read(plain: Any) -> Any:  # noqa: ANN401 - one of the kind
        if type(plain) is not dict:
            raise Odd
        try:
            values = [one(plain[name]) for name, one in needed]
        except KeyError:
            raise Odd from None
        there = len(needed)
        for name, one, default in left_out:
            written = plain.get(name, _MISSING)
            if written is _MISSING:
                values.append(default)
                continue
            there += 1
            values.append(one(written))
            if values[-1] == default:
                raise Odd
        if there != len(plain):
            raise Odd
        return kind(*values)

    return read


def _text(made: Callable[[str], Any]) -> Reader:
    kept = functools.lru_cache(_KEPT)(made)  # all of them cannot be changed, so one may be part of many records

    def read(plain: Any) -> Any:  # noqa: ANN401 - a type with a text form
        if type(plain) is not str:
            raise Odd
        return kept(plain)

    return read


def _str(plain: Any) -> str:  # noqa: ANN401 - any JSON
    if type(plain) is not str or not plain.isascii():
        raise Odd  # a text of the whole world may have half a character in it: the plain way looks
    return plain


def _int(plain: Any) -> int:  # noqa: ANN401 - any JSON
    if type(plain) is not int:
        raise Odd
    return plain


def _bool(plain: Any) -> bool:  # noqa: ANN401 - any JSON
    if plain is True or plain is False:
        return plain
    raise Odd


def _float(plain: Any) -> float:  # noqa: ANN401 - any JSON
    if type(plain) is float and math.isfinite(plain):
        return plain
    if type(plain) is int and abs(plain) <= WHOLE:
        return float(plain)
    raise Odd


def _bytes(plain: Any) -> bytes:  # noqa: ANN401 - any JSON
    if type(plain) is not str:
        raise Odd
    # Strict: the alphabet and the padding of RFC 4648 and nothing else, all of which the plain way takes too.
    return binascii.a2b_base64(plain, strict_mode=True)


def _key(plain: Any) -> PublicKey:  # noqa: ANN401 - any JSON
    return PublicKey(_bytes(plain))


@functools.lru_cache(_KEPT)
def _ipv4(plain: str) -> ipaddress.IPv4Address:
    """Four numbers without leading zeros, which is all that ipaddress takes, and it takes four times as long."""
    one, two, three, four = plain.split(".")
    return ipaddress.IPv4Address(_OCTETS[one] << 24 | _OCTETS[two] << 16 | _OCTETS[three] << 8 | _OCTETS[four])


def _address(plain: Any) -> ipaddress.IPv4Address:  # noqa: ANN401 - any JSON
    if type(plain) is not str:
        raise Odd
    try:
        return _ipv4(plain)
    except KeyError:
        raise Odd from None


_LEAVES: dict[Any, Reader] = {
    str: _str,
    int: _int,
    bool: _bool,
    float: _float,
    bytes: _bytes,
    PublicKey: _key,
    ipaddress.IPv4Address: _address,
}
