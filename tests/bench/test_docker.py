"""The measurement of `make bench docker`, in small, where there is a Swarm anyway."""

from __future__ import annotations

from collections.abc import Callable

from tests.bench import docker
from tests.bench.measure import QUICK
from tests.bench.report import spreads
from tests.lab.deployment import Deployment


def test_a_tasks_wiring_is_measured_against_its_start(stacks: Deployment, figure: Callable[[str], None]) -> None:
    rows = docker.rows(stacks, QUICK)
    assert [row.key for row in rows] == [
        f"docker.{how}.{what}" for how in ("one", "ten") for what in ("p50", "p99", "own")
    ]
    for row in rows:
        assert min(*row.ours, *row.theirs) > 0, row
        figure(f"{row.what} against {row.reference}: {', '.join(spreads(row))}; {row.note}")
