"""Steps of a plan, and their transactions. Pure.

Keypairs and secrets come from outside: `allocation`, `sharing` and `release` make the transactions of `Allocate`,
`Share` and `Release`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address

from controller.swarm.model import SwarmTask
from mesh.crypto.hpke import NodePublicKey
from mesh.crypto.keys import PrivateKey
from mesh.crypto.preshared_keys import LinkKey
from mesh.integrity.sealed_keys import sealed_key, sealed_link_key
from mesh.model.net import UdpEndpoint
from mesh.model.records import Address, Attachment, Endpoint, Port
from mesh.model.snapshot import Delete, Op, Put


@dataclass(frozen=True, slots=True)
class PlanStep:
    """Write records that need nothing from outside."""

    ops: tuple[Op, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Allocate:
    """Give a task its place; this needs a new keypair.

    `to` is the proven sealing key of the task's node. `revision` and `key_revision` are those of the records that are
    replaced, 0 for none.
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
    """Give nodes the secret of a link key; this needs the seed of all link keys."""

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
        ready=False,
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


def sharing(step: Share, secret: Callable[[str, int], LinkKey]) -> tuple[Op, ...]:
    """Make the transaction of a Share.

    Args:
        step: the boxes and their nodes.
        secret: gives a link key's secret by name and epoch.
    """
    boxes = (
        Put(sealed_link_key(secret(box.key, box.epoch), box.to, box.node, box.key, box.epoch), box.revision)
        for box in step.boxes
    )
    return (*step.epochs, *boxes)


def release(step: Release) -> tuple[Op, ...]:
    """Make the transaction of a Release: the addresses have no holder from then on."""
    rests = tuple(Put(Address(address, None, step.stack), revision) for address, revision in step.addresses)
    return (*step.deletes, *rests)
