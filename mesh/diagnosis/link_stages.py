"""Walk along one link by what Linkwire itself knows, measures and tries: from its record to its names. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mesh.diagnosis import record_stages, service_stages, tunnel_stages
from mesh.diagnosis.link_facts import LinkFacts
from mesh.diagnosis.steps import Step, until_wrong

_RECORDED: tuple[Callable[[LinkFacts], Iterator[Step]], ...] = (record_stages.record, record_stages.key)
_TUNNEL = (
    record_stages.silent,
    record_stages.clocks,
    tunnel_stages.device,
    tunnel_stages.peer,
    tunnel_stages.handshake,
    tunnel_stages.underlay,
    tunnel_stages.mtu,
)
_SERVICE = (
    service_stages.rule,
    service_stages.vip,
    service_stages.backends,
    service_stages.listens,
    service_stages.name,
)


def by_records(facts: LinkFacts) -> tuple[Step, ...]:
    """Judge what needs no look at the nodes."""
    return tuple(until_wrong(step for stage in _RECORDED for step in stage(facts)))


def by_looking(facts: LinkFacts) -> tuple[Step, ...]:
    """Judge what was seen on the nodes and tried between them."""
    return tuple(until_wrong(step for stage in (*_TUNNEL, *_SERVICE) for step in stage(facts)))
