"""Epochs of the nodes' own keys in node encryption: which of its keys a place has, and when new ones are due. Pure.

A rotation, make before break:

1. every node is asked for a key of a new epoch (`EncryptionWanted`), and states it beside the one that it has;
2. when all have stated one, each place gets it as its next one: nodes have two devices, and send by the newer one to
   each node that answers there;
3. when no node sends by the older one any more, places have the new key alone, and older devices and keys go.

A node that is down is not waited for. It comes back with the key that it had, and gets the new one by the same steps.
Nothing that an earlier version does not know is written before all nodes have stated a key of the new epoch, which
one of an earlier version does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

from controller.planning.context import PlanContext
from controller.steps import PlanStep, Step
from controller.swarm.model import SwarmNode
from mesh.errors import Terminal
from mesh.model import keyspace
from mesh.model.encryption.records import EncryptionWanted, Underlay
from mesh.model.encryption.status import EpochKey
from mesh.model.labels.ports import MAX_PORT
from mesh.model.net import IPAddress, UdpEndpoint
from mesh.model.records import Node
from mesh.model.snapshot import Put
from mesh.topology.underlay import FIRST_PORT

_NAMED = 5
"""Nodes that a problem names as those that one does not reach."""
SPENT_S = 600
"""Seconds between two rotations that nodes ask for since their clocks went back: one alone would keep all busy."""
_WITHOUT = "its agent states no encryption key: it is of an earlier version, or its log says why"


class NodeKeys:
    """Epochs of the nodes' keys in one run.

    Attributes:
        epoch: of the keys that nodes are asked for.
        all_since: since when nodes are asked whether they know mode `all`; 0 for not.
    """

    def __init__(self, run: PlanContext, up: Mapping[str, SwarmNode]) -> None:
        """Prepare; `up` are the nodes that are up."""
        self._run = run
        self._stored = run.index.stored
        self._up = up
        self._places = run.index.underlays()
        self._asked = self._stored.get(keyspace.ENCRYPTION_WANTED, EncryptionWanted)
        self._placed = max((key.epoch for place in self._places.values() for key in place.keys), default=0)
        self.since = self._asked.since if self._asked is not None else run.now
        """Since when nodes are asked for these, by the clock of the controller that did."""
        self.epoch = max(self._placed, self._asked.epoch if self._asked is not None else 0)
        self.all_since = self._asked.all_since if self._asked is not None else 0

    # --- requests

    def request(self, *, settled: bool, all_wanted: bool) -> Iterator[Step]:
        """Ask the nodes to state their keys, and for new ones where they are due.

        Args:
            settled: whether no step of node encryption is under way: else no rotation begins.
            all_wanted: whether nodes are to say that they know mode `all`.
        """
        if settled and not self._rotating and self._is_due():
            self.epoch = max(self._run.now, self._run.encryption.renewed, self.epoch + 1)
            self.since = self._run.now
        if all_wanted != (self.all_since > 0):
            self.all_since = self._run.now if all_wanted else 0
        asked = EncryptionWanted(self.since, self.epoch, self.all_since)
        if asked != self._asked:
            replaced = self._stored.revision_of(keyspace.ENCRYPTION_WANTED)
            what = f"a key of epoch {self.epoch}" if self.epoch else "its key"
            what += ", and whether it knows mode all" * all_wanted
            why = f", as clocks went back: {', '.join(map(self._hostname, self._spent))}" if self._spent else ""
            yield PlanStep((Put(asked, replaced),), f"node encryption: every node is to state {what}{why}")

    def _is_due(self) -> bool:
        """Tell whether nodes are to get new keys: by hand, after so long, or where a node's clock went back.

        Peers take the handshakes of such a node for replays. It could make another key by itself, and would be out of
        touch for a moment; a rotation loses nothing.
        """
        if (self.epoch or self.since) < self._run.encryption.renewed:
            return True
        return self._is_older(self._run.encryption.rotate) or (bool(self._spent) and self._is_older(SPENT_S))

    @cached_property
    def _spent(self) -> list[str]:
        """The nodes that are up and say that their newest keys must not be used any more."""
        nodes, epoch = self._run.index.nodes, self._asked.epoch if self._asked is not None else self.epoch
        return [name for name in self._active if name in nodes and nodes[name].encryption_spent == epoch]

    def _is_older(self, rotate: int | None) -> bool:
        """Tell whether the nodes' keys are older than so many seconds; never, than None."""
        now = self._run.now
        if rotate is None:
            return False
        # A clock that was set back makes it due, rather than late by as much.
        if not self.since <= now < self.since + rotate:
            return True
        self._run.changes_at(self.since + rotate)
        return False

    @property
    def _active(self) -> list[str]:
        """The nodes that are up and have a place."""
        return sorted(self._up.keys() & self._places.keys())

    @property
    def _rotating(self) -> bool:
        """Whether a node that is up has another key than one of the epoch that is asked for."""
        return any(self._places[name].keys[0].epoch != self.epoch for name in self._active)

    # --- places

    def place(self, name: str, node: Node, host: IPAddress) -> Underlay:
        """Return the place of a node, at an address. Raises Terminal, with the reason, where it can have none."""
        before, stated = self._places.get(name), self._stated(node)
        newest = self.epoch if self._may_offer else self._placed
        usable = [key for key in stated if key.epoch <= newest]
        if not usable:
            raise Terminal(_WITHOUT)
        had = {key.public_key for key in before.keys} if before is not None else set()
        placed = [key for key in usable if key.public_key in had]
        # Of two older ones the later one: the node was down when a rotation ended, and the others have that one. The
        # other device is for the key that is asked for.
        first = ([key for key in placed if key.epoch < self.epoch] or placed[:1] or usable)[-1]
        later = usable[-1] if usable[-1].epoch == newest != first.epoch else None
        if later is not None and before is not None and before.next == later and self._have_moved:
            first, later = later, None
        return Underlay(name, first.public_key, UdpEndpoint(host, first.port), first.epoch, later)

    def _stated(self, node: Node) -> list[EpochKey]:
        """Return a node's keys, the newest last. Raises Terminal where one of them cannot be used."""
        if node.encryption_key is None:
            raise Terminal(_WITHOUT)
        keys = [EpochKey(node.encryption_epoch, node.encryption_key, node.encryption_port)]
        if node.encryption_next is not None:
            keys.append(node.encryption_next)
        for key in keys:
            if not FIRST_PORT <= key.port <= MAX_PORT or key.port == self._run.index.swarm.data_path_port:
                raise Terminal(f"its agent states the UDP port {key.port} for it, which is not used")
        if len({(key.public_key, key.port) for key in keys}) != len({key.epoch for key in keys}):
            raise Terminal("its agent states two keys of one epoch")
        return sorted(keys, key=lambda key: key.epoch)

    @cached_property
    def _may_offer(self) -> bool:
        """Whether places may have keys of the epoch that is asked for: all state one, or they have it already."""
        return self._placed == self.epoch or not self._lacking

    @cached_property
    def _lacking(self) -> list[str]:
        """The nodes that are up, and state no key of the epoch that is asked for."""
        nodes = self._run.index.nodes
        return [
            name
            for name in sorted(self._up)
            if (name in self._places or name in nodes) and not self._states(nodes.get(name))
        ]

    def _states(self, node: Node | None) -> bool:
        try:
            return node is not None and any(key.epoch == self.epoch for key in self._stated(node))
        except Terminal:
            return False

    @cached_property
    def _have_moved(self) -> bool:
        """Whether no node that is up sends to another one by an older key."""
        return not any(self._waits_for(name) is not None for name in self._active)

    def _waits_for(self, name: str) -> list[str] | None:
        """Return the nodes that one does not send to by its newest key; None for none of those that are up."""
        state = self._run.encryption.keys.get(name)
        if state is None or state.epochs[-1:] != (self.epoch,):
            return []
        waiting = [other for other in state.waiting if other in self._active]
        return waiting or None

    # --- problems

    def waiting(self, refused: Mapping[str, str]) -> Iterator[str]:
        """Name the nodes that a rotation waits for, with the reason.

        Args:
            refused: nodes that have a place and would get none now, with the reason.
        """
        if not self._may_offer:
            for name in self._lacking:
                yield f"{self._hostname(name)} ({refused.get(name, 'which states no new key')})"
            return
        for name in self._active if self._rotating else ():
            waits_for = self._waits_for(name)
            if name in refused:
                yield f"{self._hostname(name)} ({refused[name]})"
            elif waits_for:
                others = ", ".join(map(self._hostname, waits_for[:_NAMED]))
                yield f"{self._hostname(name)} (which does not reach {others} by the new key)"
            elif waits_for is not None:
                yield f"{self._hostname(name)} (which does not say that it uses the new key)"

    @property
    def is_under_way(self) -> bool:
        """Whether keys are rotating."""
        return bool(self.epoch) and (self._rotating or self._placed != self.epoch)

    def _hostname(self, node: str) -> str:
        observed = self._run.index.swarm.nodes.get(node)
        return observed.hostname if observed is not None else node
