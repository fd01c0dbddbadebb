"""Steps of a plan, and their transactions. Pure.

Keypairs and secrets come from outside: `allocation`, `sharing` and `release` make the transactions of `Allocate`,
`Share` and `Release`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from types import MappingProxyType
from typing import Protocol

from controller.swarm.model import SwarmTask
from mesh.crypto.hpke import NodePublicKey
from mesh.crypto.keys import PrivateKey
from mesh.crypto.preshared_keys import LinkKey
from mesh.integrity.sealed_keys import sealed_key, sealed_link_key
from mesh.model.encryption.status import EncryptionStatus, KeyStatus, Mode
from mesh.model.net import UdpEndpoint
from mesh.model.records import Address, Attachment, Endpoint, Port
from mesh.model.snapshot import Delete, Op, Put
from mesh.model.vault.records import EpochHistory

FRESH = 10**12
"""Lowest number of an epoch with a fresh secret: it counts milliseconds since 1970. An earlier version's epochs count
seconds, and their secrets follow from the link seed alone."""


@dataclass(frozen=True, slots=True)
class OpenVault:
    """The vault that new epochs' secrets are kept under; `id` is empty while none is open."""

    id: str = ""
    first: bool = False
    """Whether epochs below FRESH follow from the link seed in use."""


@dataclass(frozen=True, slots=True)
class EncryptionGoal:
    """Node encryption as it is to be, and the nodes' own accounts of it.

    Attributes:
        mode: None to have none.
        states: node -> its account, by its own signature.
        keys: node -> its account of its keys, likewise.
        renewed: seconds since 1970: a node's key is not to be older.
        rotate: seconds after which nodes get new keys; None for never.
    """

    mode: Mode | None = None
    states: Mapping[str, EncryptionStatus] = field(default_factory=lambda: MappingProxyType({}))
    keys: Mapping[str, KeyStatus] = field(default_factory=lambda: MappingProxyType({}))
    renewed: int = 0
    rotate: int | None = None


class Secrets(Protocol):
    """Secrets of link keys."""

    def __call__(self, key: str, epoch: int, /) -> LinkKey:
        """Return the secret of a link key in an epoch. Raises Terminal where it is not known."""

    def noted(self, history: EpochHistory, /) -> EpochHistory:
        """Make the secret of an epoch that begins, and return its note with it."""


@dataclass(frozen=True, slots=True)
class PlanStep:
    """Write records that need nothing from outside."""

    ops: tuple[Op, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Allocate:
    """Give a task its place; this needs a new keypair.

    `to` is the proven sealing key of the task's node. `revision` and `key_revision` are those of the records that are
    replaced, 0 for none. One that is used already stays `ready`: its connections wait for the new key, which is not
    longer than a handshake, and a consumer that has no other task refuses none meanwhile.
    """

    task: SwarmTask
    to: NodePublicKey
    address: IPv4Address
    underlay: UdpEndpoint
    attachments: tuple[Attachment, ...]
    epoch: int
    revision: int
    key_revision: int
    reason: str
    ready: bool = False


@dataclass(frozen=True, slots=True)
class Box:
    """A link key to be sealed to a node."""

    key: str
    epoch: int
    node: str
    to: NodePublicKey
    revision: int
    """Revision of the record that is replaced, 0 for none."""


@dataclass(frozen=True, slots=True)
class Share:
    """Give nodes the secret of a link key; this needs the secrets of link keys."""

    epochs: tuple[Put, ...]
    boxes: tuple[Box, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Release:
    """Delete the holders of addresses, which rest from then on (controller.recovery.resting_addresses)."""

    deletes: tuple[Delete, ...]
    addresses: tuple[tuple[IPv4Address, int], ...]
    """Each with the revision of its record."""
    reason: str
    stack: str = ""
    """Of the holder."""


Step = PlanStep | Allocate | Share | Release


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in order, and the problems in their way."""

    steps: tuple[Step, ...]
    problems: tuple[str, ...]
    due: int | None = None
    """Time at which the plan changes without any input, in seconds since the epoch; None for never."""
    awaits: bool = False
    """Whether its next step waits until nodes have acknowledged the last one."""
    unsettled: frozenset[str] = frozenset()
    """The problems that are none before they last (controller.decider)."""


def allocation(step: Allocate, private_key: PrivateKey) -> tuple[Op, ...]:
    """Make the transaction of an Allocate."""
    task = step.task
    endpoint = Endpoint(
        service=task.service,
        task=task.id,
        slot=task.slot,
        node=task.node,
        address=step.address,
        public_key=private_key.public,
        epoch=step.epoch,
        underlay=step.underlay,
        ready=step.ready,
        elsewhere=step.attachments,
    )
    sealed = sealed_key(private_key, step.to, task.node, task.id, step.epoch)
    ops: tuple[Op, ...] = (Put(endpoint, step.revision), Put(sealed, step.key_revision))
    if step.revision == 0:
        ops += (
            Put(Address(step.address, f"task/{task.id}"), 0),
            Put(Port(task.node, step.underlay.port, task.id), 0),
        )
    return ops


def sharing(step: Share, secret: Secrets) -> tuple[Op, ...]:
    """Make the transaction of a Share.

    Args:
        step: the boxes and their nodes.
        secret: gives link keys' secrets.
    """
    begun = tuple(
        replace(put, record=secret.noted(put.record)) if isinstance(put.record, EpochHistory) else put
        for put in step.epochs
    )
    boxes = (
        Put(sealed_link_key(secret(box.key, box.epoch), box.to, box.node, box.key, box.epoch), box.revision)
        for box in step.boxes
    )
    return (*begun, *boxes)


def release(step: Release) -> tuple[Op, ...]:
    """Make the transaction of a Release: the addresses have no holder from then on."""
    rests = tuple(Put(Address(address, None, step.stack), revision) for address, revision in step.addresses)
    return (*step.deletes, *rests)
