"""Link key part of a plan: which nodes get the secret of which link key, and of which epoch. Pure.

Its rules, beside those of every plan (controller.planning.planner):

- a node is given a link key no later than the endpoint, or the link, that needs it: no handshake waits;
- a node loses a link key only when neither Swarm nor the store has a link for which the node needs it;
- an epoch only grows, even if its record was lost: it then follows from the boxes and the clock;
- no new epoch begins while a node that holds the key is silent: its kernel would go on with the old secret, and its
  links would end with the running sessions;
- except after a revocation: an epoch whose secret a revoked node may know ends at once, and the node's box is deleted
  only when it has ended. A node that left the Swarm ends it too, but that waits for silent nodes;
- the link key of all nodes is given to each with a place in node encryption (controller.planning.node_encryption).
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache

from controller.index.impact import ends_unknown
from controller.index.link_index import Use
from controller.planning.context import PlanContext
from controller.steps import FRESH, Box, PlanStep, Share, Step
from controller.swarm.model import SwarmTask
from mesh.model import keyspace
from mesh.model.encryption.records import NODES_KEY
from mesh.model.records import LinkKeyEpoch
from mesh.model.snapshot import Delete, Put
from mesh.model.vault.records import EpochHistory

MAX_BOXES = 60
"""Boxes in one step, which is one transaction: etcd takes 128 operations, and a box is 1.6 kB."""


class LinkKeyPlan:
    """Link key steps of one run, and the boxes that it has given."""

    def __init__(self, run: PlanContext) -> None:
        """Prepare."""
        self._run = run
        self._index = run.index
        self._swarm = run.index.swarm
        self._stored = run.index.stored
        self._uses: Mapping[str, Use] = self._index.links.uses
        self._encrypting: frozenset[str] = frozenset()
        """Nodes with a place in node encryption: all have the link key of nodes."""
        if self._index.encryption is not None:
            self._uses = ChainMap({NODES_KEY: Use(None, ())}, dict(self._uses))
            self._encrypting = frozenset(self._index.underlays())
        self._epochs: dict[str, int | None] = {}
        self._given: set[tuple[str, str]] = set()
        # By service first: a key is asked for each of its services, and not for each of their tasks.
        self._holding: Callable[[str], frozenset[str]] = cache(self._holding_service)
        self._needing: Callable[[str], frozenset[str]] = cache(self._needing_service)

    # --- nodes

    def _holding_service(self, service: str) -> frozenset[str]:
        """Return the nodes with live tasks of a linked service that have an endpoint."""
        index = self._index
        if service not in index.links.linked:
            return frozenset()
        return frozenset(
            index.tasks.live[task].node for task in index.tasks.of_service.get(service, ()) if task in index.endpoints
        )

    def _needing_service(self, service: str) -> frozenset[str]:
        """Return the nodes with endpoints of a service and, if it is linked, with live tasks of it."""
        index = self._index
        live = index.tasks.of_service.get(service, ()) if service in index.links.linked else ()
        nodes = {index.endpoints[task].node for task in index.placed.get(service, ())}
        return frozenset(nodes.union(index.tasks.live[task].node for task in live))

    def _holders(self, key: str) -> frozenset[str]:
        if key == NODES_KEY:
            return self._encrypting
        return _nodes(self._holding, self._index.links.ends.get(key, ()))

    def _needers(self, key: str) -> frozenset[str]:
        if key == NODES_KEY:
            return self._encrypting
        return _nodes(self._needing, self._index.links.ends.get(key, ()))

    # --- epochs

    def _epoch(self, key: str) -> tuple[int | None, tuple[Put, ...]]:
        """Return the epoch that counts for a key, None while it is unknown, and the records to write for it."""
        if key in self._epochs:
            return self._epochs[key], ()
        path = keyspace.epoch(key)
        if path in self._stored.invalid:
            self._epochs[key] = None
            return None, ()
        stored = self._stored.get(path, LinkKeyEpoch)
        highest = max((box.epoch for box in self._index.link_keys.boxes.get(key, {}).values()), default=-1)
        if stored is not None and highest <= stored.epoch and not self._new_epoch_is_due(stored):
            self._epochs[key] = stored.epoch if self._is_open(stored) else None
            return self._epochs[key], ()
        begins = self._run.now if self._run.vault is None else self._run.now * 1000
        epoch = max(begins, highest + 1, stored.epoch + 1 if stored is not None else 0)
        self._epochs[key] = epoch
        record = LinkKeyEpoch(key, epoch, self._run.now, self._uses[key].asked)
        history = EpochHistory(key, epoch, tuple(sorted(self._index.revoked.values())))
        note = keyspace.history(key)
        replaced = None if note in self._stored.invalid else self._stored.revision_of(note)
        return epoch, (Put(record, self._stored.revision_of(path)), Put(history, replaced))

    def _new_epoch_is_due(self, stored: LinkKeyEpoch) -> bool:
        if self._is_known_to_revoked(stored):
            return True
        use = self._uses[stored.key]
        wanted = bool(set(use.asked) - set(stored.asked)) or bool(self._left(stored)) or not self._is_open(stored)
        if use.rotate is not None and not wanted:
            # A clock that was set back makes it due, rather than late by as much.
            due = stored.since + use.rotate
            wanted = not stored.since <= self._run.now < due
            if not wanted:
                self._run.timed[stored.key] = stored.since, due
        if not wanted:
            return False
        silent = [self._hostname(node) for node in sorted(self._holders(stored.key)) if self._is_silent(node)]
        if silent:
            self._run.key_problems.append(
                f"link key {stored.key}: no new secret while the agents of {', '.join(silent)} are silent"
            )
        return not silent

    def _history(self, stored: LinkKeyEpoch) -> EpochHistory | None:
        """Return the note of who may know an epoch's secret; None where there is none: then anybody may."""
        history = self._index.link_keys.histories.get(stored.key)
        return history if history is not None and history.epoch == stored.epoch else None

    def _is_open(self, stored: LinkKeyEpoch) -> bool:
        """Tell whether the secret of an epoch is known here, so that it can be given to more nodes."""
        vault, history = self._run.vault, self._history(stored)
        if vault is None:
            return True
        if stored.epoch < FRESH:
            return vault.first
        return history is not None and history.vault == vault.id

    def _is_known_to_revoked(self, stored: LinkKeyEpoch) -> bool:
        """Tell whether a node that was revoked after an epoch began may know its secret."""
        if not self._index.revoked:
            return False
        history = self._history(stored)
        if history is None:
            return True
        boxes = self._index.link_keys.boxes.get(stored.key, {})
        if any(node in boxes and boxes[node].epoch >= stored.epoch for node in self._index.revoked):
            return True  # also where it was approved meanwhile, and is revoked by the same label again
        nodes = [node for node, name in self._index.revoked.items() if name not in history.revoked]
        return bool(nodes) and (history.forgotten or any(self._has_box(stored.key, node) for node in nodes))

    def _has_box(self, key: str, node: str) -> bool:
        boxes = self._index.link_keys.boxes.get(key, {})
        return node in boxes or keyspace.link_key(node, key) in self._stored.invalid

    def _left(self, stored: LinkKeyEpoch) -> set[str]:
        """Return the nodes that have left the Swarm, and know an epoch's secret."""
        boxes = self._index.link_keys.boxes.get(stored.key, {})
        return {node for node in boxes.keys() - self._index.present if boxes[node].epoch >= stored.epoch}

    def _is_silent(self, node: str) -> bool:
        """Tell whether a node is up and has no agent, or one without proven keys: it can be given nothing."""
        swarm_node = self._swarm.nodes.get(node)
        heard = node in self._index.nodes and node in self._run.members
        return not heard and swarm_node is not None and not swarm_node.down

    def _hostname(self, node: str) -> str:
        swarm_node = self._swarm.nodes.get(node)
        return swarm_node.hostname if swarm_node is not None else node

    # --- steps

    def first_steps(self) -> Iterator[Step]:
        """Give keys to nodes that have endpoints already: before the links that need the keys are written."""
        return self._run.each_key(self._run.focus.keys_among(self._uses), self._first)

    def _first(self, key: str) -> Iterator[Step]:
        holders = self._holders(key)
        if holders or keyspace.epoch(key) in self._stored.records:
            yield from self._share(key, sorted(holders))

    def for_task(self, task: SwarmTask) -> Iterator[Step]:
        """Give a task's node its keys, before the task gets its endpoint."""
        for key in sorted(self._index.links.keys_of(task.service)):
            yield from self._share(key, [task.node])

    def _share(self, key: str, nodes: Iterable[str]) -> Iterator[Share]:
        epoch, puts = self._epoch(key)
        if epoch is None:
            return
        boxes = [box for node in nodes if (box := self._box(key, node, epoch)) is not None]
        for start in range(0, max(len(boxes), len(puts)), MAX_BOXES):
            part = tuple(boxes[start : start + MAX_BOXES])
            names = ", ".join(self._hostname(box.node) for box in part) or "no node yet"
            yield Share(puts if start == 0 else (), part, f"link key {key}: epoch {epoch}, for {names}")

    def _box(self, key: str, node: str, epoch: int) -> Box | None:
        path = keyspace.link_key(node, key)
        to = self._run.members.get(node)
        if to is None or path in self._stored.invalid or (key, node) in self._given:
            return None
        stored = self._index.link_keys.boxes.get(key, {}).get(node)
        if stored and (stored.epoch, stored.sealed_to) == (epoch, to.fingerprint):
            return None
        self._given.add((key, node))
        return Box(key, epoch, node, to, self._stored.revision_of(path))

    def last_steps(self) -> Iterator[Step]:
        """Delete boxes that no node needs and epochs that no link has."""
        if ends_unknown(self._stored):
            return
        focus, records = self._run.focus, self._index.link_keys
        yield from self._run.each_key(focus.keys_among(records.boxes), self._last_boxes)
        known = {*focus.keys_among(records.epochs), *focus.keys_among(records.histories)}
        yield from self._run.each_key(known, self._last_epoch)

    def _last_boxes(self, key: str) -> Iterator[Step]:
        boxes = self._index.link_keys.boxes[key]
        unneeded = boxes.keys() - self._needers(key)
        stored, notes = self._index.link_keys.epochs.get(key), tuple[Put, ...]()
        if stored is not None and key in self._uses:
            # These boxes alone say that their nodes know the epoch's secret: they go when it has ended.
            unneeded -= {node for node in self._index.revoked if node in boxes and boxes[node].epoch >= stored.epoch}
            unneeded -= self._left(stored)
            notes = self._forgetting(stored, unneeded)
        for node in sorted(unneeded):
            path = keyspace.link_key(node, key)
            end = Delete(path, self._stored.revision_of(path))
            yield PlanStep((*notes, end), f"link key {key}: no longer needed by {self._hostname(node)}")
            if notes:
                return  # the others follow when this is written

    def _forgetting(self, stored: LinkKeyEpoch, nodes: Iterable[str]) -> tuple[Put, ...]:
        """Note that a node loses its box and may know an epoch's secret."""
        boxes, history = self._index.link_keys.boxes[stored.key], self._history(stored)
        knows = any(boxes[node].epoch >= stored.epoch for node in nodes)
        if not knows or history is None or history.forgotten or self._epochs.get(stored.key) != stored.epoch:
            return ()
        return (Put(replace(history, forgotten=True), self._stored.revision_of(keyspace.history(stored.key))),)

    def _last_epoch(self, key: str) -> Iterator[Step]:
        if key in self._uses:
            return
        paths = [path for path in (keyspace.epoch(key), keyspace.history(key)) if path in self._stored.records]
        ends = tuple(Delete(path, self._stored.revision_of(path)) for path in paths)
        yield PlanStep(ends, f"link key {key}: no longer on any link")


def _nodes(of: Callable[[str], frozenset[str]], services: Iterable[str]) -> frozenset[str]:
    return frozenset[str]().union(*(of(service) for service in services))
