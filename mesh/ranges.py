"""Some keys of etcd, as ranges of bytes. No I/O here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ranges:
    """Some keys below a root, as pairs of the first key and the one after the last."""

    root: bytes
    bounds: tuple[tuple[bytes, bytes], ...]

    @classmethod
    def of(cls, root: bytes, names: Iterable[bytes]) -> Ranges:
        """A name that is empty or ends with a slash stands for all that begins with it, another for itself."""
        keys = [root + name for name in names]
        # "0" is what comes after "/".
        return cls(root, tuple((k, k[:-1] + b"0") if k.endswith(b"/") else (k, k + b"\0") for k in keys))

    def span(self) -> tuple[bytes, bytes]:
        """One range that holds them all."""
        return min(first for first, _ in self.bounds), max(end for _, end in self.bounds)

    def holds(self, key: bytes) -> bool:
        """Whether a key, with the root, is one of them."""
        return any(first <= key < end for first, end in self.bounds)
