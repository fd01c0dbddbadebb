"""Which node needs the secret of which link key, and of which epoch: what a plan says of link keys. Pure.

What it promises, beside what every plan does (controller.plan):

- a node is given a link key no later than the endpoint, or the link, that makes it need it: no handshake waits;
- it is taken from a node only when neither Swarm nor the store has a link left for which that node needs it;
- an epoch only grows, also where its record was lost: it is then counted on from the boxes and the clock;
- a new epoch is not begun while a node that holds the key is silent: its kernel would go on with the old secret, and
  its links would end when the running sessions do, with nobody there to mend them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from controller.observed import Swarm, SwarmTask
from controller.steps import Box, Change, Share, Step
from mesh import keyspace
from mesh.hybrid import NodePublicKey
from mesh.labels import LinkLabel, key_name
from mesh.records import Endpoint, LinkKeyEpoch, Node, SealedLinkKey, Service
from mesh.snapshot import Delete, Put, Snapshot

MAX_BOXES = 60
"""In one step, which is one transaction: etcd takes 128 operations, and a box is 1.6 kB."""


@dataclass(frozen=True, slots=True)
class _Use:
    """What the links of one key say together."""

    rotate: int | None
    """Seconds; the shortest that any of them asks for."""
    asked: tuple[str, ...]


class LinkKeyPlan:
    """One run: what there is, and what this run has given already."""

    def __init__(
        self,
        swarm: Swarm,
        stored: Snapshot,
        live: Iterable[SwarmTask],
        sealing_keys: Mapping[str, NodePublicKey],
        now: int,
    ) -> None:
        """Look at everything once.

        Args:
            swarm: complete lists.
            stored: everything under the root, complete.
            live: the tasks that hold a place, of services that are linked.
            sealing_keys: node id -> what its secrets are sealed to.
            now: seconds since the epoch of the controller's clock.
        """
        self._swarm = swarm
        self._stored = stored
        self._sealing_keys = sealing_keys
        self._present = {node.id for node in stored.all(Node)}
        self._now = now
        self.problems: list[str] = []
        self.due: int | None = None
        self._links = self._all_links()
        self._by_service, self._uses = self._index()
        self._boxes: defaultdict[str, dict[str, SealedLinkKey]] = defaultdict(dict)
        for box in stored.all(SealedLinkKey):
            self._boxes[box.key][box.node] = box
        placed = {endpoint.task for endpoint in stored.all(Endpoint)}
        self._needed: defaultdict[str, set[str]] = defaultdict(set)  # key -> nodes with a task or an endpoint
        self._holders: defaultdict[str, set[str]] = defaultdict(set)  # key -> nodes with both
        # By service first: a key is asked for each of its services, and not for each of their tasks.
        needing: defaultdict[str, set[str]] = defaultdict(set)
        holding: defaultdict[str, set[str]] = defaultdict(set)
        for endpoint in stored.all(Endpoint):
            needing[endpoint.service].add(endpoint.node)
        for task in live:
            needing[task.service].add(task.node)
            if task.id in placed:
                holding[task.service].add(task.node)
        for nodes, by_key in ((needing, self._needed), (holding, self._holders)):
            for service, its in nodes.items():
                for key in self._by_service.get(service, ()):
                    by_key[key] |= its
        self._epochs: dict[str, int | None] = {}
        self._given: set[tuple[str, str]] = set()

    # --- what uses what

    def _all_links(self) -> list[tuple[str, str, LinkLabel]]:
        """(service id, its name, link), of what Swarm says now and of what the store still says."""
        found = [(s.id, s.name, link) for s in self._swarm.services.values() for link in s.labels.links]
        for service in self._stored.all(Service):
            now = self._swarm.services.get(service.id)
            known = now.labels.links if now is not None else ()
            found += [(service.id, service.name, link) for link in service.links if link not in known]
        return found

    def _index(self) -> tuple[dict[str, set[str]], dict[str, _Use]]:
        """Service id -> the keys of its links, at either end; and key -> what its links say."""
        ids: defaultdict[str, set[str]] = defaultdict(set)
        named = [(service.name, service.id) for service in self._swarm.services.values()]
        named += [(service.name, service.id) for service in self._stored.all(Service)]
        for name, found in named:
            ids[name].add(found)
        by_service: defaultdict[str, set[str]] = defaultdict(set)
        rotate: defaultdict[str, set[int]] = defaultdict(set)
        asked: defaultdict[str, set[str]] = defaultdict(set)
        for service, name, link in self._links:
            key = key_name(name, link)
            rotate[key].update((link.rotate,) if link.rotate and self._says(service, link) else ())
            renew = self._swarm.services[service].labels.renew if service in self._swarm.services else None
            asked[key].update((renew,) if renew else ())
            if link.provider in ids:
                by_service[service].add(key)
                for provider in ids[link.provider]:
                    by_service[provider].add(key)
        uses = {key: _Use(min(every, default=None), tuple(sorted(asked[key]))) for key, every in rotate.items()}
        return dict(by_service), uses

    def _says(self, service: str, link: LinkLabel) -> bool:
        """Whether that is what Swarm says now, of a service that it still has."""
        now = self._swarm.services.get(service)
        return now is None or link in now.labels.links

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
        highest = max((box.epoch for box in self._boxes[key].values()), default=-1)
        if stored is not None and highest <= stored.epoch and not self._new_epoch_is_due(stored):
            self._epochs[key] = stored.epoch
            return stored.epoch, ()
        epoch = max(self._now, highest + 1, stored.epoch + 1 if stored is not None else 0)
        self._epochs[key] = epoch
        record = LinkKeyEpoch(key, epoch, self._now, self._uses[key].asked)
        return epoch, (Put(record, self._stored.revision_of(path)),)

    def _new_epoch_is_due(self, stored: LinkKeyEpoch) -> bool:
        use = self._uses[stored.key]
        wanted = bool(set(use.asked) - set(stored.asked))
        if use.rotate is not None and not wanted:
            # A clock that was set back makes it due, which costs nothing, instead of putting it off by as much.
            wanted = not 0 <= self._now - stored.since < use.rotate
            if not wanted:
                at = stored.since + use.rotate
                self.due = at if self.due is None else min(self.due, at)
        if not wanted:
            return False
        silent = [self._hostname(node) for node in sorted(self._holders[stored.key]) if self._is_silent(node)]
        if silent:
            self.problems.append(
                f"link key {stored.key}: gets no new secret before the agents of {', '.join(silent)} are there"
            )
        return not silent

    def _is_silent(self, node: str) -> bool:
        """Whether it is there, and can be given nothing: no agent, or one that has not shown its keys."""
        found = self._swarm.nodes.get(node)
        heard = node in self._present and node in self._sealing_keys
        return not heard and found is not None and not found.down

    def _hostname(self, node: str) -> str:
        found = self._swarm.nodes.get(node)
        return found.hostname if found is not None else node

    # --- steps

    def first_steps(self) -> Iterator[Step]:
        """What nodes must be given that have endpoints on a key's links already: before these links are written."""
        for key in sorted(self._uses):
            if self._holders[key] or keyspace.epoch(key) in self._stored.records:
                yield from self._share(key, sorted(self._holders[key]))

    def for_task(self, task: SwarmTask) -> Iterator[Step]:
        """What a task's node must be given before the task gets its endpoint."""
        for key in sorted(self._by_service.get(task.service, ())):
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
        to = self._sealing_keys.get(node)
        if to is None or path in self._stored.invalid or (key, node) in self._given:
            return None
        stored = self._boxes[key].get(node)
        if stored and (stored.epoch, stored.sealed_to) == (epoch, to.fingerprint):
            return None
        self._given.add((key, node))
        return Box(key, epoch, node, to, self._stored.revision_of(path))

    def last_steps(self) -> Iterator[Step]:
        """What nobody needs any more. With a service or an endpoint unreadable, who needs what is not known."""
        if any(key.startswith((keyspace.SERVICES, keyspace.ENDPOINTS)) for key in self._stored.invalid):
            return
        for key, boxes in sorted(self._boxes.items()):
            for node in sorted(boxes.keys() - self._needed.get(key, frozenset())):
                path = keyspace.link_key(node, key)
                yield Change(
                    (Delete(path, self._stored.revision_of(path)),),
                    f"link key {key}: {self._hostname(node)} needs it no longer",
                )
        for record in sorted(self._stored.all(LinkKeyEpoch), key=lambda one: one.key):
            if record.key not in self._uses:
                path = keyspace.epoch(record.key)
                end = Delete(path, self._stored.revision_of(path))
                yield Change((end,), f"link key {record.key}: no link has it")
