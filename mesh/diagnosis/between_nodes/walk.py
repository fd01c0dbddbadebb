"""Walk between two nodes: from their records to the largest packet through their devices. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mesh.diagnosis.between_nodes import record_stages, tunnel_stages
from mesh.diagnosis.between_nodes.facts import NodesFacts
from mesh.diagnosis.steps import Step, until_wrong

_Stage = Callable[[NodesFacts], Iterator[Step]]
_RECORDED: tuple[_Stage, ...] = (record_stages.member, record_stages.key, record_stages.place, record_stages.step)
_LOOKED: tuple[_Stage, ...] = (
    tunnel_stages.silent,
    tunnel_stages.device,
    tunnel_stages.peer,
    tunnel_stages.handshake,
    tunnel_stages.underlay,
    tunnel_stages.route,
    tunnel_stages.firewall,
    tunnel_stages.plain,
    tunnel_stages.mtu,
)


def by_records(facts: NodesFacts) -> tuple[Step, ...]:
    """Judge what needs no look at the nodes."""
    return tuple(until_wrong(step for stage in _RECORDED for step in stage(facts)))


def by_looking(facts: NodesFacts) -> tuple[Step, ...]:
    """Judge what was seen on the nodes and tried between them."""
    return tuple(until_wrong(step for stage in _LOOKED for step in stage(facts)))
