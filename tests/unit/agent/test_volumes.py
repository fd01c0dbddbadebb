"""A node's volumes where its Docker is newer than that of Swarm's leader."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.containers.volumes import Volumes
from tests.support.faults.docker_api import Answer, DockerApi

UNKNOWN = "rpc error: code = Unimplemented desc = unknown method ListVolumes for service docker.swarmkit.v1.Control"
"""From Docker 28.5.2, a manager beside a leader with 20.10.24, for a volume that it does not have itself."""
VOLUMES: list[dict[str, Any]] = [
    {"Name": "linkwire_containers", "Driver": "local", "Options": {"type": "none", "o": "bind", "device": "/here"}},
    {"Name": "linkwire_agent", "Driver": "local", "Options": None},
    {"Name": "linkwire_agent_2", "Driver": "local", "Options": {"device": "/there"}},
]


class NewerManager(DockerApi):
    """Docker's API as such a manager answers it."""

    def answer(self, path: str, query: dict[str, Any]) -> Answer:
        """As the other."""
        if path == "volumes":
            (wanted,) = query["filters"]["name"]
            return 200, {"Volumes": [one for one in VOLUMES if wanted in one["Name"]], "Warnings": [UNKNOWN]}
        if path.startswith("volumes/"):
            return 501, {"message": UNKNOWN}
        return super().answer(path, query)


@pytest.fixture
def volumes(tmp_path: Path) -> Iterator[Volumes]:
    with NewerManager(tmp_path / "docker.sock") as docker:
        yield Volumes(docker.url)


@pytest.mark.parametrize(
    ("name", "device"), [("linkwire_containers", "/here"), ("linkwire_agent", ""), ("linkwire_state", None)]
)
def test_missing_volume_is_not_asked_of_swarm(volumes: Volumes, name: str, device: str | None) -> None:
    assert volumes.device(name) == device
