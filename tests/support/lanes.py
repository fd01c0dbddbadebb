"""Which of pytest-xdist's workers runs which file, and when.

A pytest plugin for `pytest -n`. A file's tests stay together, in their order.

- The first two workers have a Swarm each, made for the first file that needs it. Its tests wait most of their time.
- The third makes labs of its own; where there are five workers, it then has a Swarm too. The others take what needs
  no Swarm, the longest file first; where there are three workers, the third does that before.
- What measures times or looks at the whole machine (ALONE) comes when all other workers have ended, but the fourth:
  that one then runs computations alone (SPARE), and only while a processor has nothing else to do.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.support.gathered import is_worker

_FOLDER: pytest.StashKey[tempfile.TemporaryDirectory[str]] = pytest.StashKey()
"""Of a file that is there once the alone ones have begun, for the workers to see."""
SWARM, OWN, QUICK, ALONE, SPARE = "swarm", "own", "quick", "alone", "spare"
"""Sorts of files: on the worker's lab, on labs of their own, without a Swarm; what must be undisturbed, and what
disturbs nobody."""
MUST_BE_ALONE = (
    "tests/lab/test_first_connection.py",
    "tests/lab/test_lifecycle.py",
    "tests/lab/test_vip.py::test_datagram_flow_leaves_a_dead_backend",
    "tests/lab/test_lab.py::test_down_leaves_nothing",
)
"""How the ids of these begin."""
LABS_OF_THEIR_OWN = (
    *("test_demo.py", "test_install.py", "test_lab.py", "test_planted.py", "test_prometheus.py", "test_proof.py"),
    *("test_upgrade.py", "test_upgrade_code.py", "test_etcd_nodes.py", "lab/test_backup.py"),
)
WITH_A_SWARM = ("tests/lab/", "tests/chaos/", "tests/bench/test_docker.py")
"""How the names of files begin that need one."""
COMPUTED = ("tests/unit/agent/",)
"""How the ids of SPARE begin, where four or more workers run what must be alone too: these take about as long, and no
clock counts in them."""
LONGEST = (
    # It builds what all others take, and then builds it again, which is quick where it was built before.
    "test_images.py",
    # Swarms: first what waits most, last what counts lost requests or fills wires.
    *("test_install.py", "test_faults.py", "test_gate.py", "test_attacks_nodes.py", "test_links.py"),
    *("test_silent_agents.py", "test_secrets.py", "test_leaks.py", "test_kills.py", "test_demo.py", "test_lab.py"),
    "lab/test_upgrade.py",
    *("lab/test_neighbours.py", "test_proof.py", "test_forgery.py", "test_underlay.py", "test_revoke.py"),
    "test_vip.py",
    # All others.
    *("test_kernel.py", "test_node_table.py", "test_etcd_cluster.py", "test_leases.py", "test_peer_health.py"),
    *("netns/test_node_key_rotation.py", "netns/test_node_encryption.py", "store/test_node_encryption.py"),
    *("netns/test_overlay_mtu.py", "test_tunnel_examiner.py", "test_flow_asks.py"),
    *("test_recall.py", "test_rules_beside.py"),
    *("netns/test_adapter_faults.py", "store/test_adapter_faults.py"),
    *("test_etcd_users.py", "test_etcd_owner.py", "test_signed.py", "test_breakage.py", "test_bench.py"),
    *("netns/test_gate.py", "netns/test_rules.py", "test_status_growth.py", "test_etcd_upkeep.py"),
    *("test_compose_cli.py", "test_confirmed.py", "test_tls.py", "test_compose_differential.py", "test_follow.py"),
    *("test_mutants.py", "test_imports.py"),
    *("test_commit.py", "test_compose_loader.py", "test_plan_histories.py", "test_nft.py"),
)
"""Ends of the files' names, the longest first, so that none of them begins when all others are done."""
_WITH_ONE_FOR_ALL_ELSE = 3
"""Workers of whom the last is the only one for what needs no Swarm, and begins with that."""
_WITH_ONE_TO_SPARE = 4
"""Workers of whom the last has made nothing that another test would see."""
_WITH_A_THIRD_SWARM = 5
"""Workers of whom the third has a Swarm when it has done with labs of its own: two are enough for all else."""
OPENING = "netns/test_linkkeys.py"
"""The second worker's first: it waits minutes for a session's end, while the first makes the images for both."""


def sort_of(scope: str) -> str:
    """Which worker a file is for."""
    if scope == ALONE:
        return ALONE
    if not scope.startswith(WITH_A_SWARM):
        return QUICK
    return OWN if scope.endswith(LABS_OF_THEIR_OWN) else SWARM


def _turn(scope: str) -> int:
    return next((turn for turn, end in enumerate(LONGEST) if scope.endswith(f"/{end}")), len(LONGEST))


class Lanes(LoadScopeScheduling):  # type: ignore[misc]
    """Hands out files. A worker runs a test only when it has the next one or is told that there is none.

    Attributes:
        begun: a file that is there once the alone ones have begun, for the workers to see.
    """

    def __init__(self, config: pytest.Config, log: Any, begun: Path) -> None:  # noqa: ANN401
        """Prepare."""
        super().__init__(config, log)
        self.begun = begun

    def _split_scope(self, nodeid: str) -> str:
        return ALONE if nodeid.startswith(MUST_BE_ALONE) else nodeid.split("::", 1)[0]

    def _rank(self, node: Any) -> int:  # noqa: ANN401 - xdist's controller of a worker
        """Its place among those that are there, by name: which of them is ready first is chance."""
        return sorted(self.nodes, key=_number).index(node)

    def _next_for(self, node: Any) -> str | None:  # noqa: ANN401 - xdist's controller of a worker
        if self._rank(node) == 1 and not self.assigned_work[node]:
            opening: list[str] = [scope for scope in self.workqueue if scope.endswith(OPENING)]
            if opening:
                return opening[0]
        for sort in self._sorts(node):
            mine: list[str] = [scope for scope in self.workqueue if self._sort_of(scope) == sort]
            if mine:
                return min(mine, key=_turn)
        return None

    def _sorts(self, node: Any) -> Iterator[str]:  # noqa: ANN401
        rank = self._rank(node)
        # Three nodes and Linkwire on them take 3 GiB of memory and half of a processor: no more than three at once.
        third: tuple[str, ...] = (QUICK, OWN) if len(self.nodes) == _WITH_ONE_FOR_ALL_ELSE else (OWN, QUICK)
        if self.numnodes >= _WITH_A_THIRD_SWARM:
            third = (OWN, SWARM, QUICK)
        yield from {0: (SWARM, OWN, QUICK), 1: (SWARM, OWN, QUICK), 2: third}.get(rank, (QUICK,))
        if all(other is node or self._has_only_spare(other) for other in self.nodes):
            yield ALONE
        # It holds its last test back, which is a computation too once it has one of those.
        if node is self._spare and (self.begun.exists() or not self._has_only_spare(node)):
            yield SPARE

    def _sort_of(self, scope: str) -> str:
        is_spare = scope.startswith(COMPUTED) and self._spare is not None and self._has_alone
        return SPARE if is_spare else sort_of(scope)

    @property
    def _has_alone(self) -> bool:
        return self.begun.exists() or ALONE in self.workqueue

    @property
    def _spare(self) -> Any | None:  # noqa: ANN401
        """The worker that goes on beside the alone ones; None where there are too few."""
        return next((node for node in self.nodes if _number(node) >= _WITH_ONE_TO_SPARE - 1), None)

    def _has_only_spare(self, node: Any) -> bool:  # noqa: ANN401
        """Tell whether all that a worker has left to run disturbs nobody."""
        left = (scope for scope, tests in self.assigned_work[node].items() if not all(tests.values()))
        return node is self._spare and all(self._sort_of(scope) == SPARE for scope in left)

    def _assign_work_unit(self, node: Any) -> None:  # noqa: ANN401
        scope = self._next_for(node)
        if scope is not None:
            self.workqueue.move_to_end(scope, last=False)
            super()._assign_work_unit(node)
            if scope == ALONE:
                self.begun.touch()

    def _reschedule(self, node: Any) -> None:  # noqa: ANN401
        if node.shutting_down or self._pending_of(self.assigned_work[node]) > 1:
            return
        self._assign_work_unit(node)
        waits = (self._rank(node) == 0 and ALONE in self.workqueue) or (node is self._spare and bool(self.workqueue))
        if self._next_for(node) is None and not waits:
            node.shutdown()

    def mark_test_complete(self, node: Any, item_index: int, duration: float = 0) -> None:  # noqa: ANN401
        super().mark_test_complete(node, item_index, duration)
        self._look_again()

    def remove_node(self, node: Any) -> str | None:  # noqa: ANN401
        """Go on where a worker has ended, and with it its Swarm: the one that is left may be alone now."""
        crashed: str | None = super().remove_node(node)
        self._look_again()
        return crashed

    def _look_again(self) -> None:
        """Give the others their next ones where this may have been the last that they waited for."""
        if all(self._sort_of(scope) in {ALONE, SPARE} for scope in self.workqueue):
            for node in sorted(self.nodes, key=_number):
                self._reschedule(node)


def pytest_configure(config: pytest.Config) -> None:
    if not is_worker(config):
        config.stash[_FOLDER] = tempfile.TemporaryDirectory(prefix="linkwire-lanes-")


def pytest_unconfigure(config: pytest.Config) -> None:
    if _FOLDER in config.stash:
        config.stash[_FOLDER].cleanup()


def pytest_configure_node(node: Any) -> None:  # noqa: ANN401 - xdist's controller of a worker
    node.workerinput["alone"] = str(_begun(node.config))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Have a computation beside what must be alone use a processor only while nothing else would."""
    if not is_worker(item.config) or not item.nodeid.startswith(COMPUTED):
        return
    if Path(item.config.workerinput["alone"]).exists():  # type: ignore[attr-defined]
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Lanes | None:  # noqa: ANN401
    """Stand back where the command line names another way."""
    return Lanes(config, log, _begun(config)) if config.option.dist == "load" else None


def _begun(config: pytest.Config) -> Path:
    return Path(config.stash[_FOLDER].name) / "alone"


def _number(node: Any) -> int:  # noqa: ANN401 - xdist's controller of a worker
    return int(node.gateway.id.removeprefix("gw"))
