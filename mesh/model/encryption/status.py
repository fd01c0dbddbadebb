"""Words of node encryption that several records share: its modes, its steps and a node's own account. No I/O here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from mesh.crypto.keys import PublicKey

Mode = Literal["prefer", "strict", "all"]
"""`prefer`: overlay packets go plain to a node that is not ready. `strict`: they are refused. `all`: as `strict`, and
what nodes send one another themselves is encrypted too; that goes plain to a node that is not ready."""

MODES: tuple[Mode, ...] = ("prefer", "strict", "all")

DEVICE = "lwnode"
"""Name of a node's first WireGuard device; those of the others have a number after it."""

NOT_OWN = "is no address of the node itself"
"""Said of the address at which others reach a node, where NAT or an operator's label makes it so."""


def letting(port: int) -> str:
    """Return the nftables rule that lets overlay packets in by all of a node's devices.

    Args:
        port: UDP, of the Swarm's VXLAN.
    """
    return f'iifname "{DEVICE}*" udp dport {port} accept'


LETTING_ALL = f'iifname "{DEVICE}*" accept'
"""The nftables rule that lets in what other nodes send by all of a node's devices."""

Step = Literal["accept", "send", "enforce"]
"""What every node does: have the device and take what comes in by it; also send by it; also refuse plain packets."""

STEPS: tuple[Step, ...] = ("accept", "send", "enforce")

LAST: Mapping[str, Step] = MappingProxyType({"prefer": "send", "strict": "enforce", "all": "enforce"})
"""Mode -> the step at which it is reached."""

DATA_PATH_PORT = 4789
"""UDP, of Swarm's VXLAN, unless `docker swarm init --data-path-port` said otherwise."""


@dataclass(frozen=True, slots=True)
class EncryptionStatus:
    """A node's part in node encryption, as it is. Of an agent that knows node encryption only."""

    generation: int
    """Of the `NodeEncryption` that the node has acted on; 0 for none."""
    step: Literal["off", "accept", "send", "enforce"]
    """The step that is in place."""
    peers: int
    """Other nodes that its device has as peers."""
    ready: int
    """Those of them that have answered by the device within three minutes, and answer still."""
    refused: int
    """Plain overlay packets that were refused since the rules were first put in place."""
    problem: str = ""
    """In words; empty for none."""


@dataclass(frozen=True, slots=True)
class EpochKey:
    """A node's key of one epoch, and the device that has it; beside another the later one, which was asked for."""

    epoch: int
    """The number of the nodes' keys: 0 for their first ones, else when they were asked for, in seconds since 1970."""
    public_key: PublicKey
    port: int
    """UDP, of its device."""


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """The epochs of a node's keys in node encryption, as they are. Of a node whose keys have rotated only."""

    epochs: tuple[int, ...]
    """Of the devices that are in place, sorted: two while keys rotate."""
    waiting: tuple[str, ...]
    """Other nodes to which overlay packets do not go by the newest one, sorted."""


@dataclass(frozen=True, slots=True)
class TunnelFigures:
    """Figures of a node's devices of node encryption, over all their peers.

    A field of the status beside the account, which controllers compare with the one before; these always change.
    """

    received: int
    """Bytes."""
    sent: int
    """Bytes."""
    handshake_age: float | None
    """Seconds since the last handshake with the node of which that is the longest ago; None where one had none."""


@dataclass(frozen=True, slots=True)
class PeerFigures:
    """Figures of another node as a peer of this node's devices of node encryption; never stored."""

    node: str
    """Id of the peer's node."""
    handshake_age: float | None
    """Seconds; None for never."""
    received: int
    sent: int
