"""What a plan is made of, and the transactions that its steps become. Pure.

Keypairs and leases come from outside: `Allocate` and `Release` become transactions by `allocation` and `release`.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

from controller.observed import SwarmTask
from mesh.keys import PrivateKey
from mesh.records import Address, Attachment, Endpoint, Node, Port
from mesh.sealing import sealed_key
from mesh.snapshot import Delete, Op, Put
from mesh.wgtypes import UdpEndpoint


@dataclass(frozen=True, slots=True)
class Change:
    """A transaction that needs nothing from outside."""

    ops: tuple[Op, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Allocate:
    """Give a task its place: it needs a new keypair.

    `endpoint` has everything but the keypair; `revision` and `key_revision` are 0 for a new one.
    """

    task: SwarmTask
    node: Node
    address: IPv4Address
    underlay: UdpEndpoint
    elsewhere: tuple[Attachment, ...]
    epoch: int
    revision: int
    key_revision: int
    reason: str


@dataclass(frozen=True, slots=True)
class Release:
    """End what held addresses: it needs a lease that is as long as an address rests."""

    deletes: tuple[Delete, ...]
    addresses: tuple[tuple[IPv4Address, int], ...]
    """Each with the revision of its record."""
    reason: str


Step = Change | Allocate | Release


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, in order; and what stands in the way, in words."""

    steps: tuple[Step, ...]
    problems: tuple[str, ...]


def allocation(step: Allocate, private_key: PrivateKey) -> tuple[Op, ...]:
    """The transaction of an Allocate: all of it or nothing."""
    task, node = step.task, step.node
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
        elsewhere=step.elsewhere,
    )
    sealed = sealed_key(private_key, node.sealing_key, task.node, task.id, step.epoch)
    ops: tuple[Op, ...] = (Put(endpoint, step.revision), Put(sealed, step.key_revision))
    if step.revision == 0:
        ops += (
            Put(Address(step.address, f"task/{task.id}"), 0),
            Put(Port(task.node, step.underlay.port, task.id), 0),
        )
    return ops


def release(step: Release, lease: int) -> tuple[Op, ...]:
    """The transaction of a Release: what held the addresses ends, and they rest until the lease does."""
    rests = tuple(Put(Address(address, None), revision, lease) for address, revision in step.addresses)
    return (*step.deletes, *rests)
