"""Base class of secrets: never printed or pickled, compared in constant time. No I/O here."""

from __future__ import annotations

import hmac
from typing import ClassVar, NoReturn, Self

import nacl.utils

from mesh.errors import Terminal


class Secret:
    """A fixed number of secret bytes, 32 unless a subclass says otherwise."""

    __slots__ = ("_raw",)

    SIZE: ClassVar[int] = 32
    WHAT: ClassVar[str] = "secret"
    """Name in errors, in the user's words."""

    def __init__(self, raw: bytes) -> None:
        if len(raw) != self.SIZE:
            raise Terminal(f"a {self.WHAT} is {self.SIZE} bytes")
        self._raw = bytes(raw)

    @classmethod
    def generate(cls) -> Self:
        """Generate a secret from the operating system's random source."""
        return cls(nacl.utils.random(cls.SIZE))

    @property
    def raw(self) -> bytes:
        """The bytes; only for the algorithm that uses them and a file of mode 0600."""
        return self._raw

    def __repr__(self) -> str:
        return f"{type(self).__name__}(redacted)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self) or not isinstance(other, Secret):
            return False
        return hmac.compare_digest(self._raw, other._raw)

    def __hash__(self) -> int:
        return hash((type(self), self._raw))

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} is not pickled")
