"""Signed values: what was signed comes back, and nothing else is ever taken for it."""

import copy
import hashlib
import pickle
import time
from collections.abc import Callable

import nacl.signing
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from nacl import bindings

from mesh.crypto import signed_envelope
from mesh.crypto.framing import framed
from mesh.crypto.signed_envelope import (
    MAX_BODY,
    MAX_GENERATION,
    InvalidSignatureError,
    Keyring,
    MalformedEnvelopeError,
    Opened,
    Signer,
    SigningKey,
    UnknownSignerError,
    UnsignedError,
    VerifyKey,
    peek,
    unwrap,
    wrap,
)
from mesh.errors import InvalidRecordError, Terminal

SEED = bytes(range(100, 132))
SIGNER = Signer("cluster-1", SigningKey(SEED))
OTHER = Signer("cluster-1", SigningKey(bytes(32)))
RING = Keyring("cluster-1", (SIGNER.key.verify_key,))
KEY = "endpoints/s/t"
VALUE = wrap(SIGNER, KEY, 7, b"the body")

keys = st.text(min_size=1, max_size=40)
bodies = st.binary(max_size=200)
generations = st.integers(1, MAX_GENERATION)


def spellings(raw: bytes) -> set[str]:
    """How a secret might be written by accident."""
    return {raw.hex(), repr(raw), str(list(raw)), repr(raw)[2:-1]}


@given(key=keys, generation=generations, body=bodies, seed=st.binary(min_size=32, max_size=32))
def test_what_was_signed_comes_back(key: str, generation: int, body: bytes, seed: bytes) -> None:
    signer = Signer("c", SigningKey(seed))
    value = wrap(signer, key, generation, body)
    ring = Keyring("c", (OTHER.key.verify_key, signer.key.verify_key))
    for own in (None, signer.key, OTHER.key):
        assert unwrap(ring, key, value, own) == Opened(body, generation, signer.key.verify_key)
    assert wrap(signer, key, generation, body) == value, "one value has one envelope"
    claim = peek(key, value)
    assert (claim.body, claim.generation, claim.signer_id) == (body, generation, signer.key.verify_key.id)


def test_the_form_in_the_store() -> None:
    """Written out by hand, so that a change of the format is seen to be one."""
    header = b"LWS\x01" + SIGNER.key.verify_key.id + (7).to_bytes(8, "big") + (8).to_bytes(4, "big")
    parts = [b"linkwire signed record 1", b"cluster-1", KEY.encode(), header, b"the body"]
    message = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    assert header + b"the body" + nacl.signing.SigningKey(SEED).sign(message).signature == VALUE


def test_signatures_are_those_of_rfc_8032() -> None:
    """Section 7.1, TEST 2."""
    key = SigningKey(bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"))
    assert key.verify_key.raw.hex() == "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    assert key.sign(b"\x72").hex() == (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )


@given(st.lists(st.binary(max_size=5), max_size=5), st.lists(st.binary(max_size=5), max_size=5))
def test_framed_parts_parse_in_one_way_only(one: list[bytes], other: list[bytes]) -> None:
    assert (framed(*one) == framed(*other)) == (one == other)


def refused(value: bytes, key: str = KEY, ring: Keyring = RING) -> type[InvalidRecordError]:
    """Fail unless a value is refused by name, and by who has signed alike; returns by which."""
    with pytest.raises((UnsignedError, MalformedEnvelopeError, UnknownSignerError, InvalidSignatureError)) as caught:
        unwrap(ring, key, value)
    for own in (SIGNER.key, OTHER.key):
        with pytest.raises(caught.type) as again:
            unwrap(ring, key, value, own)
        assert str(again.value) == str(caught.value)
    assert str(caught.value).startswith(f"{key}: ")
    assert "the body" not in str(caught.value)
    return caught.type


def test_every_single_bit_counts() -> None:
    for bit in range(8 * len(VALUE)):
        value = bytearray(VALUE)
        value[bit // 8] ^= 1 << bit % 8
        refused(bytes(value))


def test_every_shorter_and_every_longer_one_is_refused() -> None:
    for length in range(len(VALUE)):
        assert refused(VALUE[:length]) in (UnsignedError, MalformedEnvelopeError)
    for end in (b"\0", b"x", VALUE, bytes(64)):
        assert refused(VALUE + end) is MalformedEnvelopeError
    for begin in (b"\0", b" ", VALUE[:1]):
        assert refused(begin + VALUE) is UnsignedError


@given(st.data())
def test_a_mutation_is_never_taken(data: st.DataObject) -> None:
    value = bytearray(VALUE)
    for _ in range(data.draw(st.integers(1, 4))):
        at, to = data.draw(st.integers(0, len(value))), data.draw(st.integers(0, len(value)))
        piece = data.draw(st.binary(max_size=8)) or value[min(at, to) : max(at, to)]
        value[at : data.draw(st.integers(at, len(value)))] = piece
    if bytes(value) != VALUE:
        refused(bytes(value))


@given(st.binary(max_size=300))
@example(b"")
@example(b"{}")
@example(b'{"v":1,"holder":"me"}')
@example(b"LWS\x01")
@example(b"LWS\x02" + VALUE[4:])
def test_any_bytes_are_refused_by_name(value: bytes) -> None:
    refused(value)
    refused(b"LWS\x01" + value)
    refused(b"LWS\x01" + SIGNER.key.verify_key.id + value)


@given(key=st.text())
def test_under_another_key_it_is_forged(key: str) -> None:
    if key != KEY:
        assert refused(VALUE, key) is InvalidSignatureError


def test_half_a_character_in_key_is_refused_alike() -> None:
    with pytest.raises(InvalidSignatureError):
        unwrap(RING, "endpoints/\ud800", VALUE)


def test_in_another_cluster_it_is_forged() -> None:
    assert refused(VALUE, ring=Keyring("cluster-2", RING.keys)) is InvalidSignatureError
    # Where one text ends and the next begins is signed too.
    moved = wrap(Signer("cluster-1e", SIGNER.key), KEY[1:], 7, b"the body")
    assert refused(moved, ring=Keyring("cluster-1", RING.keys)) is InvalidSignatureError


def test_a_generation_of_ones_own_choice_is_forged() -> None:
    for generation in (1, 6, 8, MAX_GENERATION):
        assert refused(VALUE[:20] + generation.to_bytes(8, "big") + VALUE[28:]) is InvalidSignatureError
    for generation in (0, MAX_GENERATION + 1, 2**64 - 1):
        assert refused(VALUE[:20] + generation.to_bytes(8, "big") + VALUE[28:]) is MalformedEnvelopeError


def test_signature_of_one_generation_fails_for_next() -> None:
    later = wrap(SIGNER, KEY, 8, b"the body")
    assert refused(later[:-64] + VALUE[-64:]) is InvalidSignatureError
    assert refused(wrap(SIGNER, KEY, 7, b"the BODY")[:-64] + VALUE[-64:]) is InvalidSignatureError


def test_stranger_is_unknown_and_under_another_name_forges() -> None:
    strange = wrap(OTHER, KEY, 7, b"the body")
    assert refused(strange) is UnknownSignerError
    assert refused(strange[:4] + SIGNER.key.verify_key.id + strange[20:]) is InvalidSignatureError
    assert refused(VALUE, ring=Keyring("cluster-1", ())) is UnknownSignerError
    header = VALUE[:32]
    message = framed("linkwire signed record 1", "cluster-1", KEY, header, b"the body")
    both = Keyring("cluster-1", (SIGNER.key.verify_key, OTHER.key.verify_key))
    assert refused(header + b"the body" + OTHER.key.sign(message), ring=both) is InvalidSignatureError


def test_while_the_signing_key_changes_both_hold() -> None:
    both = Keyring("cluster-1", (SIGNER.key.verify_key, OTHER.key.verify_key))
    new = wrap(OTHER, KEY, 8, b"the body")
    assert unwrap(both, KEY, VALUE).signer == SIGNER.key.verify_key
    assert unwrap(both, KEY, new).signer == OTHER.key.verify_key
    after = Keyring("cluster-1", (OTHER.key.verify_key,))
    assert unwrap(after, KEY, new).generation == 8
    assert refused(VALUE, ring=after) is UnknownSignerError


def with_another_nonce(key: SigningKey, message: bytes, nonce: bytes) -> bytes:
    """A signature that holds and is not the one of RFC 8032, section 5.1.6, whose nonce follows from the message."""
    digest = bytearray(hashlib.sha512(key.raw).digest()[:32])
    digest[0], digest[31] = digest[0] & 248, digest[31] & 63 | 64
    r = bindings.crypto_core_ed25519_scalar_reduce(hashlib.sha512(nonce).digest())
    point = bindings.crypto_scalarmult_ed25519_base_noclamp(r)
    challenge = hashlib.sha512(point + key.verify_key.raw + message).digest()
    secret = bindings.crypto_core_ed25519_scalar_reduce(bytes(digest) + bytes(32))
    product = bindings.crypto_core_ed25519_scalar_mul(bindings.crypto_core_ed25519_scalar_reduce(challenge), secret)
    return point + bindings.crypto_core_ed25519_scalar_add(r, product)


@given(body=bodies, nonce=st.binary(max_size=8))
def test_same_signer_recognises_its_keys_other_signatures(body: bytes, nonce: bytes) -> None:
    """Nothing but time may follow from how one who has the key checks."""
    plain = wrap(SIGNER, KEY, 7, body)
    header = plain[:32]
    message = framed("linkwire signed record 1", "cluster-1", KEY, header, body)
    other = header + body + with_another_nonce(SIGNER.key, message, nonce)
    assert other != plain
    assert SIGNER.key.did_sign(plain[-64:], message)
    assert not SIGNER.key.did_sign(other[-64:], message)
    for own in (None, SIGNER.key, OTHER.key):
        assert unwrap(RING, KEY, other, own) == unwrap(RING, KEY, plain, own)


def test_a_signature_has_one_encoding() -> None:
    """S and S + L sign the same in RFC 8032's equation; only S below L is one (section 5.1.7)."""
    order = 2**252 + 27742317777372353535851937790883648493
    s = int.from_bytes(VALUE[-32:], "little") + order
    assert refused(VALUE[:-32] + s.to_bytes(32, "little")) is InvalidSignatureError


LOW_ORDER = [
    bytes(32),
    b"\x01" + bytes(31),
    b"\xec" + b"\xff" * 30 + b"\x7f",
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
]


@pytest.mark.parametrize(
    "raw", [*LOW_ORDER, b"", b"x" * 31, b"x" * 33, b"\xff" * 32, b"\xee" + b"\xff" * 30 + b"\x7f"]
)
def test_what_verifies_too_much_is_no_verify_key(raw: bytes) -> None:
    with pytest.raises(Terminal, match="a verify key is 32 bytes"):
        VerifyKey(raw)


@given(st.binary(max_size=40))
def test_any_bytes_are_a_verify_key_or_refused(raw: bytes) -> None:
    try:
        key = VerifyKey(raw)
    except Terminal:
        return
    assert VerifyKey.parse(str(key)) == key
    assert not key.verifies(bytes(64), b"")
    assert not key.verifies(b"", b"")
    assert not key.verifies(b"x" * 63, b"")


@pytest.mark.parametrize("length", [0, 1, 63, 65, 128])
def test_a_signature_of_another_length_does_not_hold(length: int) -> None:
    signature = SIGNER.key.sign(b"")
    assert SIGNER.key.verify_key.verifies(signature, b"")
    assert not SIGNER.key.verify_key.verifies((signature * 2)[:length], b"")


def test_signed_content_starts_after_the_signature() -> None:
    signature = SIGNER.key.sign(b"ab")
    assert SIGNER.key.verify_key.verifies(signature, b"ab")
    assert not SIGNER.key.verify_key.verifies(signature + b"a", b"b")
    assert not SIGNER.key.verify_key.verifies(signature[:-1], signature[-1:] + b"ab")


def test_a_later_format_is_not_read() -> None:
    assert refused(b"LWS\x02" + VALUE[4:]) is UnsignedError


@pytest.mark.parametrize("text", ["", "x", "A" * 44, "é" * 44, "AAAA" * 12])
def test_a_text_that_is_no_verify_key(text: str) -> None:
    with pytest.raises(Terminal, match="a verify key is 32 bytes"):
        VerifyKey.parse(text)


@pytest.mark.parametrize("generation", [0, -1, MAX_GENERATION + 1])
def test_a_generation_out_of_bounds_is_not_signed(generation: int) -> None:
    with pytest.raises(ValueError, match="a generation is a number from 1"):
        wrap(SIGNER, KEY, generation, b"")


def test_the_largest_body_and_one_more() -> None:
    largest = bytes(MAX_BODY)
    assert unwrap(RING, KEY, wrap(SIGNER, KEY, 1, largest)).body == largest
    with pytest.raises(ValueError, match="a record has at most"):
        wrap(SIGNER, KEY, 1, largest + b"\0")
    long = VALUE[:28] + (MAX_BODY + 1).to_bytes(4, "big") + largest + b"\0" + bytes(64)
    assert refused(long) is MalformedEnvelopeError


@given(st.binary(min_size=32, max_size=32))
def test_a_signing_key_does_not_print(seed: bytes) -> None:
    key = SigningKey(seed)
    for text in (repr(key), str(key), f"{key}", f"{key!r}", repr(Signer("c", key)), repr({key: [key]})):
        assert "SigningKey(redacted)" in text
        assert not [spelling for spelling in spellings(seed) if spelling in text]


@pytest.mark.parametrize("give", [pickle.dumps, copy.deepcopy, copy.copy])
def test_a_signing_key_is_not_pickled(give: Callable[[object], object]) -> None:
    with pytest.raises(TypeError, match=r"^a SigningKey is not pickled$"):
        give(SIGNER.key)


def test_signing_keys_compare_by_value_within_a_kind() -> None:
    assert SigningKey(SEED) == SIGNER.key
    assert hash(SigningKey(SEED)) == hash(SIGNER.key)
    assert SigningKey.generate() != SigningKey.generate()
    others: list[object] = [SEED, None, SIGNER.key.verify_key, type("Same", (SigningKey,), {})(SEED)]
    assert all(other != SIGNER.key for other in others)
    assert not hasattr(SIGNER.key, "__dict__")


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_seed_has_32_bytes_and_is_not_quoted(length: int) -> None:
    with pytest.raises(Terminal, match=r"^a signing key's seed is 32 bytes$"):
        SigningKey(b"k" * length)


def test_cost_of_10000(figure: Callable[[str], None]) -> None:
    body = bytes(350)
    names = [f"endpoints/{number:025}/{number:025}" for number in range(10_000)]
    began = time.process_time()
    values = [wrap(SIGNER, name, 1, body) for name in names]
    signed = time.process_time()
    for name, value in zip(names, values, strict=True):
        unwrap(RING, name, value)
    verified = time.process_time()
    for name, value in zip(names, values, strict=True):
        unwrap(RING, name, value, SIGNER.key)
    of = "10,000 envelopes of 350 bytes"
    took = f"verified in {verified - signed:.2f}, by who signed them in {time.process_time() - verified:.2f}"
    figure(f"{of}: signed in {signed - began:.2f} s of CPU, {took}")


def test_the_header_is_what_the_docstring_says() -> None:
    assert signed_envelope._HEADER.size == 4 + 16 + 8 + 4
