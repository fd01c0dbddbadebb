"""The digest of a set of records, by which a reader knows that it has all of them and no other. No I/O here.

Whoever owns the store can delete a signed record, or not deliver it, and no signature tells. So the writer keeps a
digest over all (key, generation, value) of a set and signs it with every change; a reader computes it anew.

The digest is a multiset hash, MuHash: every entry is hashed to a number modulo a prime and the numbers are multiplied
(Bellare and Micciancio, "A New Paradigm for Collision-free Hashing: Incrementality at Reduced Cost", EUROCRYPT 1997,
section 5.2). So an entry is added, or taken out, with one multiplication and whatever the order. As in Bitcoin Core's
MuHash3072 (crypto/muhash.h) the prime is 2^3072 - 1103717, a safe one, and what is taken out is gathered in a
denominator, so that the one inversion waits until the digest is asked for. To find two sets of one digest is as hard
as the discrete logarithm in that group: about 110 bits, since the special number field sieve applies to a prime of
that form; and, like Ed25519, nothing against a quantum computer, which could forge the signature then.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from mesh.framing import framed

_BITS = 3072
_BYTES = _BITS // 8
_OFFSET = 1103717
_PRIME = 2**_BITS - _OFFSET
_MASK = 2**_BITS - 1
_MAX_COUNT = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Entry:
    """One record in a set. Kept by a reader for each, since taking it out takes all three.

    Attributes:
        key: relative to the root.
        generation: the one its envelope states.
        digest: 32 bytes, SHA-256 of the whole value as it lies in the store, signature and all.
    """

    key: str
    generation: int
    digest: bytes

    @classmethod
    def of(cls, key: str, generation: int, value: bytes) -> Self:
        """The entry of a value as it lies in the store."""
        return cls(key, generation, hashlib.sha256(value).digest())

    def number(self) -> int:
        """The entry as an element of the group: SHAKE256 (FIPS 202) read as a number.

        Raises:
            OverflowError: the generation is negative or has more than 64 bits.
        """
        message = framed("linkwire manifest entry 1", self.key, self.generation, self.digest)
        # 0 is not in the group, and comes up once in 2^3072.
        return _reduced(int.from_bytes(hashlib.shake_256(message).digest(_BYTES), "big"))


@dataclass(frozen=True, slots=True, eq=False)
class Manifest:
    """A set of entries, of which only the product is kept. Immutable: every change gives another one.

    The same entry added twice is in it twice. Two are equal when their digests are.

    Attributes:
        count: how many entries are in it; negative while more were taken out than put in.
    """

    count: int = 0
    _numerator: int = 1
    _denominator: int = 1

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Self:
        """A set of entries."""
        count, product = 0, 1
        for entry in entries:
            count, product = count + 1, _times(product, entry.number())
        return cls(count, product)

    def add(self, entry: Entry) -> Manifest:
        """With one entry more."""
        return Manifest(self.count + 1, _times(self._numerator, entry.number()), self._denominator)

    def remove(self, entry: Entry) -> Manifest:
        """Without one entry. It is not known whether it was there: if not, nothing will ever match again."""
        return Manifest(self.count - 1, self._numerator, _times(self._denominator, entry.number()))

    def digest(self) -> bytes:
        """32 bytes that stand for the whole set: SHA-256 over the state.

        Raises:
            ValueError: more entries were taken out than put in.
        """
        return hashlib.sha256(framed("linkwire manifest 1", self.state())).digest()

    def state(self) -> bytes:
        """Return the count and the product in 392 bytes, in the one way to write them.

        Raises:
            ValueError: more entries were taken out than put in.
        """
        if not 0 <= self.count <= _MAX_COUNT:
            raise ValueError(f"a set of {self.count} records")
        product = self._numerator
        if self._denominator != 1:
            product = _times(product, pow(self._denominator, -1, _PRIME))
        return self.count.to_bytes(8, "big") + product.to_bytes(_BYTES, "big")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Manifest):
            return NotImplemented
        return self.count == other.count and _times(self._numerator, other._denominator) == _times(
            other._numerator, self._denominator
        )

    __hash__ = None  # type: ignore[assignment]  # equal ones may be written with different fractions

    def __repr__(self) -> str:
        return f"Manifest({self.count} records)"


def _times(one: int, other: int) -> int:
    return _reduced(one * other)


def _reduced(number: int) -> int:
    """Reduce modulo the prime: 2^3072 is the same as 1103717 there, so the upper half folds onto the lower."""
    while number > _MASK:
        number = (number & _MASK) + (number >> _BITS) * _OFFSET
    return number - _PRIME if number >= _PRIME else number
