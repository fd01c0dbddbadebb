"""Lanes of a run of several workers: one has a Swarm, and some files run alone at the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support import lanes, slow_tests
from tests.support.locks import PROJECT

LAB = tuple(f"tests/lab/test_{letter}.py" for letter in "abcd")
OWN = ("tests/lab/test_install.py", "tests/lab/test_demo.py")
QUICK = (
    "tests/unit/test_x.py",
    "tests/unit/test_y.py",
    "tests/kernel/test_kernel.py",
    "tests/netns/test_linkkeys.py",
)
ALONE = "tests/lab/test_first_connection.py"
SPARE = tuple(f"tests/unit/agent/test_{name}.py" for name in ("diff", "ruleset", "queries"))
COUNT = 3  # tests in each file
EVERY = [f"{file}::test_{n}" for file in (*LAB, *OWN, *QUICK, *SPARE, ALONE) for n in range(COUNT)]


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


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    return tmp_path / "alone"


def scheduled(count: int, monkeypatch: pytest.MonkeyPatch, begun: Path, collected: list[str] | None = None) -> Any:  # noqa: ANN401
    monkeypatch.setattr("xdist.scheduler.loadscope.parse_tx_spec_config", lambda _: [""] * count)
    config: Any = SimpleNamespace(option=SimpleNamespace(dist="load", loadscopereorder=True))
    made: Any = lanes.Lanes(config, None, begun)
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


def run_all(made: Any, workers: list[Worker]) -> int:  # noqa: ANN401
    """Run to the end; how many tests that were."""
    ran = 0
    while ready := [worker for worker in workers if worker.can_run()]:
        for worker in ready:
            run_one(made, worker)
            ran += 1
        end_those_told(made, workers)
    return ran


def test_every_test_runs_once_and_last_ones_alone(monkeypatch: pytest.MonkeyPatch, begun: Path) -> None:
    made, workers = scheduled(4, monkeypatch, begun)
    order: list[str] = []
    while ready := [worker for worker in workers if worker.can_run()]:
        order += [run_one(made, worker) for worker in ready]
        end_those_told(made, workers)
    assert sorted(order) == sorted(EVERY)
    last = [test for test in order if not test.startswith(SPARE)][-COUNT:]
    assert all(test.startswith(ALONE) for test in last)
    beside = [test for test in order[order.index(last[0]) :] if test.startswith(SPARE)]
    assert len({test.split("::")[0] for test in beside}) >= len(SPARE) - 1, "one hands over to them"
    assert begun.exists()
    assert {EVERY[index].split("::")[0] for index in workers[3].ran} >= {*SPARE}
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


def test_alone_ones_do_not_wait_for_computations(monkeypatch: pytest.MonkeyPatch, begun: Path) -> None:
    made, workers = scheduled(4, monkeypatch, begun)
    spare = workers[3]
    while ready := [worker for worker in workers[:3] if worker.can_run()] or (
        [] if begun.exists() or not spare.can_run() else [spare]
    ):
        for worker in ready:
            run_one(made, worker)
        end_those_told(made, workers)
    assert sum(EVERY[index].startswith(ALONE) for index in workers[0].ran) == COUNT
    assert workers[0].shutting_down, "it ends with them"
    assert spare.can_run()
    while spare.can_run():
        assert run_one(made, spare).startswith(SPARE)
    assert sum(len(worker.ran) for worker in workers) == len(EVERY)


def test_computations_of_a_dead_worker_are_run(monkeypatch: pytest.MonkeyPatch, begun: Path) -> None:
    made, workers = scheduled(4, monkeypatch, begun)
    made.remove_node(workers.pop())
    assert run_all(made, workers) == len(EVERY)


def test_without_alone_ones_computations_come_as_others(monkeypatch: pytest.MonkeyPatch, begun: Path) -> None:
    quick = [test for test in EVERY if test.startswith((*QUICK, *SPARE))]
    made, workers = scheduled(4, monkeypatch, begun, quick)
    while ready := [worker for worker in workers if worker.can_run()]:
        for worker in ready:
            worker.ran.append(index := worker.queue.pop(0))
            made.mark_test_complete(worker, index)
    of_whom = {worker.name for worker in workers for index in worker.ran if quick[index].startswith(SPARE)}
    assert len(of_whom) > 1
    assert sum(len(worker.ran) for worker in workers) == len(quick)


def test_third_of_three_begins_without_a_swarm(monkeypatch: pytest.MonkeyPatch, begun: Path) -> None:
    _, workers = scheduled(3, monkeypatch, begun)
    assert EVERY[workers[2].queue[0]] == "tests/kernel/test_kernel.py::test_0"


def test_third_of_five_has_a_swarm_too(monkeypatch: pytest.MonkeyPatch, begun: Path) -> None:
    """After its own labs, and though the others have ended; the last two have none."""
    made, workers = scheduled(5, monkeypatch, begun)
    third, rest = workers[2], workers[3:]
    while ready := [worker for worker in rest if worker.can_run()]:
        for worker in ready:
            run_one(made, worker)
        end_those_told(made, workers)
    while third.can_run():
        run_one(made, third)
    files = list(dict.fromkeys(EVERY[index].split("::")[0] for index in third.ran))
    assert set(files[:2]) == set(OWN)
    assert files[2:]
    assert set(files[2:]) <= set(LAB)
    assert not {EVERY[index].split("::")[0] for worker in rest for index in worker.ran} & {*LAB, *OWN, ALONE}
    run_all(made, workers)
    assert sum(len(worker.ran) for worker in workers) == len(EVERY)


def test_nothing_is_alone_while_another_worker_works(monkeypatch: pytest.MonkeyPatch, begun: Path) -> None:
    made, workers = scheduled(2, monkeypatch, begun)
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


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7])
def test_any_number_of_workers_ends(monkeypatch: pytest.MonkeyPatch, begun: Path, count: int) -> None:
    made, workers = scheduled(count, monkeypatch, begun)
    assert run_all(made, workers) == len(EVERY)
    assert all(worker.shutting_down for worker in workers[1:])


def test_what_the_lanes_name_is_there() -> None:
    """Renamed, a measurement would no longer be alone, and nobody would be told."""
    files = [str(path.relative_to(PROJECT)) for path in (PROJECT / "tests").rglob("test_*.py")]
    for start in lanes.WITH_A_SWARM:
        assert any(file.startswith(start) for file in files), start
    ends = (*lanes.LONGEST, *lanes.LABS_OF_THEIR_OWN, lanes.OPENING)
    assert [start for start in lanes.COMPUTED if not any(file.startswith(start) for file in files)] == []
    assert [end for end in ends if not any(file.endswith(f"/{end}") for file in files)] == []
    for file, _, test in (alone.partition("::") for alone in lanes.MUST_BE_ALONE):
        assert f"def {test}" in (PROJECT / file).read_text()


def test_slow_ones_are_there_and_left_out() -> None:
    for file, names in slow_tests.SLOW.items():
        text = (PROJECT / "tests" / file).read_text()
        assert [name for name in names if f"def {name}(" not in text] == []
    assert slow_tests.is_slow("tests/store/test_leases.py::test_a_silent_leader_is_replaced_in_time")
    assert slow_tests.is_slow("tests/unit/test_imports.py::test_every_module_can_be_imported_first[mesh]")
    assert not slow_tests.is_slow("tests/netns/test_leases.py::test_a_silent_leader_is_replaced_in_time")
    assert not slow_tests.is_slow("tests/lab/test_lab.py::test_down_leaves_nothing")


def test_another_way_can_be_asked_for() -> None:
    config: Any = SimpleNamespace(option=SimpleNamespace(dist="loadfile"), stash={})
    assert lanes.pytest_xdist_make_scheduler(config, None) is None
