"""What a plan is made of, and the transactions that its steps become. Pure.

Keypairs, secrets and leases come from outside: `Allocate`, `Share` and `Release` become transactions by `allocation`,
`sharing` and `release`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address

from controller.observed import SwarmTask
from mesh.hybrid import NodePublicKey
from mesh.keys import PrivateKey
from mesh.linkkeys import LinkKey
from mesh.net import UdpEndpoint
from mesh.records import Address, Attachment, Endpoint, Port
from mesh.sealing import sealed_key, sealed_link_key
from mesh.snapshot import Delete, Op, Put


@dataclass(frozen=True, slots=True)
class Change:
    """A transaction that needs nothing from outside."""

    ops: tuple[Op, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Allocate:
    """Give a task its place: it needs a new keypair.

    `to` is the sealing key that the task's node has shown to be its own. `revision` and `key_revision` are 0 for a
    new one.
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
    """One link key that a node is to be given."""

    key: str
    epoch: int
    node: str
    to: NodePublicKey
    revision: int
    """Of the record that this one replaces, 0 for none."""


@dataclass(frozen=True, slots=True)
class Share:
    """Give nodes the secret of a link key: it needs the seed of all link keys."""

    epochs: tuple[Put, ...]
    boxes: tuple[Box, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Release:
    """End what held addresses: it needs a lease that is as long as an address rests."""

    deletes: tuple[Delete, ...]
    addresses: tuple[tuple[IPv4Address, int], ...]
    """Each with the revision of its record."""
    reason: str


Step = Change | Allocate | Share | Release


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, in order; and what stands in the way, in words."""

    steps: tuple[Step, ...]
    problems: tuple[str, ...]
    due: int | None = None
    """When there will be something to do by time alone, in seconds since the epoch; None for never."""


def allocation(step: Allocate, private_key: PrivateKey) -> tuple[Op, ...]:
    """The transaction of an Allocate: all of it or nothing."""
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
    """The transaction of a Share.

    Args:
        step: what is to be given to whom.
        secret: a link key's by its name and epoch.
    """
    boxes = (
        Put(sealed_link_key(secret(box.key, box.epoch), box.to, box.node, box.key, box.epoch), box.revision)
        for box in step.boxes
    )
    return (*step.epochs, *boxes)


def release(step: Release, lease: int) -> tuple[Op, ...]:
    """The transaction of a Release: what held the addresses ends, and they rest until the lease does."""
    rests = tuple(Put(Address(address, None), revision, lease) for address, revision in step.addresses)
    return (*step.deletes, *rests)
