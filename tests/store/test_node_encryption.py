"""Node encryption on a real etcd: each step waits for the nodes' signed word, whenever a controller ends."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from mesh.crypto.keys import PrivateKey
from mesh.integrity.sealed_keys import open_link_key
from mesh.model import codec, keyspace
from mesh.model.encryption.records import NODES_KEY, EncryptionWanted, NodeEncryption, Underlay
from mesh.model.encryption.status import STEPS, EncryptionStatus, Mode
from mesh.model.records import Node, SealedLinkKey, Status
from mesh.model.snapshot import Put
from tests.store.etcd_server import EtcdServer
from tests.store.small_mesh import NODES, Reader, SmallMesh, keys, record, settled
from tests.store.waiting import until

PATIENT = 60.0
"""Seconds for a few passes on a busy machine."""
KEYS = {name: PrivateKey(name.encode().ljust(32, b"\x01")) for name in NODES}
ORDER = ("off", *STEPS)


class EncryptingReader(Reader):
    """An agent that takes the steps of node encryption as it is told, without a device."""

    is_late = False
    """Whether it takes no further step for now."""
    is_old = False
    """Whether it is of a version that knows nothing of node encryption."""
    is_before_all = False
    """Whether it is of a version that knows node encryption, and not mode `all`."""
    state: EncryptionStatus | None = None

    def take_step(self) -> None:
        """Do what the verified records say."""
        told = self.believed.get(keyspace.ENCRYPTION, NodeEncryption) if self.believed.complete else None
        if self.is_late or not self.believed.complete:
            return
        if told is None:
            self.state = EncryptionStatus(0, "off", 0, 0, 0)
            return
        others = sum(1 for place in self.believed.all(Underlay) if place.node != self.node)
        self.state = EncryptionStatus(told.generation, told.step, others, others, 0)

    def speak(self) -> None:
        if self.is_old:
            super().speak()
            return
        self.take_step()
        own = self.own_record()
        status = Status(self.node, 0.0, (), self.trust.manifest, self.trust.held, encryption=self.state)
        self.store.commit([Put(own, None), Put(status, None)], time.monotonic_ns())

    def own_record(self) -> Node:
        """What it states of itself."""
        own, asked = record(self.node), self.follower.snapshot.get(keyspace.ENCRYPTION_WANTED, EncryptionWanted)
        if asked is None:
            return own
        knows_all = asked.all_since > 0 and not self.is_before_all
        key = KEYS[self.node].public
        return replace(own, encryption_key=key, encryption_port=51819, encryption_all=knows_all)

    def at(self) -> str:
        """The step that it has taken."""
        return self.state.step if self.state is not None else "off"


@contextmanager
def readers(
    mesh: SmallMesh, kind: type[EncryptingReader] = EncryptingReader
) -> Iterator[tuple[EncryptingReader, ...]]:
    """Both nodes' agents."""
    with mesh.reader("n1", kind=kind) as one, mesh.reader("n2", kind=kind) as other:
        assert isinstance(one, EncryptingReader)
        assert isinstance(other, EncryptingReader)
        yield one, other


class Watch:
    """Looks again and again whether any two nodes are more than a step apart."""

    def __init__(self, agents: tuple[EncryptingReader, ...]) -> None:
        self.apart: list[tuple[str, ...]] = []
        self._agents = agents
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._stopped.wait(0.005):
            steps = tuple(agent.at() for agent in self._agents)
            places = [ORDER.index(step) for step in steps]
            if max(places) - min(places) > 1:
                self.apart.append(steps)

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()


@pytest.fixture
def mesh(etcd: EtcdServer, root: str, tmp_path: Path) -> SmallMesh:
    return SmallMesh(etcd.endpoint, root, tmp_path)


def all_at(agents: tuple[EncryptingReader, ...], step: str) -> None:
    until(lambda: all(agent.at() == step and not agent.trust.held for agent in agents), PATIENT)


def test_nodes_switch_in_steps_and_back(mesh: SmallMesh) -> None:
    with readers(mesh) as agents:
        watch = Watch(agents)
        with mesh.controller(encryption="strict"):
            settled(*agents)
            all_at(agents, "enforce")
            paths = [(agent, keyspace.link_key(agent.node, NODES_KEY)) for agent in agents]
            until(lambda: all(path in agent.believed.records for agent, path in paths), PATIENT)
            boxes = [agent.believed.get(keyspace.link_key(agent.node, NODES_KEY), SealedLinkKey) for agent in agents]
            secrets = {open_link_key(box, keys(box.node)[0]).raw for box in boxes if box is not None}
            assert len(secrets) == 1, "both open the same secret"
        with mesh.controller(encryption="prefer"):
            all_at(agents, "send")
        with mesh.controller():
            all_at(agents, "off")
            until(lambda: not any(key.startswith("peers/") for key in agents[0].believed.records), PATIENT)
            own = {keyspace.epoch(NODES_KEY), keyspace.link_key("n1", NODES_KEY)}
            until(lambda: not own & set(agents[0].believed.records), PATIENT)
        watch.stop()
        assert not watch.apart


@pytest.mark.parametrize("seed", range(3))
def test_controllers_that_end_anywhere_lose_no_step(mesh: SmallMesh, seed: int) -> None:
    """Each lives for a random while, and the next one goes on with whatever the last one has written."""
    chance = random.Random(seed)  # noqa: S311 - a test's choices
    goals: tuple[Mode | None, ...] = ("strict", None, "strict")
    with readers(mesh) as agents:
        watch = Watch(agents)
        for goal in goals:
            for _ in range(6):
                with mesh.controller(encryption=goal):
                    threading.Event().wait(chance.uniform(0.05, 0.8))
            with mesh.controller(encryption=goal):
                all_at(agents, "enforce" if goal else "off")
        watch.stop()
        assert not watch.apart


def test_late_node_holds_all_others(mesh: SmallMesh) -> None:
    with readers(mesh) as agents, mesh.controller(encryption="strict") as controller:
        agents[1].is_late = True
        until(lambda: agents[0].at() == "accept", PATIENT)
        until(lambda: any("waiting for n2" in text for text in controller._decider.problems.open), 2 * PATIENT)
        assert agents[0].at() == "accept"
        agents[1].is_late = False
        all_at(agents, "enforce")
        assert not controller._decider.problems.open


def test_older_agent_is_waited_for_and_verifies_all(mesh: SmallMesh) -> None:
    """Nothing is written that it would not know: it goes on to act on what is signed."""
    with readers(mesh) as agents, mesh.controller(encryption="prefer") as controller:
        agents[1].is_old = True
        settled(*agents)
        problems = controller._decider.problems
        until(lambda: any("n2: its agent states no encryption key" in text for text in problems.open), PATIENT)
        told = agents[0].believed.records
        assert not [key for key in told if key == keyspace.ENCRYPTION or key.startswith(keyspace.UNDERLAYS)]
        agents[1].is_old = False
        all_at(agents, "send")


def test_mode_all_waits_for_an_older_agent(mesh: SmallMesh) -> None:
    """It does not get to see a mode that it does not know, and the others stay with what there was."""
    with readers(mesh) as agents:
        agents[1].is_before_all = True
        with mesh.controller(encryption="strict"):
            all_at(agents, "enforce")
        before = agents[1].believed.get(keyspace.ENCRYPTION, NodeEncryption)
        assert before is not None
        with mesh.controller(encryption="all") as controller:
            problems = controller._decider.problems
            until(lambda: any("mode all waits for n2" in text for text in problems.open), 2 * PATIENT)
            assert agents[1].believed.get(keyspace.ENCRYPTION, NodeEncryption) == before
            agents[1].is_before_all = False
            until(lambda: mode_of(agents[1]) == "all" and not problems.open, PATIENT)
            all_at(agents, "enforce")
        with mesh.controller(encryption="strict"):
            until(lambda: mode_of(agents[1]) == "strict", PATIENT)
            until(lambda: b"encryption_all" not in codec.encode(agents[0].own_record()), PATIENT)


def mode_of(agent: EncryptingReader) -> str:
    """The mode of the records that an agent acts on."""
    told = agent.believed.get(keyspace.ENCRYPTION, NodeEncryption)
    return told.mode if told is not None else "off"
