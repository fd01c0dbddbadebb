"""Addresses of a task on networks other than the mesh, from Swarm and from the task's own node. Pure.

An address stays for as long as the task lives. Swarm never moves a task to other networks, it makes a new task, so an
address that is missing now is only unreported now. A report that is missing, that cannot be read or that was made
before Docker had an answer must not open for a moment a path that `strict` has shut.

A node speaks for itself alone. Strict tasks refuse what is recorded here, so a node that could name any network and
any address would have tasks of other nodes refuse them. Its word counts

- on a network of its own (a bridge): as `NETWORK@NODE`, which no task of another node is on;
- on a network of Swarm scope that Swarm has put the task on, and of which it gives no addresses of that IP version:
  for one address, within the network's subnets, not a gateway's.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable

from controller.swarm.model import SwarmNetwork, SwarmTask
from mesh.model.net import IPAddress, IPNetwork
from mesh.model.records import Attachment, TaskReport
from mesh.topology.strict_isolation import in_order

MAX_ATTACHMENTS = 64
"""Addresses of one task. A node may report any number, and they must fit into a record that others read."""

_OF_NODE = re.compile(r"[0-9a-f]{64}")
"""Docker's ids of a node's own networks; those of Swarm scope have 25 digits of base 36."""
_NETWORK = re.compile(r"[0-9a-z]{1,64}")
_SHORT = 12
"""Digits of a node's network that are recorded, as Docker shows ids: they only have to differ on one node."""


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
    earlier = _earlier(task, before)
    claims = report.elsewhere if report else ()
    reported = [_of_node(claim, task) for claim in claims if _NETWORK.fullmatch(claim.network)]
    if earlier == before and all(a in before for a in task.attachments) and all(a in before for a in reported):
        return before, None  # as nearly always, and cheaper than sets of addresses
    sure = {*task.attachments, *earlier}
    new, refused = _believed(task, in_order(a for a in reported if a not in sure), sure, swarms)
    room = max(0, MAX_ATTACHMENTS - len(sure))
    problem = None
    if len(new) > room:
        problem = f"task {task.id}: its node reports more than {MAX_ATTACHMENTS} addresses: some are not kept apart"
    elif refused:
        problem = f"task {task.id}: its node reports an address that Swarm's networks cannot give it: {refused[0]}"
    return in_order([*sure, *new[:room]]), problem


def _of_node(attachment: Attachment, task: SwarmTask) -> Attachment:
    """Name a node's own network as its own; leave another as it is."""
    network = attachment.network
    if _OF_NODE.fullmatch(network):
        network = network[:_SHORT]
    elif not any(known.one_per_node and known.id == network for known in task.networks):
        return attachment
    return Attachment(f"{network}@{task.node}", attachment.address)


def _earlier(task: SwarmTask, before: tuple[Attachment, ...]) -> tuple[Attachment, ...]:
    """Return the recorded addresses, without those that an earlier version believed a node that it could not have."""
    own = f"@{task.node}"
    named = [_of_node(attachment, task) for attachment in before]
    kept = [a for a in named if a in task.attachments or a.network.endswith(own) or not _wrong(a, task.networks)]
    return before if kept == list(before) else in_order(kept)


def _believed(
    task: SwarmTask, reported: Iterable[Attachment], sure: Iterable[Attachment], swarms: Container[tuple[str, int]]
) -> tuple[list[Attachment], list[str]]:
    """Sort what a node reports into what is believed and, in words, what is not."""
    new: list[Attachment] = []
    refused: list[str] = []
    taken = {(a.network, a.address.version) for a in sure}
    for attachment in reported:
        where = attachment.network, attachment.address.version
        if "@" in attachment.network:
            new.append(attachment)
        elif where in swarms or where in taken:
            continue
        elif _wrong(attachment, task.networks):
            refused.append(f"{attachment.address} on {attachment.network}")
        else:
            taken.add(where)
            new.append(attachment)
    return new, refused


def _wrong(attachment: Attachment, networks: tuple[SwarmNetwork, ...]) -> bool:
    """Tell whether Swarm's word on a task's networks rules an address out."""
    network = next((known for known in networks if known.id == attachment.network), None)
    if network is None:
        return True
    address = attachment.address
    return not _is_a_hosts(address) or address in network.gateways or not _within(address, network)


def _within(address: IPAddress, network: SwarmNetwork) -> bool:
    """Tell whether an address is a host's of a network, as far as Swarm says."""
    return not network.subnets or any(
        address in subnet and address != subnet.network_address and not _is_broadcast(address, subnet)
        for subnet in network.subnets
    )


def _is_broadcast(address: IPAddress, subnet: IPNetwork) -> bool:
    return subnet.version == 4 and address == subnet.broadcast_address  # noqa: PLR2004 - IPv6 has none


def _is_a_hosts(address: IPAddress) -> bool:
    return not (address.is_loopback or address.is_multicast or address.is_unspecified or address.is_link_local)
