"""Lanes of a run of several workers: one has a Swarm, and some files run alone at the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support import lanes
from tests.support.locks import PROJECT

LAB = tuple(f"tests/lab/test_{letter}.py" for letter in "abcd")
OWN = ("tests/lab/test_install.py", "tests/lab/test_demo.py")
QUICK = (
    "tests/unit/test_x.py",
    "tests/unit/test_y.py",
    "tests/kernel/test_kernel.py",
    "tests/netns/test_linkkeys.py",
)
ALONE = "tests/bench/test_docker.py"
COUNT = 3  # tests in each file
EVERY = [f"{file}::test_{n}" for file in (*LAB, *OWN, *QUICK, ALONE) for n in range(COUNT)]


@dataclass(eq=False)
class Worker:
    """Holds back its last test until it has another or is told to end, as xdist's do."""

    name: str
    queue: list[int] = field(default_factory=list)
    ran: list[int] = field(default_factory=list)
    shutting_down: bool = False

    @property
    def gateway(self) -> SimpleNamespace:
        return SimpleNamespace(id=self.name)

    def send_runtest_some(self, indices: list[int]) -> None:
        self.queue += indices

    def shutdown(self) -> None:
        self.shutting_down = True

    def can_run(self) -> bool:
        return len(self.queue) > (not self.shutting_down)


def scheduled(count: int, monkeypatch: pytest.MonkeyPatch, collected: list[str] | None = None) -> Any:  # noqa: ANN401
    monkeypatch.setattr("xdist.scheduler.loadscope.parse_tx_spec_config", lambda _: [""] * count)
    config: Any = SimpleNamespace(option=SimpleNamespace(dist="load", loadscopereorder=True))
    made: Any = lanes.pytest_xdist_make_scheduler(config, None)
    workers = [Worker(f"gw{number}") for number in range(count)]
    for worker in reversed(workers):  # whoever is ready first
        made.add_node(worker)
    for worker in workers:
        made.add_node_collection(worker, EVERY if collected is None else collected)
    made._check_nodes_have_same_collection = lambda: True
    made.schedule()
    return made, workers


def run_one(made: Any, worker: Worker) -> str:  # noqa: ANN401
    index = worker.queue.pop(0)
    worker.ran.append(index)
    made.mark_test_complete(worker, index)
    return EVERY[index]


def end_those_told(made: Any, workers: list[Worker]) -> None:  # noqa: ANN401
    """A worker that was told to, and has run all, ends what it has made and then itself."""
    for worker in workers:
        if worker.shutting_down and not worker.queue and worker in made.nodes:
            made.remove_node(worker)


def test_every_test_runs_once_and_last_ones_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made, workers = scheduled(4, monkeypatch)
    order: list[str] = []
    while ready := [worker for worker in workers if worker.can_run()]:
        order += [run_one(made, worker) for worker in ready]
        end_those_told(made, workers)
    assert sorted(order) == sorted(EVERY)
    assert all(test.startswith(ALONE) for test in order[-COUNT:])
    assert all(worker.shutting_down and not worker.queue for worker in workers)
    swarms = [{EVERY[index].split("::")[0] for index in worker.ran} & {*LAB, *OWN} for worker in workers]
    assert swarms[0] | swarms[1] >= set(LAB)
    assert swarms[0] & set(LAB)
    assert swarms[1] & set(LAB), "it has a Swarm too"
    assert swarms[2] == set(OWN)
    assert swarms[3] == set()
    assert EVERY[workers[1].ran[0]].startswith("tests/netns/test_linkkeys.py"), "the first makes the images meanwhile"
    longest = EVERY.index("tests/kernel/test_kernel.py::test_0")
    assert longest == workers[3].ran[0], "it comes first"


def test_third_of_three_begins_without_a_swarm(monkeypatch: pytest.MonkeyPatch) -> None:
    _, workers = scheduled(3, monkeypatch)
    assert EVERY[workers[2].queue[0]] == "tests/kernel/test_kernel.py::test_0"


def test_nothing_is_alone_while_another_worker_works(monkeypatch: pytest.MonkeyPatch) -> None:
    made, workers = scheduled(2, monkeypatch)
    slow = workers[1]
    while workers[0].can_run():
        run_one(made, workers[0])
    assert not [index for index in workers[0].ran if EVERY[index].startswith(ALONE)]
    while slow.can_run():
        run_one(made, slow)
    assert not workers[0].can_run(), "the other is still taking its Swarm down"
    end_those_told(made, workers)
    assert workers[0].can_run()
    assert EVERY[workers[0].queue[-1]].startswith(ALONE)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_any_number_of_workers_ends(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    made, workers = scheduled(count, monkeypatch)
    ran = 0
    while ready := [worker for worker in workers if worker.can_run()]:
        for worker in ready:
            run_one(made, worker)
            ran += 1
        end_those_told(made, workers)
    assert ran == len(EVERY)
    assert all(worker.shutting_down for worker in workers[1:])


def test_what_the_lanes_name_is_there() -> None:
    """Renamed, a measurement would no longer be alone, and nobody would be told."""
    files = [str(path.relative_to(PROJECT)) for path in (PROJECT / "tests").rglob("test_*.py")]
    ends = (*lanes.LONGEST, *lanes.LABS_OF_THEIR_OWN, lanes.OPENING)
    assert [end for end in ends if not any(file.endswith(f"/{end}") for file in files)] == []
    for file, _, test in (alone.partition("::") for alone in lanes.MUST_BE_ALONE):
        assert f"def {test}" in (PROJECT / file).read_text()


def test_another_way_can_be_asked_for() -> None:
    config: Any = SimpleNamespace(option=SimpleNamespace(dist="loadfile"))
    assert lanes.pytest_xdist_make_scheduler(config, None) is None
