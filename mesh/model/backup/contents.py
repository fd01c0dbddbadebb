"""Contents of a backup: the controllers' signed values at one revision, as they are in the store. Pure.

Nothing in it is secret by itself: each value is signed, and a private key or a link key is in it only as a box that
one node's own key opens. All of it is private nevertheless: it names services, nodes and addresses.

    1 line   JSON: version, cluster, revision, generation, made, program, records
    then, for each record in the order of the keys:
    4, n     the length of its key, big-endian, and the key, relative to the root
    4, n     the length of its value, and the signed value
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mesh.crypto.signed_envelope import MAX_BODY, OVERHEAD
from mesh.errors import LinkwireError
from mesh.model import keyspace

PURPOSE = "backup"
"""A backup's sealed stream opens for this purpose alone (mesh.crypto.sealed_stream)."""
VERSION = 1
_LENGTH_BYTES = 4
_MAX_HEADER = 4096
_MAX_KEY = 1024
_INFINITE = float("inf")

PREFIXES = (
    keyspace.CLUSTER,
    keyspace.MANIFEST,
    keyspace.SERVICES,
    keyspace.ENDPOINTS,
    keyspace.EPOCHS,
    keyspace.ENCRYPTION,
    keyspace.ENCRYPTION_WANTED,
    keyspace.UNDERLAYS,
    keyspace.KEYS,
    keyspace.LINK_KEYS,
    keyspace.ADDRESSES,
    keyspace.PORTS,
    keyspace.MEMBERS,
    keyspace.VAULT,
    keyspace.VAULTS,
    keyspace.AUDIT,
)
"""Kinds of records in a backup. Not in it: `access`, by which a node that was revoked since would be a user of etcd
again; controllers' keys, the lead, and all that agents write: those who write these say them again themselves."""


class BackupError(LinkwireError):
    """The bytes are no backup, or one of another version."""


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup.

    Attributes:
        cluster: Swarm's id.
        revision: the store's, at which this was in it.
        generation: of the manifest in it.
        made: seconds since 1970 by the clock of the one who made it: for display only.
        program: its version.
        values: signed values by key, relative to the root.
    """

    cluster: str
    revision: int
    generation: int
    made: float
    program: str
    values: Mapping[str, bytes]

    def described(self) -> dict[str, str | int | float]:
        """Return everything but the values, as JSON has it."""
        return {
            "version": VERSION,
            "cluster": self.cluster,
            "revision": self.revision,
            "generation": self.generation,
            "made": self.made,
            "program": self.program,
            "records": len(self.values),
        }


def belongs(key: str) -> bool:
    """Tell whether a backup has the record under a key."""
    return any(key == prefix or (prefix.endswith("/") and key.startswith(prefix)) for prefix in PREFIXES)


def encoded(backup: Backup) -> Iterator[bytes]:
    """Yield a backup's bytes in parts."""
    yield json.dumps(backup.described()).encode() + b"\n"
    for key, value in sorted(backup.values.items()):
        name = key.encode()
        yield b"".join((_length(name), name, _length(value), value))


def decoded(data: bytes) -> Backup:
    """Read a backup. Raises BackupError."""
    line, end, _ = data[:_MAX_HEADER].partition(b"\n")
    header = _header(line if end else b"")
    values: dict[str, bytes] = {}
    at = len(line) + 1
    while at < len(data):
        name, at = _part(data, at, _MAX_KEY)
        value, at = _part(data, at, MAX_BODY + OVERHEAD)
        try:
            key = name.decode()
        except UnicodeDecodeError:
            raise BackupError("a record's key in it is no text") from None
        if key in values or not belongs(key):
            raise BackupError(f"a record that does not belong in it, or is there twice: {key[:100]!r}")
        values[key] = value
    if len(values) != header["records"]:
        raise BackupError(f"{len(values)} records, where its first line says {header['records']}")
    return Backup(
        header["cluster"], header["revision"], header["generation"], header["made"], header["program"], values
    )


_FIELDS = {
    "cluster": (str,),
    "revision": (int,),
    "generation": (int,),
    "made": (int, float),
    "program": (str,),
    "records": (int,),
}


def _header(line: bytes) -> dict[str, Any]:
    try:
        header = json.loads(line, parse_constant=_refused)
        version = header["version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BackupError("it does not begin as a backup does") from None
    if version != VERSION:
        raise BackupError(f"it has version {version!r}, and this program reads version {VERSION}: upgrade the older")
    for name, kinds in _FIELDS.items():
        value = header.get(name)
        if not isinstance(value, kinds) or isinstance(value, bool) or value in {_INFINITE, -_INFINITE}:
            raise BackupError(f"its first line lacks {name!r}, or has something else there")
    return dict(header)


def _refused(word: str) -> float:
    """Refuse NaN and the infinities, which are no JSON."""
    raise ValueError(word)


def _part(data: bytes, at: int, most: int) -> tuple[bytes, int]:
    length = int.from_bytes(data[at : at + _LENGTH_BYTES], "big")
    start = at + _LENGTH_BYTES
    if length > most or start + length > len(data):
        raise BackupError("it ends in the middle of a record, or a record in it is too large")
    return data[start : start + length], start + length


def _length(part: bytes) -> bytes:
    return len(part).to_bytes(_LENGTH_BYTES, "big")
