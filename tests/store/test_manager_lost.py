"""A Docker that says it is no manager: at first nothing mends that, later it may be one again."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.swarm.docker_client import SwarmManager
from mesh.errors import Retryable, Terminal
from tests.store.faulty_swarm import ManagersDocker

TROUBLE = "This node is not a swarm manager. Manager is being prepared or has trouble connecting to the cluster."


def test_manager_that_was_one_may_return(tmp_path: Path) -> None:
    with ManagersDocker(tmp_path / "docker") as docker:
        manager = SwarmManager(docker.url)
        docker.refusal = 503, {"message": TROUBLE}
        with pytest.raises(Terminal):
            manager.cluster()
        docker.refusal = None
        manager.cluster()
        docker.refusal = 503, {"message": TROUBLE}
        for ask in (manager.cluster, manager.services, manager.tasks, manager.nodes):
            with pytest.raises(Retryable):
                ask()
        docker.refusal = None
        assert manager.nodes()
