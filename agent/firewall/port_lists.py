"""Port lists of links: equal ones are rules once, and all of one task's are bounded. No I/O.

A task's rules hold what its consumers' labels say. So that nobody's labels make them too large to be set, equal lists
are one chain, and there is a most for all together. What is above it is left out, and fails closed: a link that was
there before stays, and of the others the shortest lists come first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, replace

from mesh.model.labels.ports import PortRange, merge
from mesh.topology.policy import Allow, Policy

MOST_RANGES = 4_096
"""Port ranges in all inbound links of one task, as in all links of one service: `link_labels.MAX_ALL_RANGES`."""
FEW_RANGES = 512
"""The same once more was refused, and it is not known which of them is new."""
AGAIN_S = 60.0
"""Seconds after which refused links are tried again."""
_SHOWN = 5
INLINE = 8
"""Port ranges in a list that has no chain of its own."""

Link = tuple[str, tuple[PortRange, ...] | None]
"""A service and its ports."""


def link_of(allow: Allow) -> Link:
    """Return what distinguishes a link from the same one with other ports."""
    return allow.service, allow.ports


def shared_name(ports: tuple[PortRange, ...]) -> str | None:
    """Return the name for the chains of a list of ports; None for a short one."""
    if len(ports) <= INLINE:
        return None
    text = ",".join(map(str, merge(ports)))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(slots=True)
class Bounds:
    """Bounds of one task's rules.

    Attributes:
        left_out: services whose links were left out last.
        earlier: services whose links keep the ports that they had, since those that they should have were refused.
        refused: links that the kernel did not take, beside those that were there.
        reason: its words, "" for none.
        until: when they are tried again, by the monotonic clock.
    """

    left_out: tuple[str, ...] = ()
    earlier: tuple[str, ...] = ()
    refused: frozenset[Link] = frozenset()
    reason: str = ""
    until: float = 0.0

    def within(self, policy: Policy, applied: Policy | None, now: float) -> Policy:
        """Leave out inbound links that are too much; `applied` are the rules that are there."""
        if self.refused and now >= self.until:
            self.refused, self.reason = frozenset(), ""
        refused = {allow.service for allow in policy.inbound if link_of(allow) in self.refused}
        kept, self.earlier = _without_new(policy, refused, applied)
        kept = without(kept, _surplus(kept, _links(applied), MOST_RANGES))
        left = {allow.service for allow in policy.inbound} - {allow.service for allow in kept.inbound}
        self.left_out = tuple(sorted(left))
        return kept

    def fewer(self, policy: Policy, applied: Policy | None, reason: str, now: float) -> Policy | None:
        """Leave out what may be why rules were refused; None where that is nothing.

        Args:
            policy: its rules were refused.
            applied: the rules that are there: links that are not in them are left out. None for no rules: then the
                longest lists are.
            reason: of the refusal.
            now: by the monotonic clock.
        """
        known = _links(applied)
        new = {allow.service for allow in policy.inbound if link_of(allow) not in known}
        services = new if applied is not None else _surplus(policy, known, FEW_RANGES)
        if not services:
            return None
        self.refused |= {link_of(allow) for allow in policy.inbound if allow.service in services}
        self.reason, self.until = reason, now + AGAIN_S
        kept, self.earlier = _without_new(policy, services, applied)
        self.left_out = tuple(sorted({*self.left_out, *services} - {*self.earlier}))
        return kept

    def problem(self) -> str | None:
        """Say which links were left out or keep earlier ports, and why, in words; None for none."""
        why = self.reason or f"all port lists of its consumers have more than {MOST_RANGES} ranges: name fewer"
        parts = [
            f"links from {len(services)} services {what} ({_listed(services)})"
            for services, what in ((self.left_out, "are refused"), (self.earlier, "keep the ports that they had"))
            if services
        ]
        return f"{', '.join(parts)}: {why}" if parts else None


def _listed(services: tuple[str, ...]) -> str:
    return ", ".join(services[:_SHOWN]) + (", ..." if len(services) > _SHOWN else "")


def _links(policy: Policy | None) -> frozenset[Link]:
    return frozenset(map(link_of, policy.inbound)) if policy is not None else frozenset()


def _surplus(policy: Policy, known: Collection[Link], most: int) -> set[str]:
    """Return services whose inbound links have too many ports: of the unknown ones, those with the longest lists."""
    if sum(len(allow.ports or ()) for allow in policy.inbound) <= most:
        return set()
    order = sorted(policy.inbound, key=lambda one: (link_of(one) not in known, len(one.ports or ()), one.service))
    counted: set[tuple[PortRange, ...]] = set()
    surplus, room = set(), most
    for allow in order:
        ports = allow.ports or ()
        cost = 0 if ports in counted else len(ports)
        if cost > room:
            surplus.add(allow.service)
        else:
            counted.add(ports)
            room -= cost
    return surplus


def _without_new(policy: Policy, services: Collection[str], applied: Policy | None) -> tuple[Policy, tuple[str, ...]]:
    """Leave out the inbound links of some services, but for what such a link opened before and still is to open.

    Returns:
        The policy; and the services whose links are in it with the ports that they had.
    """
    before = {allow.service: allow.ports for allow in applied.inbound} if applied is not None else {}
    old = {
        allow.service: before[allow.service]
        for allow in policy.inbound
        if allow.service in services and allow.service in before and _opens(allow.ports, before[allow.service])
    }
    rest = without(policy, set(services) - old.keys())
    inbound = tuple(replace(a, ports=old[a.service]) if a.service in old else a for a in rest.inbound)
    return replace(rest, inbound=inbound) if old else rest, tuple(sorted(old))


def _opens(ports: tuple[PortRange, ...] | None, others: tuple[PortRange, ...] | None) -> bool:
    """Tell whether some ports are all of some others, and more; None are all."""
    if ports is None or others is None:
        return ports is None
    return merge((*ports, *others)) == merge(ports)


def without(policy: Policy, services: Collection[str]) -> Policy:
    """Leave out the inbound links of some services: their packets are refused."""
    if not services:
        return policy
    return replace(policy, inbound=tuple(allow for allow in policy.inbound if allow.service not in services))
