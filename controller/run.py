"""One run of a plan: what there is, what of it is looked at, and what was found and given so far. Pure."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from controller.focus import Focus
from controller.lookup import Lookup
from controller.observed import SwarmTask
from controller.steps import Step
from mesh import keyspace
from mesh.addresses import pick_address, pick_port
from mesh.hybrid import NodePublicKey
from mesh.records import Node, TaskReport


@dataclass(frozen=True, slots=True)
class _Given:
    """Addresses and ports that this run has given, by node."""

    addresses: dict[IPv4Address, int] = field(default_factory=dict)
    ports: dict[str, dict[int, int]] = field(default_factory=dict)


@dataclass(slots=True)
class Run:
    """What the parts of a plan share.

    Attributes:
        known: what there is.
        focus: what to look at.
        subnet: of the mesh.
        now: seconds since the epoch of the controller's clock.
        members: node -> the sealing key that it has shown to be its own.
        problems: in words.
        key_problems: those of link keys, which come after all others.
        to_do: the ids that gave steps or problems, so that they have to be looked at again.
        keys_to_do: the link keys that did.
        timed: link key -> from when and until when it needs nothing by time alone, in seconds since the epoch; of
            those that were looked at, and that ever will.
        kept: service -> the VIP that it goes on with, of those whose own records were lost.
    """

    known: Lookup
    focus: Focus
    subnet: IPv4Network
    now: int
    members: Mapping[str, NodePublicKey]
    problems: list[str] = field(default_factory=list)
    key_problems: list[str] = field(default_factory=list)
    to_do: set[str] = field(default_factory=set)
    keys_to_do: set[str] = field(default_factory=set)
    timed: dict[str, tuple[int, int]] = field(default_factory=dict)
    kept: dict[str, IPv4Address] = field(default_factory=dict)
    _given: _Given = field(default_factory=_Given)

    def each(self, ids: Iterable[str], make: Callable[[str], Iterable[Step]]) -> Iterator[Step]:
        """The steps for each of some ids, in their order."""
        return self._each(ids, make, self.to_do)

    def each_key(self, keys: Iterable[str], make: Callable[[str], Iterable[Step]]) -> Iterator[Step]:
        """The steps for each of some link keys, in their order."""
        return self._each(keys, make, self.keys_to_do)

    def _each(self, names: Iterable[str], make: Callable[[str], Iterable[Step]], to_do: set[str]) -> Iterator[Step]:
        for name in sorted(names):
            said = len(self.problems) + len(self.key_problems)
            steps = tuple(make(name))
            if steps or len(self.problems) + len(self.key_problems) > said:
                to_do.add(name)
            yield from steps

    def free_address(self, holder: str) -> IPv4Address:
        """One that nobody has, until `give_address`.

        Raises:
            Terminal: there is none.
        """
        return pick_address(self.subnet, ChainMap(self._given.addresses, self.known.taken.addresses), holder)

    def give_address(self, address: IPv4Address) -> None:
        """It is not free for the rest of this run."""
        self._given.addresses[address] = 1

    def give_port(self, node: Node, hint: str) -> int:
        """A free UDP port of a node, which is not free for the rest of this run.

        Raises:
            Terminal: there is none.
        """
        given = self._given.ports.setdefault(node.id, {})
        taken = self.known.taken.ports[node.id]
        number = pick_port(node.first_port, node.last_port, ChainMap(given, taken), hint)
        given[number] = 1
        return number

    def report(self, task: SwarmTask) -> TaskReport | None:
        """What the task's own node says of it; the word of another node counts for nothing."""
        return self.known.stored.get(keyspace.report(task.node, task.id), TaskReport)
