"""Boxes for a node: opened by its key for their purpose alone, and closed while either half of the hybrid holds.

What HPKE and X-Wing do is written out here once more, from the RFC and the draft, and held against both the library
and the draft's own vector: so the box is what the docstring says, and its halves can be taken apart.
"""

import copy
import hashlib
import hmac
import pickle
import time
from collections.abc import Callable

import nacl.public
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mesh.crypto.framing import framed
from mesh.crypto.hpke import (
    MAX_SECRET,
    DecryptionError,
    MalformedCiphertextError,
    NodeKey,
    NodePublicKey,
    seal,
    unseal,
)
from mesh.errors import Terminal
from tests.unit.mesh import hpke_vector as vector

SECRET = b"a WireGuard key, or a link key's"
CONTEXT = framed("keys/n/t", "n", 0)
KEY = NodeKey(bytes(range(32)))
BOX = seal(SECRET, KEY.public, CONTEXT)
SUITE = b"HPKE" + bytes.fromhex("647a00010003")

seeds = st.binary(min_size=32, max_size=32)


def halves(seed: bytes) -> tuple[MLKEM768PrivateKey, X25519PrivateKey]:
    """draft-connolly-cfrg-xwing-kem, section 5.2."""
    expanded = hashlib.shake_256(seed).digest(96)
    return MLKEM768PrivateKey.from_seed_bytes(expanded[:64]), X25519PrivateKey.from_private_bytes(expanded[64:])


def combined(ss_m: bytes, ss_x: bytes, ct_x: bytes, pk_x: bytes) -> bytes:
    """The same, section 5.3."""
    return hashlib.sha3_256(ss_m + ss_x + ct_x + pk_x + b"\\.//^\\").digest()


def extract(salt: bytes, label: bytes, material: bytes) -> bytes:
    """RFC 9180, section 4, LabeledExtract."""
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + SUITE + label + material, "sha256")


def expand(secret: bytes, label: bytes, info: bytes, length: int) -> bytes:
    """RFC 9180, section 4, LabeledExpand; no more than one block of HKDF-SHA256."""
    labelled = length.to_bytes(2, "big") + b"HPKE-v1" + SUITE + label + info
    return hmac.digest(secret, labelled + b"\x01", "sha256")[:length]


def schedule(shared: bytes, info: bytes) -> tuple[bytes, bytes]:
    """RFC 9180, section 5.1, base mode: key and base nonce."""
    context = b"\0" + extract(b"", b"psk_id_hash", b"") + extract(b"", b"info_hash", info)
    secret = extract(shared, b"secret", b"")
    return expand(secret, b"key", context, 32), expand(secret, b"base_nonce", context, 12)


def info_of(context: bytes) -> bytes:
    name = b"linkwire sealed box 1"
    return len(name).to_bytes(8, "big") + name + len(context).to_bytes(8, "big") + context


def opened_by_hand(
    box: bytes, mlkem: MLKEM768PrivateKey, x25519: X25519PrivateKey, context: bytes = CONTEXT
) -> bytes:
    ct_m, ct_x, sealed = box[1:1089], box[1089:1121], box[1121:]
    ss_x = x25519.exchange(X25519PublicKey.from_public_bytes(ct_x))
    shared = combined(mlkem.decapsulate(ct_m), ss_x, ct_x, x25519.public_key().public_bytes_raw())
    key, nonce = schedule(shared, info_of(context))
    return ChaCha20Poly1305(key).decrypt(nonce, sealed, b"")


def sealed_by_hand(secret: bytes, to: NodePublicKey, ss_x: bytes, ct_x: bytes, first: bytes = b"\1") -> bytes:
    ss_m, ct_m = MLKEM768PublicKey.from_public_bytes(to.raw[:1184]).encapsulate()
    key, nonce = schedule(combined(ss_m, ss_x, ct_x, to.raw[1184:]), info_of(CONTEXT))
    return first + ct_m + ct_x + ChaCha20Poly1305(key).encrypt(nonce, secret, b"")


def test_the_draft_s_vector() -> None:
    key = NodeKey(vector.SEED)
    assert hashlib.sha256(key.public.raw).digest() == vector.PUBLIC_KEY_SHA256
    mlkem, x25519 = halves(vector.SEED)
    ct_m, ct_x = vector.ENCAPSULATED[:1088], vector.ENCAPSULATED[1088:]
    ss_x = x25519.exchange(X25519PublicKey.from_public_bytes(ct_x))
    shared = combined(mlkem.decapsulate(ct_m), ss_x, ct_x, key.public.raw[1184:])
    assert shared == vector.SHARED_SECRET
    assert schedule(shared, vector.INFO) == (vector.KEY, vector.BASE_NONCE)
    assert ChaCha20Poly1305(vector.KEY).decrypt(vector.BASE_NONCE, vector.CIPHERTEXT, vector.AAD) == vector.PLAINTEXT


@settings(max_examples=20)
@given(seed=seeds, secret=st.binary(max_size=100), context=st.binary(max_size=50))
def test_box_matches_rfc_9180_and_x_wing(seed: bytes, secret: bytes, context: bytes) -> None:
    key = NodeKey(seed)
    box = seal(secret, key.public, context)
    assert len(box) == 1 + 1088 + 32 + len(secret) + 16
    assert opened_by_hand(box, *halves(seed), context) == secret
    assert unseal(box, key, context) == secret
    assert seal(secret, key.public, context) != box, "nobody sees that two are the same"


def test_a_box_made_by_hand_is_opened() -> None:
    ephemeral = X25519PrivateKey.generate()
    ss_x = ephemeral.exchange(X25519PublicKey.from_public_bytes(KEY.public.raw[1184:]))
    box = sealed_by_hand(SECRET, KEY.public, ss_x, ephemeral.public_key().public_bytes_raw())
    assert unseal(box, KEY, CONTEXT) == SECRET


def test_half_of_a_private_key_opens_nothing() -> None:
    mlkem, x25519 = halves(KEY.raw)
    other_mlkem, other_x25519 = halves(bytes(32))
    assert opened_by_hand(BOX, mlkem, x25519) == SECRET
    for stolen in ((mlkem, other_x25519), (other_mlkem, x25519)):
        with pytest.raises(InvalidTag):
            opened_by_hand(BOX, *stolen)


def test_who_breaks_one_half_opens_nothing() -> None:
    """He computes that half's shared secret from the public ones, and has to guess the other's."""
    mlkem, x25519 = halves(KEY.raw)
    ct_m, ct_x, sealed = BOX[1:1089], BOX[1089:1121], BOX[1121:]
    ss_m, ss_x = mlkem.decapsulate(ct_m), x25519.exchange(X25519PublicKey.from_public_bytes(ct_x))
    for guess in (bytes(32), b"\1" * 32, ss_x, ss_m):
        for pair in ((ss_m, guess), (guess, ss_x), (guess, guess)):
            if pair != (ss_m, ss_x):
                key, nonce = schedule(combined(*pair, ct_x, KEY.public.raw[1184:]), info_of(CONTEXT))
                with pytest.raises(InvalidTag):
                    ChaCha20Poly1305(key).decrypt(nonce, sealed, b"")


@pytest.mark.parametrize(
    "point", ["00" * 32, "01" + "00" * 31, "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"]
)
def test_box_with_zero_x25519_half_is_refused(point: str) -> None:
    """Its shared secret is zero whoever opens it, and all else about this box is right."""
    box = sealed_by_hand(SECRET, KEY.public, bytes(32), bytes.fromhex(point))
    with pytest.raises(DecryptionError):
        unseal(box, KEY, CONTEXT)


def refused(box: bytes, key: NodeKey = KEY, context: bytes = CONTEXT) -> None:
    with pytest.raises((MalformedCiphertextError, DecryptionError)) as caught:
        unseal(box, key, context)
    assert SECRET.decode() not in str(caught.value)


@settings(max_examples=300)
@given(st.integers(0, 8 * len(BOX) - 1))
@example(0)
@example(8)
@example(8 * 1089)
@example(8 * 1121 - 1)
@example(8 * 1121)
@example(8 * len(BOX) - 1)
def test_every_single_bit_counts(bit: int) -> None:
    """The X25519 key's highest bit too, which RFC 7748 (section 5) ignores: X-Wing hashes the bytes."""
    box = bytearray(BOX)
    box[bit // 8] ^= 1 << bit % 8
    refused(bytes(box))


@given(st.integers(0, len(BOX) - 1), st.binary(min_size=1, max_size=20))
def test_a_shorter_or_longer_one_is_refused(length: int, end: bytes) -> None:
    refused(BOX[:length])
    refused(BOX + end)
    refused(end + BOX)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_any_bytes_are_refused_by_name(start: bytes, end: bytes) -> None:
    refused(start + end)
    refused(b"\1" + start + BOX[1 + len(start) : len(BOX) - len(end)] + end + b"x")


def test_the_halves_of_two_boxes_do_not_fit() -> None:
    other = seal(SECRET, KEY.public, CONTEXT)
    for mixed in (BOX[:1089] + other[1089:], BOX[:1121] + other[1121:], BOX[:1089] + other[1089:1121] + BOX[1121:]):
        refused(mixed)


@settings(max_examples=30)
@given(seed=seeds, context=st.binary(max_size=60))
def test_box_opens_for_its_node_and_purpose_only(seed: bytes, context: bytes) -> None:
    refused(BOX, NodeKey(seed))
    refused(BOX, KEY, context)
    for other in (
        framed("keys/n/t", "n", 1),
        framed("keys/n/u", "n", 0),
        framed("keys/n", "/tn", 0),
        CONTEXT + b"\0",
    ):
        refused(BOX, KEY, other)


def test_old_x25519_box_is_no_box() -> None:
    old = nacl.public.SealedBox(nacl.public.PrivateKey(KEY.raw).public_key).encrypt(SECRET)
    for box in (old, b"\1" + old, b"\1" + old + bytes(2000)):
        refused(box)
    with pytest.raises(MalformedCiphertextError, match="not a sealed box of format 1"):
        unseal(old, KEY, CONTEXT)
    with pytest.raises(MalformedCiphertextError, match="not a sealed box of format 1"):
        unseal(b"\2" + BOX[1:], KEY, CONTEXT)


@pytest.mark.parametrize("length", [0, 1, 1121, 1136, 1137 + MAX_SECRET + 1])
def test_a_length_that_no_box_has(length: int) -> None:
    with pytest.raises(MalformedCiphertextError):
        unseal(b"\1" * length, KEY, CONTEXT)


def test_the_longest_secret_and_one_more() -> None:
    longest = bytes(MAX_SECRET)
    assert unseal(seal(longest, KEY.public, b""), KEY, b"") == longest
    with pytest.raises(ValueError, match="a secret to seal has at most 4096 bytes, not 4097"):
        seal(longest + b"\0", KEY.public, b"")


def test_a_public_key_comes_round() -> None:
    key = KEY.public
    assert NodePublicKey.parse(str(key)) == key == NodePublicKey(key.raw)
    assert len(key.raw) == 1216
    assert key.fingerprint == hashlib.sha256(framed("linkwire node key", key.raw)).hexdigest()
    assert repr(key) == f"NodePublicKey({key.fingerprint})"
    assert NodeKey(bytes(32)).public.fingerprint != key.fingerprint


@pytest.mark.parametrize("text", ["", "x", "A" * 1624, "é" * 1624, "AAAA"])
def test_a_text_that_is_no_public_key(text: str) -> None:
    with pytest.raises(Terminal, match="sealing key"):
        NodePublicKey.parse(text)


@pytest.mark.parametrize("length", [0, 32, 1215, 1217])
def test_a_public_key_of_another_length(length: int) -> None:
    with pytest.raises(Terminal, match="is 1216 bytes"):
        NodePublicKey((KEY.public.raw * 2)[:length])


@pytest.mark.parametrize(
    "point",
    [
        "00" * 32,
        "01" + "00" * 31,
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ],
)
def test_nothing_is_sealed_to_low_order_points(point: str) -> None:
    """All of them, as https://cr.yp.to/ecdh.html lists them."""
    with pytest.raises(Terminal, match="a node's sealing key is not a valid public key"):
        NodePublicKey(KEY.public.raw[:1184] + bytes.fromhex(point))


def test_nothing_is_sealed_beyond_ml_kem_modulus() -> None:
    """FIPS 203, section 7.2, the modulus check."""
    with pytest.raises(Terminal, match="a node's sealing key is not a valid public key"):
        NodePublicKey(b"\xff" * 1184 + KEY.public.raw[1184:])


@given(seeds)
@settings(max_examples=30)
def test_node_key_round_trips_and_never_prints(seed: bytes) -> None:
    key = NodeKey(seed)
    assert NodeKey.from_file(key.to_file()) == key
    assert NodeKey.from_file(key.to_file()).public == key.public
    for text in (repr(key), str(key), f"{key}", repr([key])):
        assert "NodeKey(redacted)" in text
        assert not [found for found in (seed.hex(), repr(seed), repr(seed)[2:-1], str(list(seed))) if found in text]


def test_a_new_key_is_a_new_key() -> None:
    assert NodeKey.generate() != NodeKey.generate()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        bytes(32),
        b"linkwire node key 1\n" + b"k" * 31,
        b"linkwire node key 2\n" + bytes(32),
        KEY.to_file() + b"\n",
        b"\n" + KEY.to_file(),
    ],
)
def test_malformed_node_key_file_is_refused_unquoted(content: bytes) -> None:
    with pytest.raises(Terminal, match=r"^not a node's sealing key in a format that this version reads$"):
        NodeKey.from_file(content)


@pytest.mark.parametrize("give", [pickle.dumps, copy.deepcopy, copy.copy])
def test_a_node_key_is_not_pickled(give: Callable[[object], object]) -> None:
    with pytest.raises(TypeError, match=r"^a NodeKey is not pickled$"):
        give(KEY)


def test_cost(figure: Callable[[str], None]) -> None:
    began = time.process_time()
    boxes = [seal(SECRET, KEY.public, CONTEXT) for _ in range(200)]
    sealed = time.process_time()
    for box in boxes:
        unseal(box, KEY, CONTEXT)
    took = time.process_time() - sealed
    figure(f"a box of 32 bytes: sealed in {(sealed - began) * 5000:.0f} us, opened in {took * 5000:.0f} us of CPU")
