"""Multiset hash of a set of signed records: a reader that knows it misses none and believes no other. No I/O here.

The owner of the store can delete a signed record or withhold it, and no signature shows that. So the writer keeps a
digest over all (key, generation, value) of a set and signs it with every change; a reader computes it itself.

The digest is a multiset hash, MuHash: every entry is hashed to a number modulo a prime and the numbers are multiplied
(Bellare and Micciancio, "A New Paradigm for Collision-free Hashing: Incrementality at Reduced Cost", EUROCRYPT 1997,
section 5.2). So an entry is added, or removed, with one multiplication, in any order. As in Bitcoin Core's
MuHash3072 (crypto/muhash.h) the prime is 2^3072 - 1103717, a safe one, and what is removed is gathered in a
denominator, so that the one inversion waits until the digest is asked for. To find two sets of one digest is as hard
as the discrete logarithm in that group: about 110 bits, since the special number field sieve applies to a prime of
that form; and, like Ed25519, nothing against a quantum computer, which could forge the signature then.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from mesh.crypto.framing import framed

_BITS = 3072
_BYTES = _BITS // 8
_OFFSET = 1103717
_PRIME = 2**_BITS - _OFFSET
_MASK = 2**_BITS - 1
_MAX_COUNT = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Entry:
    """One record in a set. A reader keeps one for each record, since removing it takes all three fields.

    Attributes:
        key: relative to the root.
        generation: the one its envelope states.
        digest: 32 bytes, SHA-256 of the whole value as it is in the store, signature included.
    """

    key: str
    generation: int
    digest: bytes

    @classmethod
    def of(cls, key: str, generation: int, value: bytes) -> Self:
        """Return the entry of a value as it is in the store."""
        return cls(key, generation, hashlib.sha256(value).digest())

    def number(self) -> int:
        """Return the entry as an element of the group: SHAKE256 (FIPS 202) read as a number.

        Raises:
            OverflowError: the generation is negative or has more than 64 bits.
        """
        message = framed("linkwire manifest entry 1", self.key, self.generation, self.digest)
        # 0 is not in the group, and comes up once in 2^3072.
        return _reduced(int.from_bytes(hashlib.shake_256(message).digest(_BYTES), "big"))


@dataclass(frozen=True, slots=True, eq=False)
class MultisetHash:
    """Product of a multiset of entries, without the entries. Immutable: every change gives another one.

    Two are equal when their digests are. A digest is computed once, when it is first asked for: the inversion takes
    as long as a hundred changes.

    Attributes:
        count: number of entries; negative while more were removed than added.
    """

    count: int = 0
    _numerator: int = 1
    _denominator: int = 1
    _digest: bytes | None = None

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Self:
        """Return the product of a set of entries."""
        count, product = 0, 1
        for entry in entries:
            count, product = count + 1, _times(product, entry.number())
        return cls(count, product)

    def add(self, entry: Entry) -> MultisetHash:
        """Return the product with one entry more."""
        return MultisetHash(self.count + 1, _times(self._numerator, entry.number()), self._denominator)

    def remove(self, entry: Entry) -> MultisetHash:
        """Return the product without one entry. It is not checked to be there: if not, no digest matches again."""
        return MultisetHash(self.count - 1, self._numerator, _times(self._denominator, entry.number()))

    def digest(self) -> bytes:
        """Return 32 bytes that stand for the whole set: SHA-256 over the state.

        Raises:
            ValueError: more entries were removed than added.
        """
        if self._digest is None:
            digest = hashlib.sha256(framed("linkwire manifest 1", self.state())).digest()
            object.__setattr__(self, "_digest", digest)
            return digest
        return self._digest

    def state(self) -> bytes:
        """Return the count and the product in 392 bytes, the only encoding.

        Raises:
            ValueError: more entries were removed than added.
        """
        if not 0 <= self.count <= _MAX_COUNT:
            raise ValueError(f"a set of {self.count} records")
        product = self._numerator
        if self._denominator != 1:
            product = _times(product, pow(self._denominator, -1, _PRIME))
        return self.count.to_bytes(8, "big") + product.to_bytes(_BYTES, "big")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MultisetHash):
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
