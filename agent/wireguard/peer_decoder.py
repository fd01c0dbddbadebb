"""Incremental decoder of a device's peers: a peer whose raw form is that of the last answer is not decoded again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from mesh.topology.wgtypes import Peer

Raw = TypeVar("Raw", bound=bytes | str)
"""A peer as the kernel (bytes) or wireguard-go (text) sends it."""


@dataclass(frozen=True, slots=True)
class Split(Generic[Raw]):
    """A raw peer, taken apart into its handshake and counters, which always change, and all else."""

    lasting: Raw
    handshake: float | None
    rx_bytes: int
    tx_bytes: int


class PeerDecoder(Generic[Raw]):
    """Decodes one device's peers, answer after answer. It remembers the last answer, and nothing of a peer that went.

    Args:
        key: the public key in a raw peer.
        split: takes a raw peer apart; None for one that can only be decoded as a whole.
        decode: decodes a raw peer.
    """

    def __init__(
        self, key: Callable[[Raw], Raw], split: Callable[[Raw], Split[Raw] | None], decode: Callable[[Raw], Peer]
    ) -> None:
        self._key = key
        self._split = split
        self._decode = decode
        self._whole: dict[Raw, Peer] = {}
        self._lasting: dict[Raw, tuple[Raw, Peer]] = {}
        """By public key: what lasts of the raw peer, and the peer."""

    def decode(self, raws: Iterable[Raw]) -> list[Peer]:
        """Decode all peers of an answer. Equal peers, and what did not change of a peer, are the same objects."""
        self._whole = {raw: self._whole.get(raw) or self._peer(raw) for raw in raws}
        if len(self._lasting) > len(self._whole):
            there = set(map(self._key, self._whole))
            self._lasting = {key: lasting for key, lasting in self._lasting.items() if key in there}
        return list(self._whole.values())

    def _peer(self, raw: Raw) -> Peer:
        split = self._split(raw)
        if split is None:
            return self._decode(raw)
        key = self._key(raw)
        before = self._lasting.get(key)
        if before is None or before[0] != split.lasting:
            before = self._lasting[key] = (split.lasting, self._decode(raw))
        return before[1].counted(split.handshake, split.rx_bytes, split.tx_bytes)
