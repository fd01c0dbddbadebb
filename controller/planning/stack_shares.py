"""Shares of stacks in the mesh's addresses and in each node's UDP ports: none takes what the others will need. Pure.

A stack that holds its share of a pool gets nothing of the last part of that size. So a lone stack can use most of a
pool of any size, and no stack can exhaust it. Nothing is counted by stack while a pool has more left than that.
Services without a stack share as one. Whoever creates services can also create stacks: then each gets a share.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from ipaddress import IPv4Network

from controller.index.index import Index
from mesh.errors import Terminal
from mesh.model import keyspace
from mesh.model.records import Address, Node

MOST = 1.0
"""Share at which a stack may have all."""


@dataclass(slots=True)
class _Pool:
    """A pool that is scarce: what each stack holds of it, and why nobody gets any more of it in this run."""

    held: Counter[str] = field(default_factory=Counter)
    used_up: str = ""


class Shares:
    """Shares of one run."""

    def __init__(self, index: Index, subnet: IPv4Network, share: float) -> None:
        """Prepare.

        Args:
            index: of what Swarm and the store hold.
            subnet: of the mesh.
            share: part of a pool, up to MOST.
        """
        self._index = index
        self._size = max(0, subnet.num_addresses - 2)
        self._share = share
        self._scarce: dict[str, _Pool] = {}  # by node, "" for the mesh's addresses
        self._given: dict[str, Counter[str]] = {}  # the same, by the stack that got it in this run

    def check_addresses(self, service: str) -> None:
        """Check that a service may have one more address.

        Raises:
            Terminal: its stack has its share, or nobody gets any more.
        """
        taken = len(self._index.taken.addresses) + self._given_of("").total()
        self._check("", self._size, taken, service, f"the mesh's {self._size} addresses", "--subnet")

    def check_ports(self, node: Node, service: str) -> None:
        """Check that a task of a service may have one more port of a node. Raises Terminal, as above."""
        size = node.last_port - node.first_port + 1
        taken = len(self._index.taken.ports.get(node.id, ())) + self._given_of(node.id).total()
        self._check(node.id, size, taken, service, f"the {size} UDP ports of {node.hostname}", "its agent's --ports")

    def give(self, pool: str, service: str) -> None:
        """Count an address ("") or a port of a node as given to a service."""
        self._given.setdefault(pool, Counter())[self.stack(service)] += 1

    def use_up(self, pool: str, error: Terminal) -> None:
        """Remember that a pool is empty: to look for a free address takes as long as there are addresses."""
        self._scarce.setdefault(pool, _Pool()).used_up = str(error)

    def stack(self, service: str) -> str:
        """Return the stack of a service; of one that Swarm no longer has, as it was when it got its VIP.

        Its name would not do: whoever gives his service the name `shop_web` is not in the stack `shop` by that.
        """
        known = self._index.swarm.services.get(service)
        if known is not None:
            return known.stack or ""
        stored = self._index.services.get(service)
        held = self._index.stored.get(keyspace.address(stored.vip), Address) if stored is not None else None
        return held.stack if held is not None and held.holder == f"service/{service}" else ""

    def _given_of(self, pool: str) -> Counter[str]:
        return self._given.get(pool, Counter())

    def _check(self, pool: str, size: int, taken: int, service: str, what: str, wider: str) -> None:  # noqa: PLR0917 - of one caller each
        known = self._scarce.get(pool)
        if known is not None and known.used_up:
            raise Terminal(known.used_up)
        if self._share >= MOST or size <= 0 or size - taken > self._share * size:
            return
        if known is None:
            known = self._scarce[pool] = _Pool(self._counted(pool))
        stack = self.stack(service)
        held = known.held[stack] + self._given_of(pool)[stack]
        if held >= self._share * size:
            named = f"the stack {stack} has" if stack else "services without a stack have"
            raise Terminal(
                f"{named} {held} of {what}, and the last {self._share:.0%} are for others: widen {wider}, or the "
                "controller's --stack-share"
            )

    def _counted(self, pool: str) -> Counter[str]:
        held: Counter[str] = Counter()
        if pool:
            tasks = (endpoint for endpoint in self._index.endpoints.values() if endpoint.node == pool)
            held.update(self.stack(endpoint.service) for endpoint in tasks)
            return held
        held.update(self.stack(endpoint.service) for endpoint in self._index.endpoints.values())
        held.update(self.stack(service) for service in self._index.services)
        rests = (address for address in self._index.stored.all(Address) if address.holder is None)
        held.update(address.stack for address in rests)
        return held
