"""Addresses of a task on networks other than the mesh, from Swarm and from the task's own node. Pure.

An address stays for as long as the task lives. Swarm never moves a task to other networks, it makes a new task, so an
address that is missing now is only unreported now. A report that is missing, that cannot be read or that was made
before Docker had an answer must not open for a moment a path that `strict` has shut.
"""

from __future__ import annotations

import re
from collections.abc import Container

from controller.swarm.model import SwarmTask
from mesh.model.records import Attachment, TaskReport
from mesh.topology.isolation import in_order

MAX_ATTACHMENTS = 64
"""Addresses of one task. A node may report any number, and they must fit into a record that others read."""

_NETWORK = re.compile(r"[0-9a-z]{1,64}")  # Docker's ids: 64 hexadecimal digits on a node, 25 of base 36 in Swarm


def attachments(
    task: SwarmTask,
    before: tuple[Attachment, ...],
    report: TaskReport | None,
    swarms: Container[tuple[str, int]],
) -> tuple[tuple[Attachment, ...], str | None]:
    """Combine a task's addresses on other networks.

    Args:
        task: as Swarm has it.
        before: of its endpoint.
        report: of the task's own node, None where there is none that can be read.
        swarms: (network, IP version) of which Swarm itself gives the addresses. On these a node is not believed: it
            could claim any address for a task of its own, and have strict tasks everywhere refuse its owner.

    Returns:
        The addresses as a record has them; and the problem, if there is one.
    """
    reported = report.elsewhere if report else ()
    if all(a in before for a in task.attachments) and all(a in before for a in reported):
        return in_order(before), None  # as nearly always, and cheaper than sets of addresses
    sure = {*task.attachments, *before}
    new = in_order(
        a
        for a in reported
        if a not in sure and _NETWORK.fullmatch(a.network) and (a.network, a.address.version) not in swarms
    )
    room = max(0, MAX_ATTACHMENTS - len(sure))
    problem = None
    if len(new) > room:
        problem = f"task {task.id}: its node reports more than {MAX_ATTACHMENTS} addresses: some are not kept apart"
    return in_order([*sure, *new[:room]]), problem
