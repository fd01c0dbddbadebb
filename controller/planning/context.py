"""Shared state of one run of a plan: its indexes and scope, and everything that it has given so far. Pure."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from controller.index.index import Index
from controller.index.scope import Scope
from controller.planning.stack_shares import Shares
from controller.steps import EncryptionGoal, OpenVault, Step
from controller.swarm.model import SwarmTask
from mesh.crypto.hpke import NodePublicKey
from mesh.errors import Terminal
from mesh.model import keyspace
from mesh.model.records import Node, TaskReport
from mesh.topology.ipam import pick_address, pick_port


@dataclass(frozen=True, slots=True)
class _Given:
    """Addresses and ports that this run has given, by node."""

    addresses: dict[IPv4Address, int] = field(default_factory=dict)
    ports: dict[str, dict[int, int]] = field(default_factory=dict)


@dataclass(slots=True)
class PlanContext:
    """State that the parts of a plan share.

    Attributes:
        index: of what Swarm and the store hold.
        focus: the scope.
        subnet: of the mesh.
        now: seconds since the epoch by the controller's clock.
        members: node -> its proven sealing key.
        shares: of the stacks in addresses and ports.
        problems: texts.
        key_problems: texts about link keys, which come after all others.
        to_do: ids that gave steps or problems and have to be looked at again.
        keys_to_do: link keys that did so.
        timed: link key -> from when and until when time alone changes nothing, in seconds since the epoch; of
            link keys in scope that are renewed by time.
        vault: that new epochs' secrets are kept under; None where every secret follows from the link seed.
        vips: service whose own record was lost -> the VIP that it still holds.
        encryption: that between nodes, as it is to be.
        awaits: whether its next step waits until nodes have acknowledged the last one.
        due: when time alone changes something else than link keys, in seconds since the epoch; None for never.
    """

    index: Index
    focus: Scope
    subnet: IPv4Network
    now: int
    members: Mapping[str, NodePublicKey]
    shares: Shares
    vault: OpenVault | None = None
    problems: list[str] = field(default_factory=list)
    key_problems: list[str] = field(default_factory=list)
    to_do: set[str] = field(default_factory=set)
    keys_to_do: set[str] = field(default_factory=set)
    timed: dict[str, tuple[int, int]] = field(default_factory=dict)
    vips: dict[str, IPv4Address] = field(default_factory=dict)
    encryption: EncryptionGoal = field(default_factory=EncryptionGoal)
    awaits: bool = False
    due: int | None = None
    _given: _Given = field(default_factory=_Given)

    def changes_at(self, due: int) -> None:
        """Have time alone be reason for another plan, then."""
        self.due = due if self.due is None else min(due, self.due)

    def each(self, ids: Iterable[str], make: Callable[[str], Iterable[Step]]) -> Iterator[Step]:
        """Yield the steps of each id, in the order of ids."""
        return self._each(ids, make, self.to_do)

    def each_key(self, keys: Iterable[str], make: Callable[[str], Iterable[Step]]) -> Iterator[Step]:
        """Yield the steps of each link key, in the order of names."""
        return self._each(keys, make, self.keys_to_do)

    def _each(self, names: Iterable[str], make: Callable[[str], Iterable[Step]], to_do: set[str]) -> Iterator[Step]:
        for name in sorted(names):
            before = len(self.problems) + len(self.key_problems)
            steps = tuple(make(name))
            if steps or len(self.problems) + len(self.key_problems) > before:
                to_do.add(name)
            yield from steps

    def free_address(self, holder: str, service: str) -> IPv4Address:
        """Pick an address for a service's task, or its own, that is free, and stays so until `give_address`.

        Raises:
            Terminal: none is free, or the service's stack has its share.
        """
        self.shares.check_addresses(service)
        try:
            return pick_address(self.subnet, ChainMap(self._given.addresses, self.index.taken.addresses), holder)
        except Terminal as error:
            self.shares.use_up("", error)
            raise

    def give_address(self, address: IPv4Address, service: str) -> None:
        """Count an address as allocated for the rest of this run."""
        self._given.addresses[address] = 1
        self.shares.give("", service)

    def give_port(self, node: Node, hint: str, service: str) -> int:
        """Pick a free UDP port of a node for a service's task, and count it as allocated for the rest of this run.

        Raises:
            Terminal: none is free, or the service's stack has its share.
        """
        self.shares.check_ports(node, service)
        given = self._given.ports.setdefault(node.id, {})
        taken = self.index.taken.ports[node.id]
        number = pick_port(node.first_port, node.last_port, ChainMap(given, taken), hint)
        given[number] = 1
        self.shares.give(node.id, service)
        return number

    def report(self, task: SwarmTask) -> TaskReport | None:
        """Return the report of a task by its own node; reports of other nodes do not count."""
        return self.index.stored.get(keyspace.report(task.node, task.id), TaskReport)
