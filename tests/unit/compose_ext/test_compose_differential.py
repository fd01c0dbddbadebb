"""Nothing but labels may differ between a deployment by Docker alone and one by the plugin: asked of Docker itself.

Every docker program on this machine deploys each stack twice, to a stand-in for Docker's API that keeps what Swarm
would be asked for: once alone, once through the plugin. LINKWIRE_DIFFERENTIAL=500 is the number of random stacks.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest
import yaml

from compose_ext.cli import main
from mesh.model.labels.link_labels import PREFIX
from tests.unit.compose_ext.compose_files import docker_programs
from tests.unit.compose_ext.docker_api import Api, Recorded, serving
from tests.unit.compose_ext.random_stacks import Stack, random_stack

PROGRAMS = docker_programs()
COUNT = int(os.environ.get("LINKWIRE_DIFFERENTIAL", "40"))
HEADER = 'version: "3.8"\nx-wireguard: {}\n'
TOP = (
    "configs: {c: {file: ./c.txt}}\nsecrets: {s: {external: true}}\n"
    "networks: {front: {}, back: {}}\nvolumes: {v: {}}\n"
)

SHAPES = {
    "tcp and udp": '{web: {image: a, links: [dns]}, dns: {image: b, ports: ["53:53/tcp", "53:53/udp"]}}',
    "unpublished ports": '{web: {image: a, links: [web], ports: ["80", "443"]}}',
    "a config twice": "{web: {image: a, links: [web], configs: [{source: c, target: /a}, {source: c, target: /b}]}}",
    "a secret twice": "{web: {image: a, links: [web], secrets: [{source: s, target: a}, {source: s, target: b}]}}",
    "port ranges": '{web: {image: a, links: [web], ports: ["9000-9001", "9000-9001:9000-9001/udp"]}}',
    "modes of one port": (
        "{web: {image: a, links: [web], ports: [{target: 80, published: 80, mode: host}, {target: 8, published: 8}]}}"
    ),
    "no networks": "{web: {image: a, links: [db]}, db: {image: b}, worker: {image: c, depends_on: [db]}}",
    "networks by list": "{web: {image: a, links: [db], networks: [front]}, db: {image: b, networks: [front, back]}}",
    "network aliases": (
        "{web: {image: a, links: [db], networks: {front: {aliases: [x]}}}, db: {image: b, networks: {front: }}}"
    ),
    "nothing replicated": "{web: {image: a, links: [web], deploy: {replicas: 0}}}",
    "labels by list": "{web: {image: a, links: [web], labels: [a=b], deploy: {labels: [c=d]}}}",
    "volumes": "{web: {image: a, links: [web], volumes: ['./x:/x', 'v:/v', {type: bind, source: ../y, target: /y}]}}",
    "dollars": """{web: {image: a, links: [web], command: ["$$HOME", "${HOME}", "${NO-no}", "${PWD}", "$$PWD"]}}""",
    "deploy is empty": "{web: {image: a, links: [db], deploy: }, db: {image: b, deploy: {}}}",
    "a healthcheck": "{web: {image: a, links: [web], healthcheck: {disable: true}}}",
    "ulimits": "{web: {image: a, links: [web], ulimits: {nofile: 5}, tmpfs: /x, dns: 10.0.0.1}}",
}


@pytest.fixture(params=PROGRAMS or ["none"], ids=lambda program: f"docker-{PROGRAMS.get(program, [0])[0]}")
def docker(request: pytest.FixtureRequest) -> str:
    assert PROGRAMS, "NO DOCKER CLI HERE: the plugin cannot be compared with it; apt-get install docker.io"
    return str(request.param)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with serving(tmp_path_factory.mktemp("api") / "docker.sock") as one:
        yield one


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, api: Api) -> Path:
    """The user's folder, behind a symbolic link as homes sometimes are; the process is in it."""
    (tmp_path / "real").mkdir()
    linked = tmp_path / "home"
    linked.symlink_to("real")
    monkeypatch.chdir(linked)
    monkeypatch.setenv("PWD", str(linked))
    monkeypatch.setenv("DOCKER_HOST", api.host)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "config"))
    return linked


def deployed_both_ways(
    api: Api, docker: str, stack: Stack, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Recorded, Recorded]:
    """Return what Docker alone asks Swarm for, and what the plugin does."""
    for name, contents in stack.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(contents if isinstance(contents, str) else yaml.safe_dump(contents, sort_keys=False))
    for name, value in stack.environment.items():
        monkeypatch.setenv(name, value)
    stdin = yaml.safe_dump(stack.stdin, sort_keys=False).encode() if stack.stdin else b""
    words = ["deploy", *(word for name in stack.named for word in ("-c", name)), "--resolve-image=never", "st"]
    api.forget()
    alone = subprocess.run([docker, "stack", *words], input=stdin, capture_output=True, check=False, timeout=60)
    assert alone.returncode == 0, alone.stderr.decode()
    by_docker = api.forget()
    monkeypatch.setenv("LINKWIRE_DOCKER", docker)
    monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(stdin)))
    assert main([*words[:-1], "--detach", words[-1]]) == 0
    by_plugin = api.forget()
    assert by_docker.unknown == by_plugin.unknown == []
    return by_docker, by_plugin


def without_ours(recorded: Recorded) -> dict[str, Any]:
    """Everything that was made, without Linkwire's labels and its note of the stack."""
    made = asdict(recorded)
    for service in made["services"].values():
        for labels in (service.get("Labels"), service["TaskTemplate"]["ContainerSpec"].get("Labels")):
            for label in [label for label in labels or {} if label.startswith(PREFIX)]:
                del labels[label]
        # Docker goes through these in the order of Go's maps, or sorts them by less than all of them: at random.
        for unordered in ("Networks", "Configs", "Secrets"):
            for holder in (service["TaskTemplate"], service["TaskTemplate"]["ContainerSpec"]):
                holder.get(unordered, []).sort(key=str)
    made["configs"] = {name: config for name, config in made["configs"].items() if not name.startswith("linkwire-")}
    return made


def differences(one: object, other: object, path: str = "") -> list[str]:
    """Say where two JSON values differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted(one.keys() | other.keys())
        return [said for key in keys for said in differences(one.get(key), other.get(key), f"{path}.{key}")]
    return [] if one == other else [f"{path}: {one!r} by Docker alone, {other!r} by the plugin"]


def compared(api: Api, docker: str, stack: Stack, folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Deploy both ways and compare; returns how many services got labels of Linkwire's."""
    by_docker, by_plugin = deployed_both_ways(api, docker, stack, folder, monkeypatch)
    labelled = sum(
        any(label.startswith(PREFIX) for label in service.get("Labels") or {})
        for service in by_plugin.services.values()
    )
    assert differences(without_ours(by_docker), without_ours(by_plugin)) == []
    return labelled


@pytest.mark.parametrize("services", SHAPES.values(), ids=SHAPES)
def test_small_shapes(docker: str, services: str, api: Api, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = Stack({"a.yml": f"{HEADER}services: {services}\n{TOP}", "c.txt": "x"}, ["a.yml"])
    assert compared(api, docker, stack, folder, monkeypatch) > 0


@pytest.mark.parametrize("seeds", range(4))
def test_random_stacks(docker: str, seeds: int, api: Api, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labelled = 0
    for seed in range(seeds, COUNT, 4):
        here = folder / f"stack{seed}"
        here.mkdir()
        monkeypatch.chdir(here)
        monkeypatch.setenv("PWD", str(here))
        with pytest.MonkeyPatch.context() as patched:
            labelled += compared(api, docker, random_stack(seed), here, patched)
    assert labelled > 0


def test_the_comparison_sees_a_lost_port(
    api: Api, folder: Path, docker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the override behind the user's file, where it was once, Docker loses a port."""
    services = SHAPES["tcp and udp"]
    stack = Stack({"a.yml": f"{HEADER}services: {services}\n{TOP}", "c.txt": "x"}, ["a.yml"])
    by_docker, _ = deployed_both_ways(api, docker, stack, folder, monkeypatch)
    (folder / "override.yml").write_text('version: "3.8"\nservices: {dns: {deploy: {labels: {linkwire.x: "1"}}}}\n')
    words = [docker, "stack", "deploy", "-c", "a.yml", "-c", "override.yml", "--resolve-image=never", "st"]
    subprocess.run(words, capture_output=True, check=True, timeout=60)
    (lost,) = differences(without_ours(by_docker), without_ours(api.forget()))
    assert lost.startswith(".services.st_dns.EndpointSpec.Ports: ")
