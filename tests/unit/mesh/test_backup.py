"""A backup's file opens whole and unchanged for its recipient, or not at all; each refusal says why."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from mesh.crypto import sealed_stream
from mesh.crypto.hpke import NodeKey
from mesh.crypto.sealed_stream import CHUNK, SealedStreamError, opened, sealed
from mesh.errors import Terminal
from mesh.model import keyspace
from mesh.model.backup import contents, key_files
from mesh.model.backup.contents import PURPOSE, Backup, BackupError, decoded, encoded

KEY, OTHER = NodeKey(b"\1" * 32), NodeKey(b"\2" * 32)
VALUES = {"cluster": b"value of the cluster", "manifest": b"m" * 90, "services/s1": b"\0\xff" * 40}
BACKUP = Backup("swarm", 12, 7, 1_764_000_000.5, "1.2.3", VALUES)


def file(parts: list[bytes], key: NodeKey = KEY, purpose: str = PURPOSE) -> bytes:
    return b"".join(sealed(parts, key.public, purpose))


SEALED = file([*encoded(BACKUP)])


def test_a_backup_comes_back_as_it_was() -> None:
    assert decoded(opened(SEALED, KEY, PURPOSE)) == BACKUP


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_streams_of_any_length_come_back(size: int) -> None:
    whole = bytes(number % 251 for number in range(size))

    def parts() -> Iterator[bytes]:
        yield from (whole[start : start + 1000] for start in range(0, size, 1000))

    made = b"".join(sealed(parts(), KEY.public, PURPOSE))
    assert opened(made, KEY, PURPOSE) == whole
    assert size < 16 or whole[:16] not in made


def test_nothing_of_it_is_readable() -> None:
    assert not any(word in SEALED for word in (b"swarm", b"services", b"value of", b"version"))


def test_a_stream_cut_anywhere_is_refused() -> None:
    for length in range(len(SEALED)):
        with pytest.raises(SealedStreamError, match=r"cut short|no sealed file"):
            opened(SEALED[:length], KEY, PURPOSE)


def test_a_stream_cut_between_chunks_is_refused() -> None:
    made = [*sealed([bytes(3 * CHUNK)], KEY.public, PURPOSE)]
    assert len(made) == 4
    with pytest.raises(SealedStreamError, match="cut short"):
        opened(b"".join(made[:3]), KEY, PURPOSE)


def test_chunks_in_another_order_are_refused() -> None:
    head, one, two, last = sealed([bytes(3 * CHUNK)], KEY.public, PURPOSE)
    for order in ((two, one, last), (one, one, last), (two, last)):
        with pytest.raises(SealedStreamError, match="changed: chunk"):
            opened(head + b"".join(order), KEY, PURPOSE)


def test_each_flipped_bit_is_refused() -> None:
    for at in range(len(SEALED)):
        changed = bytearray(SEALED)
        changed[at] ^= 1 << at % 8
        with pytest.raises(SealedStreamError, match=r"changed|cut short|sealed to the key|no sealed file|format"):
            opened(bytes(changed), KEY, PURPOSE)


def test_bytes_after_its_end_are_refused() -> None:
    with pytest.raises(SealedStreamError, match="1 bytes follow its end"):
        opened(SEALED + b"x", KEY, PURPOSE)


def test_another_key_is_named_with_its_own() -> None:
    theirs, own = KEY.public.fingerprint[:16], OTHER.public.fingerprint[:16]
    with pytest.raises(SealedStreamError, match=f"sealed to the key {theirs}, and this one is {own}"):
        opened(SEALED, OTHER, PURPOSE)
    # Even where its beginning names that key.
    forged = SEALED.replace(bytes.fromhex(KEY.public.fingerprint), bytes.fromhex(OTHER.public.fingerprint))
    with pytest.raises(SealedStreamError, match="its beginning was changed"):
        opened(forged, OTHER, PURPOSE)
    assert sealed_stream.recipient(SEALED) == KEY.public.fingerprint


def test_a_stream_of_another_purpose_is_refused() -> None:
    with pytest.raises(SealedStreamError, match="another purpose"):
        opened(file([*encoded(BACKUP)], purpose="something else"), KEY, PURPOSE)


def test_another_format_is_named() -> None:
    with pytest.raises(SealedStreamError, match="it has format 2, and this version reads format 1"):
        opened(SEALED.replace(b"stream 1\n", b"stream 2\n", 1), KEY, PURPOSE)
    with pytest.raises(SealedStreamError, match="no sealed file of Linkwire"):
        opened(b"-----BEGIN PGP MESSAGE-----", KEY, PURPOSE)


def changed(**fields: object) -> bytes:
    line, end, rest = b"".join(encoded(BACKUP)).partition(b"\n")
    return json.dumps({**json.loads(line), **fields}).encode() + end + rest


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (changed(version=2), "it has version 2, and this program reads version 1"),
        (changed(records=2), "3 records, where its first line says 2"),
        (changed(records=True), "lacks 'records'"),
        (changed(made="today"), "lacks 'made'"),
        (changed(made=float("nan")), "does not begin as a backup does"),
        (changed().replace(b"1764000000.5", b"1e999"), "lacks 'made'"),
        (changed(cluster=None), "lacks 'cluster'"),
        (b"{}\n", "does not begin as a backup does"),
        (b"[" * 4000 + b"\n", "does not begin as a backup does"),
        (b"", "does not begin as a backup does"),
        (changed() + b"\0\0\0\7cluster\0\0\0\1x", "there twice: 'cluster'"),
        (changed() + b"\0\0\0\6leader\0\0\0\1x", "does not belong in it"),
        (changed() + b"\0\0\0\1\xff\0\0\0\1x", "is no text"),
        (changed()[:-1], "ends in the middle of a record"),
        (changed() + b"\xff\xff\xff\xffx", "too large"),
    ],
)
def test_what_is_no_backup_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(BackupError, match=re.escape(reason)):
        decoded(data)


@pytest.mark.parametrize(
    "key",
    [
        "access",
        "leader",
        "tenure",
        "space",
        "recall",
        keyspace.controller("n1"),
        keyspace.node("n1"),
        keyspace.status("n1"),
        keyspace.report("n1", "t1"),
        "vaultsx",
        "clusters",
    ],
)
def test_others_records_do_not_belong(key: str) -> None:
    assert not contents.belongs(key)


def test_every_covered_record_belongs() -> None:
    covered = [keyspace.prefix(kind) for kind in keyspace.KINDS.values() if kind.COVERED]
    assert len(covered) > 4
    assert all(map(contents.belongs, covered))


def test_a_backup_has_controllers_records_alone() -> None:
    assert {keyspace.writer(prefix) for prefix in contents.PREFIXES} == {"controller"}


def test_key_files_come_back() -> None:
    assert key_files.read_identity(key_files.identity_text(KEY)) == KEY
    assert str(key_files.read_recipient(key_files.recipient_text(KEY.public))) == str(KEY.public)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (key_files.recipient_text(KEY.public), "it is a recipient file"),
        (key_files.identity_text(KEY)[:-3], "damaged"),
        (key_files.identity_text(KEY).replace(" 1\n", " 2\n"), "no identity file"),
        ("", "no identity file"),
        ("secret" * 20, "no identity file"),
    ],
)
def test_other_files_are_no_identity(text: str, reason: str) -> None:
    with pytest.raises(Terminal, match=reason) as caught:
        key_files.read_identity(text)
    assert KEY.raw.hex()[:8] not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (key_files.identity_text(KEY), "it is an identity file, which opens backups"),
        (key_files.recipient_text(KEY.public)[:-9], "damaged"),
        ("", "no recipient file"),
    ],
)
def test_other_files_are_no_recipient(text: str, reason: str) -> None:
    with pytest.raises(Terminal, match=reason) as caught:
        key_files.read_recipient(text)
    assert KEY.raw.hex()[:8] not in str(caught.value)
