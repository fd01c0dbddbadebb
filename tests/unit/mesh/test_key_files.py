"""The files with the signing seed and the verify keys: read, or refused in words that quote nothing secret."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from mesh.crypto.preshared_keys import LinkSeed
from mesh.crypto.signed_envelope import SigningKey
from mesh.errors import Terminal
from mesh.identity.key_files import (
    parse_verify_keys,
    read_link_seed,
    read_signing_key,
    read_verify_keys,
    verify_keys_text,
)
from mesh.integrity.record_signing import RecordSigner
from tests.support.signing import KEYRING, SIGNING_KEY, STRANGER

KEYS = [SIGNING_KEY.verify_key, STRANGER.verify_key]


def test_what_was_written_is_read(tmp_path: Path) -> None:
    seed, keys = tmp_path / "seed", tmp_path / "keys"
    seed.write_text(SIGNING_KEY.raw.hex() + "\n")
    keys.write_text("# ours\n\n" + verify_keys_text("c1", KEYS) + f"{KEYS[0]}  # again\n")
    assert read_signing_key(seed) == SIGNING_KEY
    assert read_link_seed(seed) == LinkSeed(SIGNING_KEY.raw)
    ring = read_verify_keys(keys)
    assert (ring.cluster, ring.keys) == ("c1", tuple(KEYS))


@pytest.mark.parametrize("text", ["", "ab" * 31, "ab" * 33, "zz" * 32, "\xff" * 64, "ab" * 40000])
@pytest.mark.parametrize("read", [read_signing_key, read_link_seed])
def test_a_seed_that_is_none_is_refused_unquoted(tmp_path: Path, text: str, read: Callable[[Path], object]) -> None:
    path = tmp_path / "seed"
    path.write_text(text)
    with pytest.raises(Terminal) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "docker linkwire install" in str(caught.value)
    assert not text or text[:8] not in str(caught.value).replace(str(path), "")
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no line `cluster ID`"),
        ("cluster c1\n", "no key"),
        (f"{KEYS[0]}\n", "no line `cluster ID`"),
        (f"cluster c1\ncluster c2\n{KEYS[0]}\n", "line 2"),
        (f"cluster\n{KEYS[0]}\n", "line 1"),
        (f"cluster c1\n{KEYS[0]} {KEYS[1]}\n", "line 2"),
        ("cluster c1\nAAAA\n", "line 2"),
    ],
    ids=itertools.count(),  # the keys are others in every process
)
def test_verify_keys_that_are_none(text: str, reason: str) -> None:
    with pytest.raises(Terminal, match=reason):
        parse_verify_keys(text, "FILE")


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for read in (read_signing_key, read_verify_keys):
        with pytest.raises(Terminal, match=r"No such file or directory.*docker linkwire install"):
            read(tmp_path / "none")


def test_a_seed_that_nobody_would_believe() -> None:
    RecordSigner.controller(KEYRING, SIGNING_KEY)
    with pytest.raises(Terminal, match="is not among the verify keys") as caught:
        RecordSigner.controller(KEYRING, STRANGER)
    assert STRANGER.raw.hex() not in str(caught.value)


def test_each_side_writes_its_own_kinds() -> None:
    agent = RecordSigner.agent(KEYRING, SigningKey.generate())
    controller = RecordSigner.controller(KEYRING, SIGNING_KEY)
    reader = RecordSigner.reader(KEYRING)
    for key, writer in {
        "cluster": controller,
        "endpoints/s/t": controller,
        "nodes/n": agent,
        "tasks/n/t": agent,
    }.items():
        opened = reader.open(key, writer.sign(key, 3, b"{}"))
        assert (opened.body, opened.generation, opened.checked) == (b"{}", 3, writer is controller)
        for other in (one for one in (agent, controller, reader) if one is not writer):
            with pytest.raises(Terminal, match="not written by this side"):
                other.sign(key, 3, b"{}")
    assert reader.sign("leader", 1, b"{}") == b"{}"
    assert not reader.open("leader", b"{}").signer
