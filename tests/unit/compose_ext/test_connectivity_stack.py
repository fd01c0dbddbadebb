"""The stack of the connectivity test, as Docker makes it."""

import json
from pathlib import Path

import pytest

from compose_ext.connectivity import stack
from compose_ext.connectivity.stack import Plan
from compose_ext.docker_cli import Docker
from tests.unit.compose_ext.compose_files import docker_programs
from tests.unit.compose_ext.docker_api import serving

PROGRAMS = docker_programs()


def test_every_node_asks_every_node_over_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert PROGRAMS, "NO DOCKER CLI HERE: nothing was deployed; apt-get install docker.io"
    with serving(tmp_path / "docker.sock") as api:
        monkeypatch.setenv("DOCKER_HOST", api.host)
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "config"))
        docker = Docker(max(PROGRAMS, key=lambda program: PROGRAMS[program]))
        stack.deploy(docker, Plan("linkwire-proof", "image:1", ["n1", "n2"]))
        made = api.forget().services
    assert sorted(made) == ["linkwire-proof_answer", "linkwire-proof_ask"]
    ask, answer = made["linkwire-proof_ask"], made["linkwire-proof_answer"]
    assert ask["Labels"]["linkwire.links"] == "linkwire-proof_answer:answer"
    assert answer["Labels"]["linkwire.expose"] == "7777/tcp,7777/udp"
    container = ask["TaskTemplate"]["ContainerSpec"]
    assert container["Image"] == "image:1"
    assert f"LINKWIRE_NODES={json.dumps(['n1', 'n2'])}" in container["Env"]
