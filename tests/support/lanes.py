"""Which of pytest-xdist's workers runs which file, and when.

A pytest plugin for `pytest -n`. A file's tests stay together, in their order.

- The first two workers have a Swarm each, made for the first file that needs it. Its tests wait most of their time.
- The third makes labs of its own. The others take what needs no Swarm, the longest file first; where there are three
  workers, the third does that before.
- What measures times or looks at the whole machine (ALONE) comes when all other workers have ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

SWARM, OWN, QUICK, ALONE = "swarm", "own", "quick", "alone"
"""Sorts of files: on the worker's lab, on labs of their own, without a Swarm; and what must be undisturbed."""
MUST_BE_ALONE = (
    "tests/lab/test_first_connection.py",
    "tests/lab/test_lifecycle.py",
    "tests/lab/test_revoke.py",
    "tests/lab/test_vip.py::test_datagram_flow_leaves_a_dead_backend",
    "tests/bench/test_docker.py",
    "tests/lab/test_lab.py::test_down_leaves_nothing",
)
"""How the ids of these begin."""
LABS_OF_THEIR_OWN = (
    *("test_demo.py", "test_install.py", "test_lab.py", "test_planted.py", "test_prometheus.py", "test_proof.py"),
    "test_upgrade.py",
)
LONGEST = (
    # It builds what all others take, and then builds it again, which is quick where it was built before.
    "test_images.py",
    # Swarms: first what waits most, last what counts lost requests or fills wires.
    *("test_install.py", "test_faults.py", "test_gate.py", "test_attacks_nodes.py", "test_links.py"),
    *("test_silent_agents.py", "test_secrets.py", "test_leaks.py", "test_kills.py", "test_demo.py", "test_lab.py"),
    "lab/test_upgrade.py",
    *("lab/test_neighbours.py", "test_proof.py", "test_forgery.py", "test_underlay.py", "test_vip.py"),
    # All others.
    *("test_kernel.py", "test_node_table.py", "test_recall.py", "test_rules_beside.py"),
    *("test_etcd_users.py", "test_etcd_owner.py", "test_signed.py", "test_breakage.py", "test_bench.py"),
    *("netns/test_gate.py", "netns/test_rules.py", "test_status_growth.py", "test_etcd_upkeep.py"),
    *("test_compose_cli.py", "test_confirmed.py", "test_tls.py", "test_compose_differential.py", "test_follow.py"),
    *("test_commit.py", "test_compose_loader.py", "test_plan_histories.py", "test_nft.py"),
)
"""Ends of the files' names, the longest first, so that none of them begins when all others are done."""
_WITH_ONE_FOR_ALL_ELSE = 3
"""Workers of whom the last is the only one for what needs no Swarm, and begins with that."""
OPENING = "netns/test_linkkeys.py"
"""The second worker's first: it waits minutes for a session's end, while the first makes the images for both."""


def sort_of(scope: str) -> str:
    """Which worker a file is for."""
    if scope == ALONE:
        return ALONE
    if not scope.startswith(("tests/lab/", "tests/chaos/")):
        return QUICK
    return OWN if scope.endswith(LABS_OF_THEIR_OWN) else SWARM


def _turn(scope: str) -> int:
    return next((turn for turn, end in enumerate(LONGEST) if scope.endswith(f"/{end}")), len(LONGEST))


class Lanes(LoadScopeScheduling):  # type: ignore[misc]
    """Hands out files. A worker runs a test only when it has the next one or is told that there is none."""

    def _split_scope(self, nodeid: str) -> str:
        return ALONE if nodeid.startswith(MUST_BE_ALONE) else nodeid.split("::", 1)[0]

    def _rank(self, node: Any) -> int:  # noqa: ANN401 - xdist's controller of a worker
        """Its place among those that are there, by name: which of them is ready first is chance."""
        return sorted(self.nodes, key=lambda one: int(one.gateway.id.removeprefix("gw"))).index(node)

    def _next_for(self, node: Any) -> str | None:  # noqa: ANN401 - xdist's controller of a worker
        if self._rank(node) == 1 and not self.assigned_work[node]:
            opening: list[str] = [scope for scope in self.workqueue if scope.endswith(OPENING)]
            if opening:
                return opening[0]
        for sort in self._sorts(node):
            mine: list[str] = [scope for scope in self.workqueue if sort_of(scope) == sort]
            if mine:
                return min(mine, key=_turn)
        return None

    def _sorts(self, node: Any) -> Iterator[str]:  # noqa: ANN401
        rank = self._rank(node)
        # Three nodes and Linkwire on them take 3 GiB of memory and half of a processor: no more than three at once.
        third = (QUICK, OWN) if len(self.nodes) == _WITH_ONE_FOR_ALL_ELSE else (OWN, QUICK)
        yield from {0: (SWARM, OWN, QUICK), 1: (SWARM, OWN, QUICK), 2: third}.get(rank, (QUICK,))
        if self.nodes == [node]:
            yield ALONE

    def _assign_work_unit(self, node: Any) -> None:  # noqa: ANN401
        scope = self._next_for(node)
        if scope is not None:
            self.workqueue.move_to_end(scope, last=False)
            super()._assign_work_unit(node)

    def _reschedule(self, node: Any) -> None:  # noqa: ANN401
        if node.shutting_down or self._pending_of(self.assigned_work[node]) > 1:
            return
        self._assign_work_unit(node)
        waits_for_others = self._rank(node) == 0 and bool(self.workqueue)
        if self._next_for(node) is None and not waits_for_others:
            node.shutdown()

    def mark_test_complete(self, node: Any, item_index: int, duration: float = 0) -> None:  # noqa: ANN401
        super().mark_test_complete(node, item_index, duration)
        if list(self.workqueue) == [ALONE]:  # this may have been the last of the others
            for other in self.nodes:
                self._reschedule(other)

    def remove_node(self, node: Any) -> str | None:  # noqa: ANN401
        """Go on where a worker has ended, and with it its Swarm: the one that is left may be alone now."""
        crashed: str | None = super().remove_node(node)
        if list(self.workqueue) == [ALONE] and len(self.nodes) == 1:
            self._reschedule(self.nodes[0])
        return crashed


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Lanes | None:  # noqa: ANN401
    """Stand back where the command line names another way."""
    return Lanes(config, log) if config.option.dist == "load" else None
