"""Networks that a deployment makes get an MTU whose packets fit into node encryption, and are else the user's."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from compose_ext.diagnostics import DockerError
from compose_ext.document.networks import MTU, overlays, with_mtu
from compose_ext.health import node_encryption
from compose_ext.install.options import Options
from compose_ext.swarm.installation import OPTIONS_LABEL
from tests.unit.compose_ext.compose_files import document
from tests.unit.compose_ext.docker_api import Api
from tests.unit.compose_ext.random_stacks import Stack
from tests.unit.compose_ext.test_compose_differential import (
    api,
    deployed_both_ways,
    docker,
    folder,
    without_ours,
)
from tests.unit.compose_ext.test_node_encryption import docker as scripted

__all__ = ["api", "docker", "folder"]

FIRST = """
{version}
x-some: &some {{driver_opts: {{z: "1"}}, labels: [c=d]}}
services:
  web:
    image: a
    networks: [plain, whole, own, ipsec, ext, older, named, twice, merged, local]
  idle: {{image: b, links: [web]}}
networks:
  plain:
  whole:
    driver: "overlay"
    driver_opts: {{x: "on", k: 7}}
    attachable: true
    ipam: {{driver: default, config: [{{subnet: 10.9.0.0/24}}]}}
    labels: {{a: "$$b", c: "${{HOME_OF}}", d: "yes", e: 0o17, "7": ~}}
  own: {{driver_opts: {{com.docker.network.driver.mtu: "1300"}}}}
  ipsec: {{driver_opts: {{encrypted: ""}}}}
  ext: {{external: true}}
  older: {{external: {{name: another}}}}
  named: {{name: "${{NAMED:-special}}-$PWD", external: false}}
  twice: {{labels: {{a: "1"}}, driver_opts: {{o: 1}}}}
  merged: {{<<: *some, internal: true}}
  local: {{driver: "${{DRIVER:-bridge}}"}}
  unused: {{}}
"""
SECOND = """
{version}
services: {{web: {{image: c}}, third: {{image: d, networks: [twice]}}}}
networks: {{twice: {{attachable: true}}}}
"""
SIZED = {"st_default", "st_plain", "st_whole", "st_twice", "st_merged"}


@pytest.mark.parametrize(("version", "linked"), [("3.5", False), ("3.8", True)])
def test_only_made_networks_differ(  # noqa: PLR0917 - fixtures
    docker: str, api: Api, folder: Path, monkeypatch: pytest.MonkeyPatch, version: str, linked: bool
) -> None:
    monkeypatch.setattr(node_encryption, "fitting", lambda _docker: 1386)
    first, second = (text.format(version=f'version: "{version}"') for text in (FIRST, SECOND))
    first += "x-wireguard: {}\n" if linked else ""
    stack = Stack({"deep/a.yml": first, "b.yml": second}, ["deep/a.yml", "b.yml"], environment={"HOME_OF": "/x"})
    by_docker, by_plugin = (
        without_ours(each) for each in deployed_both_ways(api, docker, stack, folder, monkeypatch)
    )
    own = f"special-{folder}"
    assert by_docker["networks"].keys() == {*SIZED, own, "st_own", "st_ipsec", "st_local"}
    for name in (*SIZED, own):
        made = by_docker["networks"][name]
        made["Options"] = {**(made.get("Options") or {}), MTU: "1386"}
    assert by_plugin == by_docker


def test_networks_that_are_there_are_left_alone(
    docker: str, api: Api, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(node_encryption, "fitting", lambda _docker: 1386)
    text = "version: '3.8'\nservices: {a: {image: a, networks: [old, new]}}\nnetworks: {old: {}, new: {}}\n"
    (folder / "a.yml").write_text(text)
    api.forget()
    subprocess.run(
        [docker, "network", "create", "--driver=overlay", "--label=com.docker.stack.namespace=st", "st_old"],
        check=True,
        timeout=60,
        capture_output=True,
    )
    monkeypatch.setenv("LINKWIRE_DOCKER", docker)
    from compose_ext.cli import main  # noqa: PLC0415 - as the differential tests run it

    assert main(["deploy", "-c", "a.yml", "--resolve-image=never", "--detach", "st"]) == 0
    made = api.forget().networks
    assert MTU not in (made["st_old"].get("Options") or {})
    assert made["st_new"]["Options"] == {MTU: "1386"}
    assert (
        "linkwire: st_new: made with an MTU of 1386, so that packets fit into node encryption"
        in capsys.readouterr().err
    )


def test_nothing_is_added_without_node_encryption(
    docker: str, api: Api, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for fits in (lambda _docker: None, failing):
        monkeypatch.setattr(node_encryption, "fitting", fits)
        stack = Stack({"a.yml": FIRST.format(version="version: '3.8'")}, ["a.yml"], environment={"HOME_OF": "/x"})
        by_docker, by_plugin = deployed_both_ways(api, docker, stack, folder, monkeypatch)
        assert without_ours(by_plugin) == without_ours(by_docker)


def failing(_docker: object) -> int | None:
    raise DockerError("this node is no manager")


def test_what_docker_refuses_is_left_to_it() -> None:
    texts = (
        "services: {a: {networks: [x]}}\nnetworks: {x: 5}",
        "services: {a: {networks: [x]}}\nnetworks: {x: {driver_opts: [a]}}",
        "services: {a: {networks: [x]}}\nnetworks: {x: {driver: [a]}}",
        "services: {a: {networks: [x]}}\nnetworks: {x: {driver: '${A:?no}'}}",
        "services: {a: {networks: [y]}}\nnetworks: {x: }",
        "services: 7",
        "services: {a: {networks: {x: {}}}}\nnetworks: [x]",
    )
    for text in texts:
        assert overlays([document(text)], {}, "st") == (), text
    assert with_mtu((), 1386, ()) == ""


def test_file_without_version_gets_none() -> None:
    files = [document("services: {a: {image: a}}")]
    text = with_mtu(overlays(files, {}, "st"), 1350, files)
    assert yaml.safe_load(text) == {"networks": {"default": {"driver_opts": {MTU: "1350"}}}}


@pytest.mark.parametrize(
    ("mode", "answer", "fits"),
    [
        ("strict", {"fits": 1350}, 1350),
        ("prefer", {"fits": 1390}, 1386),
        ("strict", {"fits": None}, 1386),
        ("strict", {"error": "there is no such query"}, 1386),
        ("off", {"fits": 1350}, None),
    ],
)
def test_agent_says_what_fits(tmp_path: Path, mode: str, answer: dict[str, Any], fits: int | None) -> None:
    """One of an earlier version does not."""
    labels = {OPTIONS_LABEL: Options(node_encryption=mode).label()}
    service = {"ID": "c", "Spec": {"Name": "linkwire_controller", "Labels": labels}}
    status = {"State": "running", "ContainerStatus": {"ContainerID": "c" * 64}}
    asked: dict[str, object] = {"service ls": "c", "service inspect": [service], "service ps": "t"}
    asked |= {"inspect": [{"ID": "t", "Status": status}], "exec": json.dumps(answer)}
    assert node_encryption.fitting(scripted(tmp_path, asked)) == fits
