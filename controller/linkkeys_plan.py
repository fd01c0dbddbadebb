"""Which node needs the secret of which link key, and of which epoch: what a plan says of link keys. Pure.

What it promises, beside what every plan does (controller.plan):

- a node is given a link key no later than the endpoint, or the link, that makes it need it: no handshake waits;
- it is taken from a node only when neither Swarm nor the store has a link left for which that node needs it;
- an epoch only grows, also where its record was lost: it is then counted on from the boxes and the clock;
- a new epoch is not begun while a node that holds the key is silent: its kernel would go on with the old secret, and
  its links would end when the running sessions do, with nobody there to mend them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache

from controller.concerns import ends_unknown
from controller.observed import SwarmTask
from controller.run import Run
from controller.steps import Box, Change, Share, Step
from mesh import keyspace
from mesh.records import LinkKeyEpoch
from mesh.snapshot import Delete, Put

MAX_BOXES = 60
"""In one step, which is one transaction: etcd takes 128 operations, and a box is 1.6 kB."""


class LinkKeyPlan:
    """This part of one run, and what it has given already."""

    def __init__(self, run: Run) -> None:
        """Prepare."""
        self._run = run
        self._known = run.known
        self._swarm = run.known.swarm
        self._stored = run.known.stored
        self._epochs: dict[str, int | None] = {}
        self._given: set[tuple[str, str]] = set()
        # By service first: a key is asked for each of its services, and not for each of their tasks.
        self._holding: Callable[[str], frozenset[str]] = cache(self._holding_service)
        self._needing: Callable[[str], frozenset[str]] = cache(self._needing_service)

    # --- who has what

    def _holding_service(self, service: str) -> frozenset[str]:
        """The nodes with live tasks of a linked service that have an endpoint."""
        known = self._known
        if service not in known.links.linked:
            return frozenset()
        return frozenset(
            known.tasks.live[task].node for task in known.tasks.of_service.get(service, ()) if task in known.endpoints
        )

    def _needing_service(self, service: str) -> frozenset[str]:
        """The nodes with endpoints of a service, or with live tasks where it is linked."""
        known = self._known
        live = known.tasks.of_service.get(service, ()) if service in known.links.linked else ()
        nodes = {known.endpoints[task].node for task in known.placed.get(service, ())}
        return frozenset(nodes.union(known.tasks.live[task].node for task in live))

    def _holders(self, key: str) -> frozenset[str]:
        return _nodes(self._holding, self._known.links.ends.get(key, ()))

    # --- epochs

    def _epoch(self, key: str) -> tuple[int | None, tuple[Put, ...]]:
        """The epoch that counts for a key, and what has to be written for that; None while it is not known."""
        if key in self._epochs:
            return self._epochs[key], ()
        path = keyspace.epoch(key)
        if path in self._stored.invalid:
            self._epochs[key] = None
            return None, ()
        stored = self._stored.get(path, LinkKeyEpoch)
        highest = max((box.epoch for box in self._known.link_keys.boxes.get(key, {}).values()), default=-1)
        if stored is not None and highest <= stored.epoch and not self._new_epoch_is_due(stored):
            self._epochs[key] = stored.epoch
            return stored.epoch, ()
        epoch = max(self._run.now, highest + 1, stored.epoch + 1 if stored is not None else 0)
        self._epochs[key] = epoch
        record = LinkKeyEpoch(key, epoch, self._run.now, self._known.links.uses[key].asked)
        return epoch, (Put(record, self._stored.revision_of(path)),)

    def _new_epoch_is_due(self, stored: LinkKeyEpoch) -> bool:
        use = self._known.links.uses[stored.key]
        wanted = bool(set(use.asked) - set(stored.asked))
        if use.rotate is not None and not wanted:
            # A clock that was set back makes it due, which costs nothing, instead of putting it off by as much.
            due = stored.since + use.rotate
            wanted = not stored.since <= self._run.now < due
            if not wanted:
                self._run.timed[stored.key] = stored.since, due
        if not wanted:
            return False
        silent = [self._hostname(node) for node in sorted(self._holders(stored.key)) if self._is_silent(node)]
        if silent:
            self._run.key_problems.append(
                f"link key {stored.key}: gets no new secret before the agents of {', '.join(silent)} are there"
            )
        return not silent

    def _is_silent(self, node: str) -> bool:
        """Whether it is there, and can be given nothing: no agent, or one that has not shown its keys."""
        found = self._swarm.nodes.get(node)
        heard = node in self._known.nodes and node in self._run.members
        return not heard and found is not None and not found.down

    def _hostname(self, node: str) -> str:
        found = self._swarm.nodes.get(node)
        return found.hostname if found is not None else node

    # --- steps

    def first_steps(self) -> Iterator[Step]:
        """What nodes must be given that have endpoints on a key's links already: before these links are written."""
        return self._run.each_key(self._run.focus.keys_among(self._known.links.uses), self._first)

    def _first(self, key: str) -> Iterator[Step]:
        holders = self._holders(key)
        if holders or keyspace.epoch(key) in self._stored.records:
            yield from self._share(key, sorted(holders))

    def for_task(self, task: SwarmTask) -> Iterator[Step]:
        """What a task's node must be given before the task gets its endpoint."""
        for key in sorted(self._known.links.keys_of(task.service)):
            yield from self._share(key, [task.node])

    def _share(self, key: str, nodes: Iterable[str]) -> Iterator[Share]:
        epoch, puts = self._epoch(key)
        if epoch is None:
            return
        boxes = [box for node in nodes if (box := self._box(key, node, epoch)) is not None]
        for start in range(0, max(len(boxes), len(puts)), MAX_BOXES):
            part = tuple(boxes[start : start + MAX_BOXES])
            names = ", ".join(self._hostname(box.node) for box in part) or "nobody yet"
            yield Share(puts if start == 0 else (), part, f"link key {key}: epoch {epoch}, for {names}")

    def _box(self, key: str, node: str, epoch: int) -> Box | None:
        path = keyspace.link_key(node, key)
        to = self._run.members.get(node)
        if to is None or path in self._stored.invalid or (key, node) in self._given:
            return None
        stored = self._known.link_keys.boxes.get(key, {}).get(node)
        if stored and (stored.epoch, stored.sealed_to) == (epoch, to.fingerprint):
            return None
        self._given.add((key, node))
        return Box(key, epoch, node, to, self._stored.revision_of(path))

    def last_steps(self) -> Iterator[Step]:
        """What nobody needs any more."""
        if ends_unknown(self._stored):
            return
        focus = self._run.focus
        yield from self._run.each_key(focus.keys_among(self._known.link_keys.boxes), self._last_boxes)
        yield from self._run.each_key(focus.keys_among(self._known.link_keys.epochs), self._last_epoch)

    def _last_boxes(self, key: str) -> Iterator[Step]:
        needed = _nodes(self._needing, self._known.links.ends.get(key, ()))
        for node in sorted(self._known.link_keys.boxes[key].keys() - needed):
            path = keyspace.link_key(node, key)
            end = Delete(path, self._stored.revision_of(path))
            yield Change((end,), f"link key {key}: {self._hostname(node)} needs it no longer")

    def _last_epoch(self, key: str) -> Iterator[Step]:
        if key not in self._known.links.uses:
            path = keyspace.epoch(key)
            yield Change((Delete(path, self._stored.revision_of(path)),), f"link key {key}: no link has it")


def _nodes(of: Callable[[str], frozenset[str]], services: Iterable[str]) -> frozenset[str]:
    return frozenset[str]().union(*(of(service) for service in services))
