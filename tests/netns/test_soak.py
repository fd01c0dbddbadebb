"""Tasks wired and unwired again and again, by an agent that lives on and by one that is killed at any moment.

LINKWIRE_SOAK_S is for how many seconds each, LINKWIRE_CHAOS_SEED makes a run's choices again. At the end nothing may
be left of any task: no device, process, descriptor, thread, address or record, and the agent's memory must be flat.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import pytest

from agent.holder import sockets
from mesh.model import keyspace
from tests.netns.faulty_mesh import FaultyMesh, faulty_mesh
from tests.netns.faulty_node import Container
from tests.netns.test_adapter_faults import SLACK, secrets_of, touched
from tests.netns.world import is_own
from tests.support.faults import logs
from tests.support.faults.fork_server import Supervised
from tests.support.faults.walk import until_nothing
from tests.support.patience import slowness

SOAK_S = float(os.environ.get("LINKWIRE_SOAK_S") or 0)
SEED = int(os.environ.get("LINKWIRE_CHAOS_SEED") or time.time())
pytestmark = pytest.mark.skipif(not SOAK_S, reason="in make chaos; test_adapter_faults.py is its short form")

BATCH = 10
"""Tasks at once, of a link's two services half each."""
LEAST = 8
"""Batches, so that the first half has given work to all of an agent's threads, each with connections of its own."""
MOST_KILLS = 5
"""In the wiring of a batch, and in its unwiring: one that is killed for ever comes to nothing."""
CONVERGES_S = 60.0
REST_S = 5
MIB_MORE = 4.0
"""MiB by which an agent may grow from the second quarter of its time to the last: an interpreter's memory is in
fragments, and its threads are as many as ever had work at once."""
RECORDS = (keyspace.ENDPOINTS, keyspace.ADDRESSES, keyspace.PORTS, keyspace.KEYS, keyspace.LINK_KEYS, keyspace.TASKS)


@dataclass
class Soak:
    """An agent, and batches of tasks that it wires and unwires.

    Attributes:
        cycles: tasks that were wired and unwired.
        kills: of the agent.
        memory: of the agent after each batch, in KiB.
        resources: its descriptors and threads then.
    """

    mesh: FaultyMesh
    bystander: Container
    agent: Supervised
    choice: random.Random
    kill: bool
    cycles: int = 0
    kills: int = 0
    memory: list[int] = field(default_factory=list)
    resources: list[Counter[str]] = field(default_factory=list)
    secrets: frozenset[str] = frozenset()
    _next_kill: float = 0.0
    _kills_left: int = 0

    def run(self, seconds: float) -> None:
        """Make batches for so long, and a few at least."""
        began = time.monotonic()
        while time.monotonic() < began + seconds or len(self.memory) < LEAST:
            self.batch()

    def batch(self) -> None:
        """Wire some tasks and unwire them."""
        tasks = [self.mesh.start(service) for service in ("db", "web") * (BATCH // 2)]
        half = BATCH // 2
        try:
            self._wait(lambda: self.mesh.left({"db": half, "web": half, "back": 1}, self.bystander, *tasks))
            self.secrets |= secrets_of(self.mesh, tasks[0], tasks[1])
        finally:
            self.mesh.end(*tasks)
        self._wait(self.leaked)
        self.mesh.forget(*tasks)
        self.cycles += BATCH
        self.memory.append(resident(self.agent.pid))
        self.resources.append(self.agent.resources())

    def _wait(self, left: Callable[[], list[str]]) -> None:
        self._kills_left = self.choice.randint(1, MOST_KILLS) if self.kill else 0
        until_nothing(left, self._look, CONVERGES_S)

    def _look(self) -> None:
        now = time.monotonic()
        if self._kills_left and now > self._next_kill:
            if self._next_kill:
                self.agent.kill()
                self.kills += 1
                self._kills_left -= 1
            self._next_kill = now + self.choice.uniform(0.05, 3.0)
        self.agent.look()

    def leaked(self) -> list[str]:
        """What serves no task any more."""
        kept = self.mesh.device(self.bystander)
        return [f"process of {name}" for name in sockets.served() if is_own(name) and name != kept]

    def records(self) -> Counter[str]:
        """Count what the store has of tasks, by kind; addresses and ports of ended ones have a time to rest."""
        keys = self.mesh.store.load(RECORDS).records
        return Counter(key.partition("/")[0] for key in keys)


def resident(pid: int) -> int:
    """Return the resident memory of a process in KiB (proc_pid_status(5)); 0 where it has ended."""
    status = Path(f"/proc/{pid}/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), 0)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyMesh]:
    with faulty_mesh(tmp_path_factory.mktemp("soak"), REST_S) as made:
        made.link(linked=True)
        yield made


@pytest.fixture(scope="module")
def bystander(mesh: FaultyMesh) -> Container:
    mesh.start_far("front")
    return mesh.start("back")


@pytest.mark.timeout(3 * SOAK_S + 1800)
@pytest.mark.parametrize("kill", [False, True], ids=["living", "killed"])
def test_nothing_leaks_however_often_tasks_come(
    mesh: FaultyMesh, bystander: Container, figure: Callable[[str], None], *, kill: bool
) -> None:
    soak = Soak(mesh, bystander, mesh.agent(), random.Random(SEED), kill)  # noqa: S311 - a seed
    print(f"LINKWIRE_CHAOS_SEED={SEED}, {SOAK_S:.0f} s", flush=True)
    began = time.monotonic()
    soak.agent.start()
    try:
        until_nothing(lambda: mesh.left({"back": 1}, bystander), soak.agent.look, CONVERGES_S)
        records = soak.records()
        before, own = touched(mesh, bystander), resident(os.getpid())
        soak.run(SOAK_S)
        if soak.agent.has_ended():
            soak.agent.start()
        soak.kill = False
        soak.batch()
        until_nothing(lambda: list(soak.records() - records), soak.agent.look, REST_S + CONVERGES_S)
    finally:
        soak.agent.kill()
    half = soak.resources[: len(soak.resources) // 2]
    first, last = max(half, key=Counter.total), soak.resources[-1]
    quarters = [median(soak.memory[n * len(soak.memory) // 4 :][: len(soak.memory) // 4]) / 1024 for n in range(4)]
    memory = ", ".join(f"{mib:.1f}" for mib in quarters)
    figure(
        f"{soak.cycles} tasks wired and unwired in {time.monotonic() - began:.0f} s, agent killed {soak.kills} times,"
        f" seed {SEED}: its memory by quarters {memory} MiB, descriptors and threads"
        f" {first.total()} -> {last.total()};"
        f" this process, with the controller, {(resident(os.getpid()) - own) / 1024:+.1f} MiB"
    )
    # One that was killed is young at the end, and was so in every batch.
    assert kill or {what: (first[what], n) for what, n in last.items() if n > first[what] + SLACK} == {}
    assert kill or quarters[3] < quarters[1] + MIB_MORE
    assert touched(mesh, bystander) == before
    assert logs.faults(soak.agent.log(), soak.secrets) == []
    assert not kill or soak.kills > 0 or slowness() > 1
