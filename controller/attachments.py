"""Where a task can be reached besides the mesh: Swarm's word, and its own node's on what Swarm does not know. Pure.

What was known once is kept for as long as the task lives: Swarm never moves a task to other networks, it makes a new
one, so an address that is told no more is one that is not told *now*. A report that is missing, cannot be read or was
made before Docker had an answer must not open for a moment what `strict` has shut.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from controller.observed import Swarm, SwarmTask
from mesh.apart import in_order
from mesh.records import Attachment, TaskReport

MAX_ATTACHMENTS = 64
"""Of one task. A node may report anything; what it reports must fit into a record that others read."""

_NETWORK = re.compile(r"[0-9a-z]{1,64}")  # Docker's ids: 64 hexadecimal digits on a node, 25 of base 36 in Swarm


@dataclass(frozen=True, slots=True)
class Attachments:
    """What Swarm says of all tasks and services, so that a node is believed only where Swarm says nothing.

    Attributes:
        known: (network, IP version) of which Swarm itself gives the addresses. On these a node could otherwise claim
            any address for a task of its own, and have strict tasks everywhere refuse whoever has it.
    """

    known: frozenset[tuple[str, int]]

    @classmethod
    def of(cls, swarm: Swarm) -> Attachments:
        """Read Swarm's lists."""
        found = [task.elsewhere for task in swarm.tasks.values()]
        found += [service.elsewhere for service in swarm.services.values()]
        return cls(frozenset((a.network, a.address.version) for its in found for a in its))

    def elsewhere(
        self, task: SwarmTask, before: tuple[Attachment, ...], report: TaskReport | None
    ) -> tuple[tuple[Attachment, ...], str | None]:
        """A task's addresses on other networks.

        Args:
            task: as Swarm has it.
            before: what its endpoint has.
            report: of the task's own node, None where there is none that can be read.

        Returns:
            The addresses as a record has them; and what is wrong, in words.
        """
        if all(a in before for a in task.elsewhere) and all(
            a in before for a in (report.elsewhere if report else ())
        ):
            return in_order(before), None  # as nearly always, and cheaper than sets of addresses
        sure = {*task.elsewhere, *before}
        told = in_order(a for a in (report.elsewhere if report else ()) if a not in sure and self._believed(a))
        room = max(0, MAX_ATTACHMENTS - len(sure))
        problem = None
        if len(told) > room:
            problem = (
                f"task {task.id}: its node reports more than {MAX_ATTACHMENTS} addresses: some are not kept apart"
            )
        return in_order([*sure, *told[:room]]), problem

    def _believed(self, told: Attachment) -> bool:
        return bool(_NETWORK.fullmatch(told.network)) and (told.network, told.address.version) not in self.known
