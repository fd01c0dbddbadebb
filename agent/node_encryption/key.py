"""The node's own WireGuard keys, each with the UDP port of its device.

There is one, and while the nodes' keys rotate there are two: each of an epoch of its own, and of one of two slots,
which stand for the node's two devices and their ports.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import structlog

from agent.state import key_file
from mesh.crypto.keys import PrivateKey, PublicKey
from mesh.errors import Terminal
from mesh.model.encryption.status import EpochKey

log = structlog.get_logger(__name__)

FILE = "encryption.key"
"""Of the node's first key, which has epoch 0 and the first slot."""
SLOTS = 2
_LATER = re.compile(r"encryption-([0-9]+)-([0-9]+)\.key")
"""Files of all others: slot and epoch."""
_HEADER = b"linkwire node encryption key 1\n"


@dataclass(frozen=True, slots=True)
class HeldKey:
    """A key of the node."""

    epoch: int
    slot: int
    private_key: PrivateKey


class NodeKeys:
    """The node's keys, kept in files. They never leave the node. Only the loop calls it.

    Attributes:
        held: the keys, by epoch.
    """

    def __init__(self, folder: Path, ports: tuple[int, ...]) -> None:
        """Read the keys; on the first run make one.

        Args:
            folder: of the agent's state.
            ports: of the devices, by slot; 0 for one that is not to be had.

        Raises:
            Terminal: as `key_file.load_or_make`, or a file holds no such key.
        """
        self._folder = folder
        self._ports = ports
        found = [match for path in sorted(folder.glob("encryption-*.key")) if (match := _LATER.fullmatch(path.name))]
        keys = [_read(folder, int(match[1]), int(match[2])) for match in found]
        if not keys or (folder / FILE).exists():
            keys.append(_read(folder, 0, 0))
        self.held: tuple[HeldKey, ...] = _sorted(keys)

    @property
    def stated(self) -> tuple[EpochKey, ...]:
        """The public halves of the keys, by epoch."""
        return tuple(EpochKey(key.epoch, key.private_key.public, self._ports[key.slot]) for key in self.held)

    def keep(self, asked: int, placed: Iterable[PublicKey]) -> None:
        """Make the key that is asked for, and forget those of no use.

        Args:
            asked: epoch of the key that the node is to have.
            placed: the node's keys by the records, which must be all there are. While there are none, a key is
                forgotten only where another needs its slot.

        Raises:
            Terminal: a file cannot be written.
        """
        in_use = frozenset(placed)
        needed = [key for key in self.held if key.epoch == asked or key.private_key.public in in_use]
        free = [slot for slot in range(SLOTS) if slot not in {key.slot for key in needed} and self._ports[slot]]
        free.sort(key=lambda slot: any(key.slot == slot for key in self.held))  # an empty one first
        lacks = all(key.epoch != asked for key in needed)
        for key in self.held:
            if key not in needed and (in_use or (lacks and free[:1] == [key.slot])):
                self._forget(key)
        if lacks and free:
            self.held = _sorted([*self.held, _read(self._folder, free[0], asked)])
            log.info("node key made", epoch=asked)

    def _forget(self, key: HeldKey) -> None:
        try:
            _path(self._folder, key.slot, key.epoch).unlink(missing_ok=True)
        except OSError as error:
            raise Terminal(f"the node's key of epoch {key.epoch} is not removed: {error.strerror}") from error
        self.held = tuple(other for other in self.held if other != key)
        log.info("node key removed", epoch=key.epoch)


def _sorted(keys: Iterable[HeldKey]) -> tuple[HeldKey, ...]:
    return tuple(sorted(keys, key=lambda key: key.epoch))


def _path(folder: Path, slot: int, epoch: int) -> Path:
    return folder / (FILE if (slot, epoch) == (0, 0) else f"encryption-{slot}-{epoch}.key")


def _read(folder: Path, slot: int, epoch: int) -> HeldKey:
    """Read a key; make it where there is none. Raises Terminal."""
    path = _path(folder, slot, epoch)
    what = "the node's key of node encryption"
    raw = key_file.load_or_make(path, lambda: _HEADER + PrivateKey.generate().raw, what)
    header, secret = raw[: len(_HEADER)], raw[len(_HEADER) :]
    if header != _HEADER or len(secret) != PrivateKey.SIZE:
        raise Terminal(f"{path} is not a key of this version; remove it, and the node gets a new one")
    return HeldKey(epoch, slot, PrivateKey(secret))
