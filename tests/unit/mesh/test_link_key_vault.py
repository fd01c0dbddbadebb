"""Epoch secrets kept under the vault's, and a controller's own key file."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.crypto.link_key_vault import EpochSecret, VaultSecret, fresh_link_key, keep, seed_id, take_out
from mesh.crypto.preshared_keys import LinkSeed, link_key
from mesh.errors import InvalidRecordError, Terminal
from mesh.identity.key_files import own_sealing_key

SEED, VAULT, FRESH = LinkSeed(bytes(range(32))), VaultSecret(b"v" * 32), EpochSecret(b"e" * 32)


def test_kept_secret_comes_back_for_its_purpose_only() -> None:
    kept = keep(FRESH, VAULT, b"context")
    assert FRESH.raw not in kept
    assert take_out(kept, VAULT, b"context") == FRESH
    assert keep(FRESH, VAULT, b"context") != kept
    for other in (VaultSecret.generate(), VAULT):
        context = b"context" if other is not VAULT else b"another"
        with pytest.raises(InvalidRecordError, match="another vault or epoch"):
            take_out(kept, other, context)


def test_every_bit_of_what_is_kept_counts() -> None:
    kept = keep(FRESH, VAULT, b"context")
    for bit in range(len(kept) * 8):
        changed = bytearray(kept)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(InvalidRecordError):
            take_out(bytes(changed), VAULT, b"context")
    for short in (b"", kept[:1], kept[:-1], kept + b"x"):
        with pytest.raises(InvalidRecordError):
            take_out(short, VAULT, b"context")


def test_neither_half_alone_gives_a_link_key() -> None:
    made = fresh_link_key(SEED, FRESH, "cluster", "shop", 7)
    others = [
        link_key(SEED, "cluster", "shop", 7),
        fresh_link_key(LinkSeed.generate(), FRESH, "cluster", "shop", 7),
        fresh_link_key(SEED, EpochSecret.generate(), "cluster", "shop", 7),
        fresh_link_key(SEED, FRESH, "other", "shop", 7),
        fresh_link_key(SEED, FRESH, "cluster", "other", 7),
        fresh_link_key(SEED, FRESH, "cluster", "shop", 8),
    ]
    assert len({made, *others}) == len(others) + 1


def test_name_of_seed_reveals_no_part() -> None:
    assert seed_id(SEED) == seed_id(LinkSeed(bytes(range(32)))) != seed_id(LinkSeed.generate())
    assert seed_id(SEED) not in SEED.raw.hex()


def test_own_key_is_made_once_for_root_alone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "controller.key"
    made = own_sealing_key(path)
    assert own_sealing_key(path) == made
    assert path.stat().st_mode & 0o777 == 0o600
    assert [found.name for found in path.parent.iterdir()] == ["controller.key"]
    path.chmod(0o640)
    with pytest.raises(Terminal, match="may be read by others"):
        own_sealing_key(path)
    path.chmod(0o600)
    path.write_bytes(b"x")
    with pytest.raises(Terminal, match="not a sealing key") as raised:
        own_sealing_key(path)
    assert made.raw.hex() not in str(raised.value)
