"""A mesh on a real etcd without machines: real controllers, a Swarm of two nodes as told, and their agents' trust."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

from agent.state.recovery import recalled
from agent.state.verified_state import VerifiedState, followed
from controller.loop import Controller
from controller.steps import EncryptionGoal
from controller.swarm.model import SwarmNode, SwarmService, SwarmTask
from controller.swarm.poller import SwarmPoller
from controller.trust.link_secrets import ControllerIdentity
from mesh.crypto.hpke import NodeKey
from mesh.crypto.preshared_keys import LinkSeed
from mesh.crypto.signed_envelope import Keyring, Signer, SigningKey
from mesh.errors import Retryable
from mesh.integrity.record_signing import RecordSigner
from mesh.model import keyspace
from mesh.model.encryption.status import Mode
from mesh.model.labels.link_labels import LinkLabel, ServiceLabels
from mesh.model.records import Node, Recall, Recalled, Status
from mesh.model.snapshot import Delete, Op, Put, Snapshot
from mesh.process.wakeup import Wake
from mesh.store.client import Store
from mesh.store.follower import Follower
from mesh.store.packing import pack
from tests.store.waiting import until
from tests.support.signing import CLUSTER, KEYRING, SIGNING_KEY
from tests.support.swarm_world import home

NODES = ("n1", "n2")
LINK_SEED = LinkSeed.generate()


def swarm_service(name: str, *providers: str) -> SwarmService:
    labels = ServiceLabels(tuple(LinkLabel(provider, (provider,)) for provider in providers))
    return SwarmService(f"#{name}", name, labels, (), dnsrr=False, replicas=None, stack="small")


class Swarm:
    """`web` links to `db`; three tasks of each to begin with."""

    def __init__(self) -> None:
        self.services_now = {s.id: s for s in (swarm_service("web", "db"), swarm_service("db"))}
        self.id = CLUSTER
        self.approved = {name: record(name).statement(CLUSTER).fingerprint for name in NODES}
        self.revoked: dict[str, str] = {}
        self.tasks_now: dict[str, SwarmTask] = {}
        for n in range(6):
            self.start("web" if n % 2 else "db")

    def start(self, service: str) -> str:
        number = len(self.tasks_now)
        task = f"t{number}{'x' * 20}"
        self.tasks_now = {
            **self.tasks_now,
            task: SwarmTask(task, f"#{service}", number, NODES[number % 2], "running", "running", ()),
        }
        return task

    def renew(self, service: str) -> None:
        """Ask for new link keys of a service, as `docker linkwire rotate` does."""
        found = self.services_now[f"#{service}"]
        labels = replace(found.labels, renew=str(time.time()))
        self.services_now = {**self.services_now, found.id: replace(found, labels=labels)}

    def end(self, task: str) -> None:
        self.tasks_now = {name: found for name, found in self.tasks_now.items() if name != task}

    def cluster(self) -> tuple[str, tuple[bytes, ...], int]:
        return self.id, (), 4789

    def services(self) -> dict[str, SwarmService]:
        return dict(self.services_now)

    def tasks(self, services: frozenset[str] | None = None) -> dict[str, SwarmTask]:
        return {t.id: t for t in self.tasks_now.values() if services is None or t.service in services}

    def nodes(self) -> dict[str, SwarmNode]:
        return {
            name: SwarmNode(
                name,
                name,
                False,
                None,
                known_at=(home(name),),
                approved=self.approved[name],
                revoked=self.revoked.get(name),
            )
            for name in NODES
        }


def keys(node: str) -> tuple[NodeKey, SigningKey]:
    """A node's sealing key and the key that it signs with: the same after a restart."""
    return NodeKey(node.encode().ljust(32)), SigningKey(node.encode().ljust(32))


def record(node: str) -> Node:
    """What a node says of itself; its keys are approved by hand."""
    sealing, report = keys(node)
    address = home(node)
    return Node(
        node, node, sealing.public, report.verify_key, 1, None, "locked", address, 51820, 51899, "kernel", "0"
    )


class Reader:
    """An agent without devices: it follows, decides what to act on, and reports what it has seen."""

    def __init__(self, endpoint: str, root: str, node: str, folder: Path, keyring: Keyring) -> None:
        self.node = node
        self.store = Store([endpoint], RecordSigner.agent(keyring, keys(node)[1]), root=root)
        folder.mkdir(exist_ok=True)
        self.trust = VerifiedState(folder)
        self.believed = Snapshot()
        self.everything: list[Snapshot] = []
        """All that was ever acted on."""
        self.speaks = True
        self._mouth = threading.Lock()
        self._lock = threading.Lock()
        self.follower = self._follow()

    def _follow(self) -> Follower:
        ready = threading.Event()

        def changed() -> None:
            ready.wait()
            self.look()

        follower = self.store.follow(followed(self.node), changed, with_raw=True)
        self.follower = follower
        ready.set()
        return follower

    def look(self) -> Snapshot:
        """Decide anew, and report."""
        with self._lock:
            believed = self.trust.update(self.follower.snapshot)
            if believed is not self.believed:
                self.believed = believed
                self.everything.append(believed)
            return believed

    def hush(self) -> None:
        """Say nothing more of itself, from now on."""
        with self._mouth:
            self.speaks = False

    def speak_up(self) -> None:
        """Speak unless it is to be silent."""
        with self._mouth:
            if self.speaks:
                self.speak()

    def speak(self) -> None:
        status = Status(self.node, 0.0, (), self.trust.manifest, self.trust.held)
        self.store.commit([Put(record(self.node), None), Put(status, None)], time.monotonic_ns())
        asked = self.follower.snapshot.get(keyspace.RECALL, Recall)
        answer = recalled(asked, self.node, self.believed)
        said = [key for key in self.follower.snapshot.records if key.startswith(keyspace.RECALLED)]
        puts = list(self.answered(answer))
        gone = {key for key in said if asked is None} - {put.key for put in puts}
        ops: list[Op] = [*puts, *(Delete(key, None) for key in gone)]
        for batch in pack(((None, (op,)) for op in ops), _none_is):
            self.store.commit([op for _, (op,) in batch])

    def answered(self, answer: Sequence[Recalled]) -> Iterator[Put]:
        """What it brings back of what was signed."""
        return (Put(part, None) for part in answer)

    def verified(self) -> bool:
        return self.look().complete and not self.trust.held

    def close(self) -> None:
        self.store.close()


class SmallMesh:
    """Starts controllers and readers on one etcd, and stops them."""

    def __init__(self, endpoint: str, root: str, folder: Path) -> None:
        self.endpoint, self.root, self.folder = endpoint, root, folder
        self.swarm = Swarm()
        self._wakes: list[Wake] = []

    def wake(self) -> None:
        for wake in self._wakes:
            wake("resync")

    def live(self, *readers: Reader) -> None:
        """A task comes and goes: the store is signed anew, twice and more."""
        task = self.swarm.start("web")
        self.wake()
        settled(*readers, tasks=len(self.swarm.tasks_now))
        self.swarm.end(task)
        self.wake()
        settled(*readers, tasks=len(self.swarm.tasks_now))

    @contextmanager
    def controller(
        self,
        key: SigningKey = SIGNING_KEY,
        keyring: Keyring = KEYRING,
        own: ControllerIdentity | None = None,
        link_seed: LinkSeed = LINK_SEED,
        rest_s: int = 60,
        *,
        encryption: Mode | None = None,
        renewed: int = 0,
    ) -> Iterator[Controller]:
        store = Store([self.endpoint], RecordSigner.controller(keyring, key), root=self.root)
        wake, stopped = Wake(), threading.Event()
        watch, signer = SwarmPoller(self.swarm), Signer(CLUSTER, key)
        subnet = IPv4Network("10.1.0.0/16")
        names, goal = ("test", link_seed, own), EncryptionGoal(encryption, renewed=renewed)
        controller = Controller(watch, store, signer, wake, subnet, rest_s, *names, encryption=goal)
        thread = threading.Thread(target=controller.run, args=(stopped,), daemon=True)
        thread.start()
        self._wakes.append(wake)
        try:
            yield controller
        finally:
            self._wakes.remove(wake)
            stopped.set()
            wake()
            thread.join(20)
            store.close()
            assert not thread.is_alive()

    @contextmanager
    def reader(
        self, node: str = "n1", folder: str | None = None, keyring: Keyring = KEYRING, kind: type[Reader] = Reader
    ) -> Iterator[Reader]:
        reader = kind(self.endpoint, self.root, node, self.folder / (folder or node), keyring)
        stopped = threading.Event()

        def speak() -> None:
            while not stopped.wait(0.3):
                with suppress(Retryable):  # it says it again
                    reader.speak_up()

        thread = threading.Thread(target=speak, daemon=True)
        thread.start()
        try:
            yield reader
        finally:
            stopped.set()
            thread.join()
            reader.close()


def _none_is(_: Op, reason: str) -> None:
    raise AssertionError(reason)


def endpoints(snapshot: Snapshot) -> Mapping[str, object]:
    """What says where packets go: address, key and place of every task."""
    return {key: found.record for key, found in snapshot.records.items() if key.startswith("endpoints/")}


def settled(*readers: Reader, tasks: int = 6) -> None:
    """Wait until all have verified a state with so many tasks."""
    until(lambda: all(reader.verified() and len(endpoints(reader.believed)) == tasks for reader in readers), 20)
