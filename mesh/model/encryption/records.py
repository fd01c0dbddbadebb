"""Records of node encryption: WireGuard between nodes, under the overlays of all stacks. No I/O here.

A mesh that never switched it on has none of them. An older agent does not know them, and would not act on a signed
set that has one: so the controller writes them only while every member states an encryption key.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mesh.crypto.keys import PublicKey
from mesh.model.encryption.status import EpochKey, Mode, Step
from mesh.model.net import UdpEndpoint
from mesh.model.records import OPTIONAL, Record

NODES_KEY = "nodes"
"""Name of the link key of all nodes. No link has it: the key of a link has a `_` or a `:` in its name."""


@dataclass(frozen=True, slots=True)
class EncryptionWanted(Record, key="encryptionwanted"):
    """The controller's request that every node states its encryption key, while node encryption is wanted or on.

    Without it no node does: an earlier version of the controller could not read the node's record.
    """

    since: int
    """In seconds since 1970 by the controller's clock."""
    epoch: int = field(default=0, metadata=OPTIONAL)
    """Of the keys that are asked for: a node that has none of it makes one."""
    all_since: int = field(default=0, metadata=OPTIONAL)
    """Since when nodes are asked to say that they know mode `all`, as `since`; 0 where nobody wants it. An agent that
    does not know the mode cannot read this record then, and says of itself what it said before."""


@dataclass(frozen=True, slots=True)
class NodeEncryption(Record, key="encryption", covered=True):
    """Encryption between nodes, as every node is to do it now; absent where it is off."""

    mode: Mode
    step: Step
    data_path_port: int
    """UDP port of Swarm's VXLAN."""
    generation: int
    """Grows with each change of this record: nodes acknowledge it in their status."""


@dataclass(frozen=True, slots=True)
class Underlay(Record, key="peers/{0.node}", covered=True):
    """A node's place in node encryption; only members have one.

    The key sorts between the first and the last that agents follow: their one watch spans no more for it.
    """

    node: str
    public_key: PublicKey
    endpoint: UdpEndpoint
    """Of its WireGuard device. VXLAN packets for the node are sent to the same host."""
    epoch: int = field(default=0, metadata=OPTIONAL)
    """Of its key: devices are peers where their keys are of the same epoch."""
    next: EpochKey | None = field(default=None, metadata=OPTIONAL)
    """While keys rotate: that of its second device, at the same host."""

    @property
    def keys(self) -> tuple[EpochKey, ...]:
        """Its keys, the newest last."""
        first = EpochKey(self.epoch, self.public_key, self.endpoint.port)
        return (first, self.next) if self.next is not None else (first,)
