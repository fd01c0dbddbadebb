"""Node encryption part of a plan: the nodes' places in it, and the next step of switching it on, off or over. Pure.

Its rules, beside those of every plan (controller.planning.planner):

- nodes state their encryption keys only when they are asked to (`EncryptionWanted`): an older controller could not
  read their records;
- it begins when every node that is up is a member that states an encryption key: an older agent would not act on a
  signed set with records that it does not know;
- the next step begins when every node that is up and has a place has acknowledged the last one, so that no node
  sends by a device that another does not have, or refuses what another still sends;
- plain packets are refused only once every node that is up has a place, and reaches all others by its device;
- mode `all` begins when the agents of all nodes that are up say that they know it;
- it is taken back by the same steps, the record last, and the places after it;
- a node loses its place when it has left the Swarm or is revoked, never because it is silent;
- which of its keys a place has, and when nodes get new ones, is said by controller.planning.node_keys.

It is planned as a whole each time: its size is that of the nodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from controller.planning.context import PlanContext
from controller.planning.node_keys import NodeKeys
from controller.planning.underlay import Underlay as Addresses
from controller.steps import PlanStep, Step
from controller.swarm.model import SwarmNode
from mesh.errors import Terminal
from mesh.model import keyspace
from mesh.model.encryption.records import NodeEncryption, Underlay
from mesh.model.encryption.status import LAST, STEPS, Mode
from mesh.model.encryption.status import Step as EncryptionStep
from mesh.model.snapshot import Delete, Put

LATE_S = 15
"""Seconds after which a step that nodes have not taken is a problem. A generation is the second in which it began."""
UNKNOWING = "an agent of an earlier version does not know it, and would act on nothing new: docker linkwire upgrade"
_NAMED = 5
"""Nodes that a problem names."""


class NodeEncryptionPlan:
    """Node encryption steps of one run."""

    def __init__(self, run: PlanContext) -> None:
        """Prepare."""
        self._run = run
        self._index = run.index
        self._stored = run.index.stored
        self._underlays = run.index.underlays()
        self._owners = {key.public_key: name for name, place in self._underlays.items() for key in place.keys}
        self._hosts = {place.endpoint.host: name for name, place in self._underlays.items()}
        self._addresses = Addresses(run)
        self._lacking: dict[str, str] = {}
        """Node that is up and gets no place -> why."""
        self._kept: dict[str, str] = {}
        """Node that is up and keeps the place that it had, because it could get none now -> why."""

    def steps(self) -> Iterator[Step]:
        """Give nodes their places, and go the next step."""
        goal, current = self._run.encryption.mode, self._index.encryption
        if keyspace.ENCRYPTION in self._stored.invalid:
            return  # unknown: it is restored first
        if goal is None and current is None:
            yield from self._clear()
            return
        settled = current is not None and goal is not None and following(current.step, goal) == current.step
        yield from self._keys.request(
            settled=settled and current is not None and current.mode == goal,
            all_wanted="all" in {goal, current.mode if current is not None else None},
        )
        places = list(self._places())
        if current is None and self._lacking:
            if self._is_late(self._keys.since):
                self._report_lacking("nothing is switched until every node has an agent that can take part")
            return
        if self._lacking:
            packets = "refused" if current is not None and current.step == "enforce" else "sent and taken plain"
            self._report_lacking(f"overlay packets to and from it are {packets}")
        yield from places
        yield from self._gone()
        yield from self._next(current, goal)
        self._follow_rotation()

    @cached_property
    def _up(self) -> dict[str, SwarmNode]:
        """The nodes that are up; nobody looks while all of it is off, so that a plan then reads no node."""
        nodes = self._run.index.swarm.nodes
        return {name: node for name, node in nodes.items() if not node.down and node.revoked is None}

    @cached_property
    def _keys(self) -> NodeKeys:
        return NodeKeys(self._run, self._up)

    def _clear(self) -> Iterator[Step]:
        """Delete the places that are left when all else is off, and ask for no keys any more."""
        for node in sorted(self._underlays):
            yield self._removal(node, "node encryption is off")
        if revision := self._stored.revision_of(keyspace.ENCRYPTION_WANTED):
            end = Delete(keyspace.ENCRYPTION_WANTED, revision)
            yield PlanStep((end,), "node encryption: no node is to state its key any more")

    def _is_late(self, since: int) -> bool:
        """Tell whether what began then should be over by now: it takes a few seconds."""
        return not 0 <= self._run.now - since < LATE_S

    # --- places

    def _places(self) -> Iterator[Step]:
        """Yield new and changed places, and note who gets none."""
        for name, observed in sorted(self._up.items()):
            before = self._underlays.get(name)
            try:
                place = self._place(name, before)
                self._check_unique(place)
            except Terminal as error:
                without = self._lacking if before is None else self._kept  # who is silent now keeps its place
                without[name] = str(error).removeprefix(f"node {observed.hostname}: ")
                continue
            self._underlays[name] = place
            if place != before:
                key = keyspace.underlay(name)
                replaced = None if key in self._stored.invalid else self._stored.revision_of(key)
                reason = f"node encryption: {observed.hostname} at {place.endpoint}"
                yield PlanStep((Put(place, replaced),), reason)

    def _check_unique(self, place: Underlay) -> None:
        """Check that no other node has the same key or address: WireGuard tells peers apart by them.

        Raises:
            Terminal: another has.
        """
        for key in place.keys:
            if (other := self._owners.setdefault(key.public_key, place.node)) != place.node:
                raise Terminal(f"it states the encryption key of {self._hostname(other)}")
        if (other := self._hosts.setdefault(place.endpoint.host, place.node)) != place.node:
            raise Terminal(f"its address, {place.endpoint.host}, is that of {self._hostname(other)}")

    def _place(self, name: str, before: Underlay | None) -> Underlay:
        """Return the place of a node. Raises Terminal, with the reason, where it gets none."""
        node = self._index.nodes.get(name)
        if node is None:
            raise Terminal("no agent is heard there")
        if name not in self._run.members:
            raise Terminal("its agent's keys are neither proven nor approved")
        host = self._addresses.host(node, before.endpoint.host if before is not None else None)
        return self._keys.place(name, node, host)

    def _gone(self) -> Iterator[Step]:
        nodes = self._index.swarm.nodes
        for name in sorted(self._underlays):
            observed = nodes.get(name)
            if observed is None:
                yield self._removal(name, "it has left the Swarm")
            elif observed.revoked is not None:
                yield self._removal(name, "it is revoked")

    def _removal(self, node: str, why: str) -> PlanStep:
        key = keyspace.underlay(node)
        text = f"node encryption: {self._hostname(node)} has no place any more: {why}"
        return PlanStep((Delete(key, self._stored.revision_of(key)),), text)

    def _report_lacking(self, effect: str) -> None:
        for name, why in sorted(self._lacking.items()):
            self._run.problems.append(f"node encryption: node {self._hostname(name)}: {why}; {effect}")

    # --- steps

    def _next(self, current: NodeEncryption | None, goal: Mode | None) -> Iterator[Step]:
        """Yield the next step, unless nodes are still at the last one."""
        port = self._index.swarm.data_path_port
        if goal == "all" and (current is None or current.mode != "all") and self._unknowing:
            self._wait_for_unknowing()
            return
        if current is None:
            if goal is not None:
                record = NodeEncryption(goal, "accept", port, self._run.now)
                self._run.awaits = True
                yield PlanStep((Put(record, 0),), f"node encryption: {goal}: every node takes encrypted packets")
            return
        step = following(current.step, goal)
        mode = current.mode if goal is None else goal
        if (step, mode, port) == (current.step, current.mode, current.data_path_port):
            return
        self._run.awaits = True
        waiting = self._behind(current) or (self._unready() if step == "enforce" else [])
        if waiting and not self._is_late(current.generation):
            return
        if waiting:
            text = f"node encryption: step {current.step} of {current.mode}: next comes {step or 'off'}, waiting for "
            self._run.problems.append(text + _some(waiting))
            return
        revision = self._stored.revision_of(keyspace.ENCRYPTION)
        if step is None:
            yield PlanStep((Delete(keyspace.ENCRYPTION, revision),), "node encryption: off")
            return
        record = NodeEncryption(mode, step, port, max(self._run.now, current.generation + 1))
        yield PlanStep((Put(record, revision),), f"node encryption: {mode}: step {step}")

    def _follow_rotation(self) -> None:
        """Hear the nodes while their keys rotate, and name those that are waited for."""
        if not self._keys.is_under_way:
            return
        self._run.awaits = True
        if not self._is_late(self._keys.since):
            self._run.changes_at(self._keys.since + LATE_S)
        elif waiting := [*self._keys.waiting(self._kept)]:
            self._run.problems.append(f"node encryption: new keys of nodes: waiting for {_some(waiting)}")

    @cached_property
    def _unknowing(self) -> list[str]:
        """The nodes that are up, and whose agents do not say that they know mode `all`."""
        nodes = self._index.nodes
        return [name for name in sorted(self._up) if name in nodes and not nodes[name].encryption_all]

    def _wait_for_unknowing(self) -> None:
        """Hold mode `all` where an agent would not know it: it would act on nothing new any more."""
        self._run.awaits = True
        if not self._is_late(self._keys.all_since):
            self._run.changes_at(self._keys.all_since + LATE_S)
            return
        names = _some([self._hostname(name) for name in self._unknowing])
        self._run.problems.append(f"node encryption: mode all waits for {names}: {UNKNOWING}")

    def _behind(self, current: NodeEncryption) -> list[str]:
        """Name the nodes that are up, have a place, and have not acknowledged the current step."""
        names = sorted(self._up.keys() & self._underlays.keys())
        return [self._hostname(name) for name in names if not self._is_at(name, current)]

    def _is_at(self, node: str, current: NodeEncryption) -> bool:
        state = self._run.encryption.states.get(node)
        return state is not None and (state.generation, state.step) == (current.generation, current.step)

    def _unready(self) -> list[str]:
        """Name the nodes that are up and would lose packets if plain ones were refused now."""
        others = len(self._up) - 1
        names = []
        for name, observed in sorted(self._up.items()):
            state = self._run.encryption.states.get(name)
            ready = state.ready if state is not None else 0
            if name not in self._underlays:
                names.append(f"{observed.hostname} (which has no part in it)")
            elif ready < others:
                names.append(f"{observed.hostname} (which reaches {ready} of {others} other nodes by it)")
        return names

    def _hostname(self, node: str) -> str:
        observed: SwarmNode | None = self._index.swarm.nodes.get(node)
        return observed.hostname if observed is not None else node


def _some(names: list[str]) -> str:
    more = f", and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def following(step: EncryptionStep, goal: Mode | None) -> EncryptionStep | None:
    """Return the step after one on the way to a mode, or to none; the same where it is reached, None for off."""
    last = STEPS.index(LAST[goal]) if goal is not None else -1
    at = STEPS.index(step)
    to = at + (last > at) - (last < at)
    return STEPS[to] if to >= 0 else None
