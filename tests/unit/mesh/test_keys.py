"""Key types: clamped, redacted, never pickled, and sealed to one reader."""

from __future__ import annotations

import copy
import pickle
import traceback
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.crypto.hpke import DecryptionError, NodeKey
from mesh.crypto.keys import PrivateKey, PublicKey
from mesh.errors import Terminal
from mesh.integrity.sealed_keys import open_key, sealed_key
from mesh.topology.wgtypes import DeviceChange

SECRET = bytes(range(64, 96))
KEY = PrivateKey(SECRET)

raws = st.binary(min_size=32, max_size=32)


def spellings(raw: bytes) -> set[str]:
    """How a key might be written by accident."""
    plain = PrivateKey(raw).raw
    return {
        raw.hex(),
        plain.hex(),
        str(PublicKey(raw)),
        str(PublicKey(plain)),
        repr(raw),
        repr(plain),
        str(list(plain)),
    }


@given(raws)
def test_private_key_is_clamped_once(raw: bytes) -> None:
    key = PrivateKey(raw)
    assert key.raw[0] & 0b111 == 0
    assert key.raw[31] & 0b1100_0000 == 0b0100_0000
    assert key.raw[1:31] == raw[1:31]
    assert (key.raw[0] | 0b111, key.raw[31] | 0b1100_0000) == (raw[0] | 0b111, raw[31] | 0b1100_0000)
    assert PrivateKey(key.raw) == key
    assert PrivateKey(key.raw).raw == key.raw


def test_the_public_key_is_that_of_rfc_7748() -> None:
    """Section 5.2, after one iteration: scalar and point are both 9, and 9 is the base point."""
    nine = PrivateKey((9).to_bytes(32, "little"))
    assert nine.public.raw.hex() == "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"


@given(raws)
def test_a_secret_key_does_not_print(raw: bytes) -> None:
    key = PrivateKey(raw)
    shown = [
        repr(key),
        str(key),
        f"{key}",
        f"{key!r}",
        repr(DeviceChange(private_key=key)),
        repr([key]),
        repr({key: 1}),
    ]
    for text in shown:
        assert "redacted" in text
        assert not [spelling for spelling in spellings(raw) if spelling in text]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_secret_key_is_not_pickled(protocol: int) -> None:
    with pytest.raises(TypeError, match=r"^a PrivateKey is not pickled$"):
        pickle.dumps(KEY, protocol)
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps({"key": [KEY]}, protocol)
    with pytest.raises(TypeError, match="not pickled"):
        copy.deepcopy(KEY)


def test_keys_compare_by_value_within_a_kind() -> None:
    assert PrivateKey(SECRET) == KEY
    assert hash(PrivateKey(SECRET)) == hash(KEY)
    assert PrivateKey.generate() != PrivateKey.generate()
    others: list[object] = [PublicKey(KEY.raw), KEY.raw, None]
    assert all(other != KEY for other in others)
    assert not hasattr(KEY, "__dict__")


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_key_has_32_bytes(length: int) -> None:
    with pytest.raises(Terminal, match=r"^a public key is 32 bytes$"):
        PublicKey(b"x" * length)
    with pytest.raises(Terminal, match=r"^a secret key is 32 bytes$") as caught:
        PrivateKey(SECRET[:1] * length)
    assert SECRET[:1].hex() * 2 not in str(caught.value)


@given(raws)
def test_public_key_round_trips_in_wg_format(raw: bytes) -> None:
    key = PublicKey(raw)
    assert PublicKey.parse(str(key)) == key
    assert (len(str(key)), str(key)[-1]) == (44, "=")
    assert repr(key) == f"PublicKey({key})"


@pytest.mark.parametrize("text", ["", "x", "A" * 43, "A" * 44, "é" * 44, str(PublicKey(SECRET)) + "\n", "AAAA" * 12])
def test_malformed_key_is_refused_unquoted(text: str) -> None:
    with pytest.raises(Terminal) as caught:
        PublicKey.parse(text)
    assert str(caught.value) == "a key is 32 bytes in base64"


NODE = NodeKey(b"n" * 32)
PLACES = st.tuples(st.text(max_size=5), st.text(max_size=5), st.integers(0, 3))


@settings(deadline=None, max_examples=60)
@given(raws, PLACES, PLACES)
def test_sealed_key_opens_for_its_node_and_task(
    raw: bytes, place: tuple[str, str, int], other: tuple[str, str, int]
) -> None:
    secret = PrivateKey(raw)
    record = sealed_key(secret, NODE.public, *place)
    assert (record.node, record.task, record.epoch, record.sealed_to) == (*place, NODE.public.fingerprint)
    assert open_key(record, NODE) == secret
    with pytest.raises(DecryptionError):
        open_key(record, NodeKey(b"o" * 32))
    moved = replace(record, node=other[0], task=other[1], epoch=other[2])
    if moved != record:
        with pytest.raises(DecryptionError):
            open_key(moved, NODE)


def test_a_failure_to_open_tells_no_secret() -> None:
    record = sealed_key(KEY, NODE.public, "n", "t", 0)
    with pytest.raises(DecryptionError) as caught:
        open_key(replace(record, epoch=1), NODE)
    text = "".join(traceback.format_exception(caught.value))
    assert not [spelling for spelling in spellings(SECRET) if spelling in text + repr(record)]
