"""Each call of an agent's adapters fails once, hangs, or is the last: it comes to the desired state all the same.

A first run without faults records the calls: of netlink, nft, wireguard-go, files, Docker and etcd, while two linked
tasks are wired, get a peer and lose it, and are unwired. Then each call fails in each way in which the real thing
does, in a run of its own, or the process is killed there. The short form takes a sample that the seed
(LINKWIRE_CHAOS_SEED) gives, with every operation in it; LINKWIRE_CHAOS=long takes all.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from agent.firewall import nf_tables_netlink
from agent.holder import sockets
from agent.linux.netlink_socket import NETLINK_ROUTE
from tests.netns.faulty_mesh import FaultyMesh, faulty_mesh
from tests.netns.faulty_node import Container
from tests.netns.world import is_own
from tests.support.faults import logs
from tests.support.faults.injection import KILLED, Fault
from tests.support.faults.walk import Sizes, Walk, until_nothing

SIZES = Sizes(error_runs=5, together=12, kill_runs=4)
CONVERGES_S = 40.0
NOTICED_S = 5.0
SLACK = 3
"""Descriptors of one kind, and threads, that a run may have more than the first one: gRPC and the pool of threads
that wire have as many as they happened to need."""


class Life:
    """One run: a node's agent wires two linked tasks, changes their peers and unwires them, beside a bystander."""

    def __init__(self, mesh: FaultyMesh, bystander: Container, without: str = "") -> None:
        self.mesh = mesh
        self.bystander = bystander
        self.agent = mesh.agent(without)
        self.patience = CONVERGES_S if not without else NOTICED_S
        self.slowest = 0.0
        self.is_killed = False
        self.secrets: frozenset[str] = frozenset()
        self.resources: Counter[str] = Counter()

    def live(self, faults: Sequence[Fault] = ()) -> None:
        """Do all of it. Raises AssertionError where the agent does not come to the desired state."""
        mesh = self.mesh
        self.is_killed = any(fault.kind in KILLED for fault in faults)
        for path in self._temporary():  # of the agent before, which was killed at the end of its run
            path.unlink()
        mesh.link(linked=True)
        db, web = mesh.start("db"), mesh.start("web")
        far: list[str] = []
        try:
            self.agent.start(faults)
            self._settle({"db": 1, "web": 1}, db, web)
            self.secrets = secrets_of(mesh, db, web)
            far.append(mesh.start_far("web"))
            self._settle({"db": 2, "web": 1}, db, web)
            mesh.end(*far)
            self._settle({"db": 1, "web": 1}, db, web)
            mesh.link(linked=False)
            self._settle({"db": 0, "web": 0}, db, web)
            mesh.end(db, web)
            self._wait(self._leaked)
            self.resources = self.agent.resources()
        finally:
            self.agent.kill()
            mesh.end(db, web, *far)
            mesh.forget(db, web)

    def _settle(self, peers: dict[str, int], *tasks: Container) -> None:
        self._wait(lambda: self.mesh.left({**peers, "back": 1}, self.bystander, *tasks))

    def _wait(self, left: Callable[[], list[str]]) -> None:
        self.slowest = max(self.slowest, until_nothing(left, self.agent.look, self.patience))

    def _leaked(self) -> list[str]:
        """What serves no task any more."""
        kept = self.mesh.device(self.bystander)
        names = (name for name in sockets.served() if is_own(name) and name != kept)
        left = [f"process of {name}" for name in names]
        # An agent that was killed leaves them for a while (agent.state.atomic_file).
        return left if self.is_killed else left + [f"file {path.name}" for path in self._temporary()]

    def _temporary(self) -> list[Path]:
        return list((self.mesh.folder / "state").glob(".*.????????"))

    def wrong(self) -> list[str]:
        """What is wrong with what it said."""
        return logs.faults(self.agent.log(), self.secrets)


def touched(mesh: FaultyMesh, bystander: Container) -> tuple[object, ...]:
    """What would be another if somebody had touched it: its device, its rules, its names."""
    place, device = bystander.netns, mesh.device(bystander)
    return (
        place.socket(NETLINK_ROUTE).device_index(device),
        sockets.process(device),
        nf_tables_netlink.generation(place),
        bystander.hosts.read_bytes(),
    )


def secrets_of(mesh: FaultyMesh, *containers: Container) -> frozenset[str]:
    """The tasks' keys, in the forms in which somebody may write them."""
    configs = [config for one in containers if (config := mesh.wanted(one)) is not None]
    shared = [peer.preshared_key for one in configs for peer in one.peers]
    return logs.forms([one.private_key.raw for one in configs] + [key.raw for key in shared if key is not None])


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyMesh]:
    with faulty_mesh(tmp_path_factory.mktemp("faults")) as made:
        yield made


@pytest.fixture(scope="module")
def bystander(mesh: FaultyMesh) -> Container:
    """A task that each agent finds wired, and that nothing happens to."""
    mesh.start_far("front")
    return mesh.start("back")


def test_every_call_fails_once_hangs_or_is_last(
    mesh: FaultyMesh, bystander: Container, figure: Callable[[str], None]
) -> None:
    began = time.monotonic()
    first = Life(mesh, bystander)
    first.live()
    assert first.wrong() == []
    before = touched(mesh, bystander)
    walk = Walk("agent", first.agent.recorded())
    runs = walk.runs(SIZES)
    for batch in runs:
        life = Life(mesh, bystander)
        wrong: list[str] = []
        try:
            life.live(batch)
        except AssertionError as error:
            wrong.append(f"{error}\n{life.agent.log()[-3000:]}")
        grown = {what: (first.resources[what], n) for what, n in life.resources.items()}
        wrong += [f"{what}: {one} -> {n}" for what, (one, n) in grown.items() if n > one + SLACK]
        after = touched(mesh, bystander)
        wrong += [f"the bystander was touched: {before} -> {after}"] if after != before else []
        before = after
        walk.note(batch, [*wrong, *life.wrong()], life.agent, life.slowest)
    figure(walk.summary(time.monotonic() - began))
    assert walk.wrong == [], "\n".join(walk.wrong)
    assert walk.made >= len(runs)


def test_missing_second_try_is_noticed(mesh: FaultyMesh, bystander: Container) -> None:
    """An agent that asks nftables once at its start answers no DNS questions until its next, after one failure."""
    fault = [Fault("nft nft.read", 2, "refused")]
    Life(mesh, bystander).live(fault)
    with pytest.raises(AssertionError, match="still"):
        Life(mesh, bystander, without="second try").live(fault)
