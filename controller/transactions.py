"""Transactions of a plan's steps, and problems of the steps that cannot be written. No I/O.

A step that cannot be written is one problem of its service; all other steps are written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from controller.steps import Allocate, PlanStep, Release, Secrets, Share, Step, allocation, release, sharing
from mesh.crypto.keys import PrivateKey
from mesh.errors import Terminal
from mesh.model.records import Service
from mesh.model.snapshot import Op, Put
from mesh.store.packing import Part, pack


@dataclass(frozen=True, slots=True)
class Packed:
    """Transactions of several steps each, and problems of the steps that are in none."""

    batches: Sequence[Sequence[Part[Step]]] = ()
    problems: tuple[str, ...] = ()


def packed(steps: Sequence[Step], secret: Secrets) -> Packed:
    """Make the transactions of a plan.

    Args:
        steps: in order.
        secret: gives the secrets of link keys.
    """
    problems: list[str] = []
    unlinked: set[str] = set()  # ids of services whose first record is left out

    def leave_out(op: Op, reason: str) -> None:
        if not isinstance(op, Put) or not isinstance(op.record, Service):
            problems.append(f"store: {reason}: not written")
            return
        problems.append(f"service {op.record.name}: its labels are not applied: {reason}: name fewer links and ports")
        if op.revision == 0:
            unlinked.add(op.record.id)

    def parts() -> Iterator[Part[Step]]:
        for step in steps:
            if isinstance(step, Allocate) and step.task.service in unlinked:
                continue  # a task without its service's record would count as wired, and reach no peer
            try:
                yield step, transaction(step, secret)
            except Terminal as error:  # the node's sealing key is not valid: its tasks wait, all others do not
                problems.append(f"{step.reason}: not written: {error}")

    return Packed(list(pack(parts(), leave_out)), tuple(problems))


def transaction(step: Step, secret: Secrets) -> tuple[Op, ...]:
    """Make the transaction of one step, with a new keypair if it allocates; the arguments are those of `packed`."""
    match step:
        case PlanStep():
            return step.ops
        case Allocate():
            return allocation(step, PrivateKey.generate())
        case Share():
            return sharing(step, secret)
        case Release():
            return release(step)
