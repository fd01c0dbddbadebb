"""Preshared keys: both ends of a pair derive the same, and nobody without every link key derives it."""

import copy
import hmac
import pickle
from collections.abc import Callable
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.crypto.keys import PublicKey
from mesh.crypto.preshared_keys import LinkKey, LinkKeys, LinkSeed, PresharedKey, link_key, preshared_key
from mesh.errors import Terminal
from mesh.model.labels.link_labels import LinkLabel, check_service_name, key_name

SECRET = LinkKey(bytes(range(32)))
ONE, TWO, THREE = (PublicKey(bytes([number]) * 32) for number in (1, 2, 3))

raws = st.binary(min_size=32, max_size=32)
publics = st.builds(PublicKey, raws)
names = st.text(max_size=20)
rings = st.dictionaries(names, st.builds(LinkKey, raws), min_size=1, max_size=5)


def hkdf(salt: bytes, material: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869, section 2, as it is written there."""
    secret = hmac.digest(salt, material, "sha256")
    blocks, last = b"", b""
    for number in range(1, -(-length // 32) + 1):
        last = hmac.digest(secret, last + info + bytes([number]), "sha256")
        blocks += last
    return blocks[:length]


@pytest.mark.parametrize(
    ("salt", "material", "info", "okm"),
    [
        (
            bytes(range(13)),
            b"\x0b" * 22,
            bytes(range(0xF0, 0xFA)),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            bytes(range(0x60, 0xB0)),
            bytes(range(0x50)),
            bytes(range(0xB0, 0x100)),
            (
                "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
                "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87"
            ),
        ),
        (
            b"",
            b"\x0b" * 22,
            b"",
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    ],
)
def test_the_vectors_of_rfc_5869(salt: bytes, material: bytes, info: bytes, okm: str) -> None:
    """Appendix A.1 to A.3, for the copy that the next test compares with."""
    assert hkdf(salt, material, info, len(okm) // 2).hex() == okm


@given(rings, publics, publics)
def test_derivation_is_hkdf_over_secrets_in_name_order(
    ring: dict[str, LinkKey], one: PublicKey, other: PublicKey
) -> None:
    if one == other:
        return
    ordered = sorted(ring)
    parts = [b"linkwire preshared key 1", *sorted([one.raw, other.raw]), len(ring).to_bytes(8, "big")]
    info = b"".join(len(part).to_bytes(8, "big") + part for part in [*parts, *(name.encode() for name in ordered)])
    material = b"".join(ring[name].raw for name in ordered)
    expected = hkdf(b"linkwire preshared key 1", material, info, 32)
    assert preshared_key(ring.items(), one, other).raw == expected


def test_the_key_does_not_change_with_a_version() -> None:
    """Two versions of the agent at the two ends of a link must agree."""
    assert preshared_key([("shop_db", SECRET)], ONE, TWO).raw.hex() == KNOWN
    assert preshared_key([("shop_db", SECRET)], TWO, ONE).raw.hex() == KNOWN


KNOWN = "136b49e1aaa9f993e11246fc85d791a5e4dcd9edf8a442e4a3e3b5853a9ab86c"


@given(rings, publics, publics)
def test_both_ends_derive_the_same(ring: dict[str, LinkKey], one: PublicKey, other: PublicKey) -> None:
    if one == other:
        return
    key = preshared_key(ring.items(), one, other)
    assert preshared_key(ring.items(), other, one) == key
    assert preshared_key(reversed(list(ring.items())), one, other) == key
    assert preshared_key([*ring.items(), *ring.items()], one, other) == key, "the same link key, met on both links"
    name, secret = next(iter(ring.items()))
    assert (preshared_key([(name, secret)], one, other) == key) == (len(ring) == 1)


def test_whoever_links_to_whom() -> None:
    both = [("web_to_db", SECRET), ("db_to_web", LinkKey(bytes(32))), ("third", LinkKey(b"3" * 32))]
    assert (
        len({preshared_key(order, *pair) for order in permutations(both) for pair in ((ONE, TWO), (TWO, ONE))}) == 1
    )


@given(rings, st.data())
def test_everything_counts(ring: dict[str, LinkKey], data: st.DataObject) -> None:
    key = preshared_key(ring.items(), ONE, TWO)
    name = data.draw(st.sampled_from(sorted(ring)))
    raw = bytearray(ring[name].raw)
    raw[data.draw(st.integers(0, 31))] ^= 1 << data.draw(st.integers(0, 7))
    others = [preshared_key(ring.items(), ONE, THREE), preshared_key(ring.items(), TWO, THREE)]
    others.append(preshared_key({**ring, name: LinkKey(bytes(raw))}.items(), ONE, TWO))
    others.append(preshared_key({**ring, name + "x" * 21: ring[name]}.items(), ONE, TWO))
    without = {other: secret for other, secret in ring.items() if other != name}
    if without:
        others.append(preshared_key(without.items(), ONE, TWO))
    others.append(preshared_key({**without, name + "x" * 21: ring[name]}.items(), ONE, TWO))
    assert key not in others
    assert len(set(others)) == len(others)


def test_two_secrets_that_change_places_give_another_key() -> None:
    other = LinkKey(bytes(32))
    straight = preshared_key([("a", SECRET), ("b", other)], ONE, TWO)
    assert preshared_key([("a", other), ("b", SECRET)], ONE, TWO) != straight


def test_names_that_concatenate_alike_stay_distinct() -> None:
    rings = ([("ab", SECRET), ("c", SECRET)], [("a", SECRET), ("bc", SECRET)], [("abc", SECRET)], [("", SECRET)])
    assert len({preshared_key(ring, ONE, TWO) for ring in rings}) == len(rings)


def test_every_pair_has_its_own() -> None:
    tasks = [PublicKey(bytes([number]) * 32) for number in range(20)]
    keys = {preshared_key([("k", SECRET)], one, other) for one in tasks for other in tasks if one < other}
    assert len(keys) == 190
    assert SECRET.raw not in {key.raw for key in keys}


def test_impossible_input_is_refused_without_quoting_secrets() -> None:
    with pytest.raises(Terminal, match="these are the same"):
        preshared_key([("k", SECRET)], ONE, ONE)
    with pytest.raises(Terminal, match="no link key to derive"):
        preshared_key([], ONE, TWO)
    with pytest.raises(Terminal, match=r"^the link key 'k' has two secrets$"):
        preshared_key([("k", SECRET), ("k", LinkKey(bytes(32)))], ONE, TWO)
    for length in (0, 31, 33):
        with pytest.raises(Terminal, match=r"^a link key is 32 bytes$"):
            LinkKey(b"k" * length)


@settings(max_examples=30)
@given(raws)
def test_neither_prints(raw: bytes) -> None:
    for kind in (LinkKey, LinkSeed, PresharedKey):
        secret = kind(raw)
        for text in (repr(secret), str(secret), f"{secret}", repr([secret]), repr({"k": secret})):
            assert f"{kind.__name__}(redacted)" in text
            assert not [found for found in (raw.hex(), repr(raw), repr(raw)[2:-1], str(list(raw))) if found in text]


@pytest.mark.parametrize("give", [pickle.dumps, copy.deepcopy, copy.copy])
def test_neither_is_pickled(give: Callable[[object], object]) -> None:
    for secret in (SECRET, preshared_key([("k", SECRET)], ONE, TWO)):
        with pytest.raises(TypeError, match="is not pickled"):
            give({"key": secret} if give is not copy.copy else secret)


def test_a_link_key_is_no_preshared_key() -> None:
    same: object = PresharedKey(SECRET.raw)
    assert same != SECRET
    assert LinkKey.generate() != LinkKey.generate()


# --- the secrets of link keys

SEED = LinkSeed(bytes(range(32)))


def test_secret_follows_rfc_5869_from_all_inputs() -> None:
    parts = [b"linkwire link key 1", b"c1", b"shop_shop", (5).to_bytes(8, "big")]
    info = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    assert link_key(SEED, "c1", "shop_shop", 5).raw == hkdf(b"linkwire link key 1", SEED.raw, info, 32)


@given(raws, names, names, st.integers(0, 2**63))
def test_every_part_of_a_secret_counts(raw: bytes, cluster: str, name: str, epoch: int) -> None:
    seed = LinkSeed(raw)
    one = link_key(seed, cluster, name, epoch)
    assert one == link_key(seed, cluster, name, epoch)
    others = [
        link_key(LinkSeed(bytes([raw[0] ^ 1]) + raw[1:]), cluster, name, epoch),
        link_key(seed, cluster + "x", name, epoch),
        link_key(seed, cluster, name + "x", epoch),
        link_key(seed, cluster, name, epoch + 1),
    ]
    assert len({one, *others}) == 5


def test_user_given_name_never_equals_own_links() -> None:
    link = LinkLabel("shop_db", ("db",))
    assert key_name("shop_web", link) == "shop_web:shop_db"
    assert key_name("shop_web", LinkLabel("shop_db", ("db",), key="shop_shop")) == "shop_shop"
    assert key_name("a", LinkLabel("b_c", ("x",))) != key_name("a_b", LinkLabel("c", ("x",)))
    with pytest.raises(ValueError, match="a name is made of"):
        check_service_name(key_name("shop_web", link))


def test_held_keys_derive_once_and_renew_with_secret() -> None:
    held = LinkKeys({"a": SECRET, "b": LinkKey(bytes(32))})
    first = held.between(ONE, TWO, ("a", "b"))
    assert first == preshared_key([("a", SECRET), ("b", LinkKey(bytes(32)))], ONE, TWO)
    assert held.between(ONE, TWO, ("a", "b")) is first
    assert held.between(ONE, TWO, ("a", "c")) is None, "not all of them are here"
    same = held.with_secrets({"a": SECRET, "b": LinkKey(bytes(32)), "c": SECRET})
    assert same.between(ONE, TWO, ("a", "b")) is first
    other = held.with_secrets({"a": LinkKey(b"n" * 32), "b": LinkKey(bytes(32))})
    assert other.between(ONE, TWO, ("a", "b")) not in (first, None)
    with pytest.raises(Terminal, match="no link key to derive"):
        held.between(ONE, TWO, ())
    other.drop_stale(ONE, (TWO,))
    assert other._derived[ONE].keys() == {TWO}
    other.drop_stale(ONE, ())
    assert not other._derived
