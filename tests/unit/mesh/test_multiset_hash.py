"""The digest of a set: the same for the same records whatever the way there, and another for any other set."""

import hashlib
import random
import time
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mesh.crypto import multiset_hash
from mesh.crypto.multiset_hash import Entry, MultisetHash

entries = st.builds(Entry.of, st.sampled_from(["a", "b", "ab", ""]), st.integers(1, 3), st.sampled_from([b"", b"x"]))
sets = st.lists(entries, max_size=8)


def of(records: list[Entry]) -> MultisetHash:
    whole = MultisetHash()
    for record in records:
        whole = whole.add(record)
    return whole


def by_definition(records: list[Entry]) -> int:
    """The product as the papers write it, with Python's own modulus."""
    product = 1
    for record in records:
        parts = [
            b"linkwire manifest entry 1",
            record.key.encode(),
            record.generation.to_bytes(8, "big"),
            record.digest,
        ]
        message = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
        product = product * int.from_bytes(hashlib.shake_256(message).digest(384), "big") % (2**3072 - 1103717)
    return product


def is_prime(number: int) -> bool:
    """Miller and Rabin's test, which a composite passes with a probability below 4^-20."""
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for _ in range(20):
        power = pow(random.randrange(2, number - 1), odd, number)  # noqa: S311 - any bases will do
        if power in (1, number - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % number
            if power == number - 1:
                break
        else:
            return False
    return True


def test_the_prime_is_a_safe_one() -> None:
    """A group whose order has small factors would have small logarithms."""
    prime = 2**3072 - 1103717
    assert prime == multiset_hash._PRIME
    assert is_prime(prime)
    assert is_prime((prime - 1) // 2)
    assert not is_prime(prime - 2)


@given(sets)
def test_it_is_the_product_of_its_entries(records: list[Entry]) -> None:
    state = of(records).state()
    assert state == len(records).to_bytes(8, "big") + by_definition(records).to_bytes(384, "big")
    digest = hashlib.sha256((19).to_bytes(8, "big") + b"linkwire manifest 1" + (392).to_bytes(8, "big") + state)
    assert of(records).digest() == digest.digest()


@given(sets, st.randoms(use_true_random=False))
def test_the_order_does_not_matter(records: list[Entry], chance: random.Random) -> None:
    other = records[:]
    chance.shuffle(other)
    assert of(other).digest() == of(records).digest()
    assert len(of(other).digest()) == 32


@given(sets, sets)
def test_equal_digests_are_equal_multisets(one: list[Entry], other: list[Entry]) -> None:
    same = sorted(map(repr, one)) == sorted(map(repr, other))
    assert (of(one).digest() == of(other).digest()) == same
    assert (of(one) == of(other)) == same
    assert (of(one).state() == of(other).state()) == same


@given(sets, sets)
def test_added_and_removed_entry_leaves_no_trace(stay: list[Entry], leave: list[Entry]) -> None:
    changed = of(stay)
    for record in leave:
        changed = changed.add(record)
    assert (changed == of(stay)) == (not leave)
    for record in reversed(leave):
        changed = changed.remove(record)
    assert changed == of(stay)
    assert changed.digest() == of(stay).digest()
    assert changed.state() == of(stay).state()
    # Also when it is taken out before it is put in, as two changes of one transaction may come.
    for record in leave:
        changed = changed.remove(record)
    for record in leave:
        changed = changed.add(record)
    assert changed.digest() == of(stay).digest()


@settings(max_examples=50)
@given(st.data())
def test_every_part_of_an_entry_counts(data: st.DataObject) -> None:
    records = [Entry.of(f"endpoints/{number}", number + 1, b"value") for number in range(20)]
    whole = of(records)
    at = data.draw(st.integers(0, 19))
    entry = records[at]
    flipped = bytearray(entry.digest)
    flipped[data.draw(st.integers(0, 31))] ^= 1 << data.draw(st.integers(0, 7))
    for other in (
        [*records[:at], *records[at + 1 :]],  # withheld
        [*records, entry],  # twice
        [*records[:at], Entry(entry.key, entry.generation + 1, entry.digest), *records[at + 1 :]],
        [*records[:at], Entry(entry.key + "x", entry.generation, entry.digest), *records[at + 1 :]],
        [*records[:at], Entry(entry.key, entry.generation, bytes(flipped)), *records[at + 1 :]],
        [*records[:at], Entry.of(entry.key, entry.generation, b"valuE"), *records[at + 1 :]],
    ):
        assert of(other).digest() != whole.digest()
        assert of(other) != whole


def test_same_product_with_other_count_differs() -> None:
    one = MultisetHash(1, 5)
    assert one.digest() != MultisetHash(2, 5).digest()
    assert one != MultisetHash(2, 5)


def test_the_empty_set() -> None:
    assert MultisetHash().state() == bytes(391) + b"\1"
    assert MultisetHash().digest() == of([]).digest()


def test_more_removed_than_added_has_no_digest() -> None:
    less = MultisetHash().remove(Entry.of("a", 1, b""))
    with pytest.raises(ValueError, match="a set of -1 records"):
        less.digest()
    assert less.add(Entry.of("a", 1, b"")) == MultisetHash()
    assert repr(less) == "Manifest(-1 records)"
    assert MultisetHash() != 0


@given(st.integers(0, 2**6144))
@example(2**3072 - 1103717)
@example(2**3072 - 1103716)
@example(2**3072 - 1)
@example(2**3072)
@example((2**3072 - 1103718) ** 2)
@example((2**3072 - 1) ** 2)
def test_numbers_are_reduced_as_python_does_it(number: int) -> None:
    assert multiset_hash._reduced(number) == number % (2**3072 - 1103717)


def test_cost_of_10000(figure: Callable[[str], None]) -> None:
    values = [(f"endpoints/{number:025}/{number:025}", 1, bytes(450)) for number in range(10_000)]
    began = time.process_time()
    records = [Entry.of(*value) for value in values]
    whole = of(records)
    took = time.process_time() - began
    began = time.process_time()
    for record in records[:100]:
        whole = whole.remove(record).add(record)
    change = (time.process_time() - began) / 100
    began = time.process_time()
    whole.digest()
    digest = time.process_time() - began
    figure(
        f"manifest of 10,000: {took:.2f} s of CPU; a change {change * 1e6:.0f} us, its digest {digest * 1e3:.1f} ms"
    )


def test_a_digest_is_inverted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents compare it in every pass, and most passes change no record."""
    inversions: list[int] = []

    def inverted(number: int, exponent: int, modulus: int) -> int:
        inversions.append(number)
        return pow(number, exponent, modulus)

    monkeypatch.setattr(multiset_hash, "pow", inverted, raising=False)
    first, second = (Entry.of(key, 1, b"x") for key in "ab")
    left = of([first, second]).remove(second)
    assert left.digest() == left.digest() == of([first]).digest()
    assert len(inversions) == 1
    assert left.add(second).digest() == of([first, second]).digest() != left.digest()
    assert len(inversions) == 2
