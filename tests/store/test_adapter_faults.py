"""Each call of a controller's adapters fails once, hangs, or is the last: the store comes to say what Swarm says.

A first run without faults records the calls to etcd, Docker and files while a controller wins the lead, allocates,
ends, rotates, is killed and followed by another one, and refills an emptied store. Then each call fails in each way
in which the real thing does, or the controller is killed there. The short form takes a sample that the seed
(LINKWIRE_CHAOS_SEED) gives; LINKWIRE_CHAOS=long takes all.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import pytest

from mesh.errors import LinkwireError
from mesh.identity.key_files import verify_keys_text
from mesh.model import keyspace
from mesh.model.keyspace import ROOT
from mesh.model.records import Address, Endpoint, LinkKeyEpoch, Port, SealedKey, Service
from mesh.model.snapshot import Snapshot
from tests.store.etcd_server import EtcdServer
from tests.store.faulty_swarm import ManagersDocker
from tests.store.small_mesh import LINK_SEED, NODES, Reader, SmallMesh
from tests.support.faults import logs
from tests.support.faults.fork_server import ForkServer, Supervised
from tests.support.faults.injection import Fault
from tests.support.faults.walk import Sizes, Walk, until_nothing
from tests.support.signing import CLUSTER, SIGNING_KEY

SIZES = Sizes(error_runs=4, together=8, kill_runs=4)
CONVERGES_S = 40.0
SLACK = 3
"""Descriptors of one kind, and threads, that a run may have more than the first one."""


@dataclass(slots=True)
class Place:
    """What all runs share."""

    etcd: EtcdServer
    docker: ManagersDocker
    controllers: ForkServer
    folder: Path


class Life:
    """One run, on a store that was emptied before."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.folder = Path(mkdtemp(dir=place.folder))
        arguments = [
            *("--etcd", place.etcd.endpoint, "--docker", place.docker.url, "--subnet", "10.1.0.0/16"),
            *("--verify-keys", str(place.folder / "keys"), "--signing-seed", str(place.folder / "signing")),
            *("--link-seed", str(place.folder / "link"), "--name", "one", "--metrics", "off"),
            *("--node", "n1", "--own-key", str(self.folder / "own" / "key")),
        ]
        order = {"log": str(self.folder / "log"), "calls": str(self.folder / "calls"), "arguments": arguments}
        self.controller = Supervised(place.controllers, order)
        self.slowest = 0.0
        self.resources: Counter[str] = Counter()
        self.recorded: list[tuple[str, tuple[str, ...]]] = []
        self._readers: tuple[Reader, ...] = ()

    def live(self, faults: Sequence[Fault] = ()) -> None:
        """Do all of it. Raises AssertionError where the store does not come to say what Swarm says."""
        docker = self.place.docker
        docker.begin()
        self.place.etcd.delete_all(ROOT)
        mesh = SmallMesh(self.place.etcd.endpoint, ROOT, self.folder)
        with ExitStack() as stack:
            self._readers = tuple(stack.enter_context(mesh.reader(node)) for node in NODES)
            stack.callback(self.controller.kill)
            self.controller.start(faults)
            self._settle()
            task = docker.start("web")
            self._settle()
            docker.end(task)
            self._settle()
            before = self._stored().get(keyspace.epoch("small_web:small_db"), LinkKeyEpoch)
            docker.label("web", "linkwire.renew", "1")
            self._wait(lambda: [] if self._renewed(before) else ["the link key has its old epoch"])
            self.recorded = self.controller.recorded()
            self.controller.kill()
            self.controller.start(faults)  # whose calls are numbered anew
            task = docker.start("db")
            self._settle()
            endpoints = self._endpoints()
            self.place.etcd.delete_all(ROOT)
            self._wait(lambda: [] if self._endpoints() == endpoints else ["endpoints are not as before"])
            self._settle()
            self._wait(self._is_idle)
            self.resources = self.controller.resources()

    def wrong(self) -> list[str]:
        """What is wrong with what it said, and with the files that it left."""
        secrets = logs.forms([LINK_SEED.raw, SIGNING_KEY.raw])
        return logs.faults(self.controller.log(), secrets)

    def _renewed(self, before: LinkKeyEpoch | None) -> bool:
        epoch = self._stored().get(keyspace.epoch("small_web:small_db"), LinkKeyEpoch)
        return epoch is not None and before is not None and epoch.epoch != before.epoch

    def _endpoints(self) -> dict[str, object]:
        return {one.task: (one.address, one.public_key, one.underlay) for one in self._stored().all(Endpoint)}

    def _settle(self) -> None:
        self._wait(self._differences)

    def _wait(self, left: Callable[[], list[str]]) -> None:
        self.slowest = max(self.slowest, until_nothing(left, self.controller.look, CONVERGES_S))

    def _stored(self) -> Snapshot:
        try:
            return self._readers[0].store.load([""])
        except LinkwireError:
            return Snapshot()

    def _is_idle(self) -> list[str]:
        """The store stays as it is while nothing changes."""
        before = self._manifest()
        time.sleep(0.3)
        return [] if self._manifest() == before else ["the store is still signed anew"]

    def _manifest(self) -> int:
        return self._stored().revision_of(keyspace.MANIFEST)

    def _differences(self) -> list[str]:
        """What the store has that Swarm has not, or lacks: exactly, and once."""
        tasks, stored = self.place.docker.swarm.tasks, self._stored()
        endpoints = {one.task: one for one in stored.all(Endpoint)}
        services = {f"service/{one.id}": one.vip for one in stored.all(Service)}
        left = [f"endpoint of {task}" for task in endpoints.keys() ^ tasks.keys()]
        places = {f"task/{task}": one.address for task, one in endpoints.items()} | services
        held = {one.holder: one.address for one in stored.all(Address) if one.holder is not None}
        left += [f"address of {holder}" for holder, address in places.items() if held.get(holder) != address]
        left += [f"address of {holder}, who is over" for holder in held.keys() - places.keys()]
        ports = {(one.node, one.port): one.task for one in stored.all(Port)}
        wanted = {(one.node, one.underlay.port): one.task for one in endpoints.values()}
        left += [f"port of {task}" for task in dict(ports.items() ^ wanted.items()).values()]
        left += [f"key of {task}" for task in {one.task for one in stored.all(SealedKey)} ^ tasks.keys()]
        left += [f"services {sorted(services)}"] if len(services) != len(self.place.docker.swarm.labels) else []
        for reader in self._readers:
            if not reader.verified() or len(list(reader.believed.all(Endpoint))) != len(tasks):
                left.append(f"{reader.node} has not verified it")
        return left


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("faults")
    (folder / "etcd").mkdir()
    (folder / "keys").write_text(verify_keys_text(CLUSTER, [SIGNING_KEY.verify_key]))
    (folder / "signing").write_text(SIGNING_KEY.raw.hex())
    (folder / "link").write_text(LINK_SEED.raw.hex())
    with ExitStack() as stack:
        etcd = stack.enter_context(EtcdServer(folder / "etcd"))
        docker = stack.enter_context(ManagersDocker(folder / "docker.sock"))
        controllers = ForkServer("tests.store.faulty_controller")
        stack.callback(controllers.close)
        yield Place(etcd, docker, controllers, folder)


def test_every_call_fails_once_hangs_or_is_last(place: Place, figure: Callable[[str], None]) -> None:
    began = time.monotonic()
    first = Life(place)
    first.live()
    assert first.wrong() == []
    walk = Walk("controller", first.recorded)
    runs = walk.runs(SIZES)
    for batch in runs:
        life = Life(place)
        wrong: list[str] = []
        try:
            life.live(batch)
        except AssertionError as error:
            wrong.append(f"{error}\n{life.controller.log()[-3000:]}")
        grown = {what: (first.resources[what], n) for what, n in life.resources.items()}
        wrong += [f"{what}: {one} -> {n}" for what, (one, n) in grown.items() if n > one + SLACK]
        walk.note(batch, [*wrong, *life.wrong()], life.controller, life.slowest)
    figure(walk.summary(time.monotonic() - began))
    assert walk.wrong == [], "\n".join(walk.wrong)
    assert walk.made >= len(runs)
