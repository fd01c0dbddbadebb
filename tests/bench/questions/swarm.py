"""The Swarm that is asked about: its store, as controller and nodes have written it, and its nodes' answers.

Every service has ten tasks, or as many as are wanted. Each is wired and was read with all its peers. All links work.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from agent.asks.packing import pack_answers, unpack_questions
from mesh.diagnosis.link_facts import Connection, Listener, Look, Trial
from mesh.diagnosis.questions import Answer, Question
from mesh.integrity.record_signing import RecordSigner
from mesh.model import codec, keyspace
from mesh.model.asks.records import Ask, Told
from mesh.model.labels.link_labels import key_name
from mesh.model.records import Leader, Port, SealedKey, SealedLinkKey
from mesh.model.snapshot import Snapshot, Write
from mesh.store.client import Follower, Store
from mesh.topology.link_graph import LinkGraph, index
from tests.bench.links import Nodes, controllers, key_of, write
from tests.bench.scale import world as worlds
from tests.bench.scale.node import KEYRING, SIGNING_KEY
from tests.store.etcd_server import EtcdServer

NODE_S = 0.2
"""For how long a node of the simulation looks and tries, as one with real namespaces does (docs/bench.md)."""
PORT = 80
_SEALED = 100
"""Bytes of a sealed box."""
_SHOWN = 16


def answer(graph: LinkGraph, question: Question) -> Answer:
    """Answer as a node does that finds nothing wrong."""
    own, peer = graph.by_task[question.task], graph.by_task[question.peer]
    ready = tuple(str(end.address) for end in graph.endpoints[peer.service])[:_SHOWN]
    age, received, sent = secrets.randbelow(1200) / 10, secrets.randbelow(1 << 34), secrets.randbelow(1 << 34)
    listeners = (Listener(PORT, "tcp", loopback=False),)
    seen = Look(
        time.time(),
        wired=True,
        device=f"lw{own.task[:12]}",
        is_up=True,
        mtu=1420,
        is_peer=True,
        handshake_age=age,
        received=received,
        sent=sent,
        rules_hold=True,
        backends=ready,
        listeners=listeners,
    )
    if not question.tries:
        return Answer(seen)
    vip = str(graph.vips[peer.service])
    links = graph.links.get((own.service, graph.services[peer.service].name), ())
    ways = [(str(peer.address), False), (vip, True)]
    connections = [Connection(address, port, "open", is_vip) for port in question.ports for address, is_vip in ways]
    names = tuple((alias, (vip,)) for link in links for alias in link.aliases)
    return Answer(seen, Trial(small=True, large=True, large_bytes=1420, connections=tuple(connections), names=names))


class Examiner:
    """Stands for a node's `agent.probes.examiner.Examiner`: it finds nothing wrong."""

    def __init__(self, graph: LinkGraph) -> None:
        self._graph = graph

    def examine(self, questions: Sequence[Question]) -> list[Answer]:
        """As the other's, and as slow."""
        time.sleep(NODE_S if questions else 0.0)
        return [answer(self._graph, question) for question in questions]


def keys(world: worlds.World, graph: LinkGraph) -> Iterator[SealedKey | SealedLinkKey | Port]:
    """Yield what the controller has written besides services and endpoints."""
    ports: dict[str, int] = {}
    held: set[tuple[str, str]] = set()
    for task in world.tasks.values():
        port = ports[task.node] = ports.get(task.node, 51819) + 1
        yield SealedKey(task.id, task.node, 0, "", secrets.token_bytes(_SEALED))
        yield Port(task.node, port, task.id)
    for service in graph.services.values():
        for link in service.links:
            ends = (*graph.endpoints[service.id], *graph.endpoints[graph.by_name[link.provider][0]])
            held |= {(end.node, key_name(service.name, link)) for end in ends}
    for node, key in sorted(held):
        yield SealedLinkKey(key, node, 0, "", secrets.token_bytes(_SEALED))


@dataclass(frozen=True, slots=True)
class Size:
    """How many links there are, and how many tasks each service has."""

    links: int
    tasks: int = worlds.TASKS_OF_A_SERVICE

    @property
    def world(self) -> worlds.World:
        """A Swarm of this size: each service links to all of its stack."""
        return worlds.stacks(self.links // worlds.SERVICES_OF_A_STACK * self.tasks, self.tasks)


class Swarm:
    """A store with a Swarm of some links.

    Attributes:
        world: the Swarm.
        graph: the index of what the controller has written.
        verified: that.
        nodes: as they write.
        etcd: the store's endpoint.
        crowd: answers for the nodes.
    """

    def __init__(self, size: Size, folder: Path) -> None:
        """Start the store, and write everything."""
        self.world = size.world
        self.verified = controllers(self.world)
        self.graph = index(self.verified)
        self.nodes = Nodes(self.world, self.graph)
        self._server = EtcdServer(folder)
        self.etcd = self._server.__enter__().endpoint
        self._store = Store([self.etcd], RecordSigner.reader(KEYRING))
        write(self._store, self.nodes.once())
        write(self._store, (self.nodes.signed(SIGNING_KEY, record) for record in keys(self.world, self.graph)))
        leader = codec.encode(Leader(self.world.nodes[0]))
        write(self._store, [Write(keyspace.LEADER, 1, leader, None), *self.nodes.readings()])
        self.crowd = Crowd(self._store, self.nodes, self.graph)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.crowd.stop()
        self._store.close()
        self._server.__exit__(None, None, None)


class Crowd:
    """All nodes but those that have a process of their own: they answer what is asked of their tasks.

    One process hears the questions for all of them, since as many as there are nodes would have no machine.
    """

    def __init__(self, store: Store, nodes: Nodes, graph: LinkGraph) -> None:
        self._store, self._nodes, self._graph = store, nodes, graph
        self._alone: frozenset[str] = frozenset()
        self._answered: set[str] = set()
        self._follower: Follower | None = None  # it may call before it is here
        self._follower = store.follow((keyspace.ASKS,), self._heard)

    def leave_out(self, nodes: Sequence[str]) -> None:
        """Leave the answers of some nodes to their own processes."""
        self._alone = frozenset(nodes)

    def stop(self) -> None:
        """Answer no more."""
        if self._follower is not None:
            self._follower.stop()

    def _heard(self) -> None:
        if self._follower is None:
            return
        for ask in self._follower.snapshot.all(Ask):
            if ask.nonce not in self._answered:
                self._answered.add(ask.nonce)
                threading.Thread(target=self._answer, args=(ask,), daemon=True).start()

    def _answer(self, ask: Ask) -> None:
        answers: dict[str, dict[int, Answer]] = {}
        for number, question in enumerate(unpack_questions(ask.packed)):
            if question.node not in self._alone:
                answers.setdefault(question.node, {})[number] = answer(self._graph, question)
        time.sleep(NODE_S)
        told = [Told(node, ask.node, ask.nonce, pack_answers(found)) for node, found in answers.items()]
        write(self._store, [self._nodes.signed(key_of(record.node), record) for record in told])


def verified(size: Size) -> Snapshot:
    """What the controller has written of a Swarm of some links: the same in every process."""
    return controllers(size.world)
