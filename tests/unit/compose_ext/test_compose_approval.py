"""`docker linkwire node`: what is shown of each node, and what is asked of docker to approve one."""

from __future__ import annotations

import io
import json
import re
import stat
from pathlib import Path
from typing import Any

import pytest

from compose_ext.commands import node as node_command
from compose_ext.diagnostics import DockerError, UsageError
from compose_ext.docker_cli import Docker
from compose_ext.health import node_keys
from compose_ext.swarm import link_states, revoked_nodes

OWN, OTHER = "a" * 64, "b" * 64
AGENT = "c" * 64
# What docker would answer, and a note of what it was asked: the real one is asked in tests/lab/test_attacks_nodes.py.
SCRIPT = """#!/bin/sh
echo "$*" >> {folder}/asked
case "$1 $2" in
  "node ls") cat {folder}/ids ;;
  "node inspect") cat {folder}/inspected ;;
  "service ps") echo agenttask ;;
  "inspect --type") cat {folder}/task ;;
  "exec {agent}") cat {folder}/answer ;;
  "node update") ;;
  *) exit 1 ;;
esac
"""


class World:
    """A docker program that gives chosen answers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        program = folder / "docker"
        program.write_text(SCRIPT.format(folder=folder, agent=AGENT))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        self.docker = Docker(str(program))
        task = {"Status": {"State": "running", "ContainerStatus": {"ContainerID": AGENT}}}
        (folder / "task").write_text(json.dumps([task]))
        self.swarm({"n1": None})
        self.said()

    def swarm(self, labels: dict[str, str | None], **spec: object) -> None:
        (self.folder / "ids").write_text("\n".join(labels))
        found: list[dict[str, Any]] = [
            {
                "ID": f"id-{name}",
                "Description": {"Hostname": name},
                "Spec": {"Labels": {"linkwire.key": label} if label else None, "Role": "worker"},
            }
            for name, label in labels.items()
        ]
        for node in found:
            node["Spec"].update(spec)
        (self.folder / "inspected").write_text(json.dumps(found))

    def said(self, *nodes: dict[str, Any]) -> None:
        (self.folder / "answer").write_text(json.dumps({"version": 1, "nodes": nodes}))

    @property
    def asked(self) -> list[str]:
        return (self.folder / "asked").read_text().splitlines()


def node(name: str, unproven: str | None = None, *, accepted: bool = True) -> dict[str, Any]:
    return {
        "id": f"id-{name}",
        "hostname": "as it says",
        "fingerprint": OWN,
        "unproven": unproven,
        "accepted": accepted,
    }


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.mark.parametrize(
    ("label", "said", "state", "note"),
    [
        (None, node("n1"), "proven", None),
        (OTHER, node("n1"), "proven", None),
        (None, node("n1", accepted=False), "proven", "the controller has not accepted its keys (yet)"),
        (OWN, node("n1", "its key is locked"), "approved", None),
        (OWN, node("n1", "its key is locked", accepted=False), "approved", "has not accepted its keys (yet)"),
        (None, node("n1", "its key is locked", accepted=False), "unproven", "n1: its key is locked"),
        (None, node("n1", "its key is locked"), "unproven", "What it has stays, and nothing new is sealed to it"),
        (OTHER, node("n1", "its key is locked"), "unproven", "the label linkwire.key approves other keys"),
        (None, node("n2"), "-", "n1: no agent has reported its keys (yet)"),
    ],
)
def test_what_is_shown_of_a_node(
    world: World, label: str | None, said: dict[str, Any], state: str, note: str | None
) -> None:
    world.swarm({"n1": label})
    world.said(said)
    shown = str(node_command.table(node_keys.key_states(world.docker))).splitlines()
    assert shown[1].split()[:3] == ["id-n1", "n1", state]
    assert ("PROBLEMS" in shown) == (note is not None)
    assert note is None or note in shown[-1]


def test_terminal_shows_nodes_in_120_columns(world: World) -> None:
    world.swarm({"n1": None})
    world.said(node("n1"))
    listed = node_keys.key_states(world.docker)
    header, row = str(node_command.table(listed, 16)).splitlines()
    assert len(header) < 100
    assert row.split()[-1] == str(listed[0].fingerprint)[:16]


def test_malformed_answer_is_an_error_in_words(world: World) -> None:
    world.said({**node("n1"), "fingerprint": "x\x1b[2J"})
    with pytest.raises(DockerError, match="the agent's answer is incomplete"):
        node_keys.key_states(world.docker)
    world.said()
    (world.folder / "inspected").write_text("[{}]")
    with pytest.raises(DockerError, match="unexpected answer of docker"):
        node_keys.key_states(world.docker)


def test_what_an_agent_says_cannot_steer_a_terminal(world: World) -> None:
    world.said(node("n1", "\x1b[2J"))
    assert "\x1b" not in str(node_command.table(node_keys.key_states(world.docker)))


def test_fingerprint_becomes_a_label_without_asking(world: World) -> None:
    node_command.approve(world.docker, "n1", OTHER)
    assert world.asked == ["node inspect n1", f"node update --label-add linkwire.key={OTHER} id-n1"]


@pytest.mark.parametrize("text", ["abc", OWN.upper(), OWN + "a", f"{OWN} --role=manager"])
def test_malformed_fingerprint_is_refused_before_asking_docker(world: World, text: str) -> None:
    with pytest.raises(UsageError, match="64 hexadecimal digits"):
        node_command.approve(world.docker, "n1", text)
    assert not (world.folder / "asked").exists()


@pytest.mark.parametrize(
    ("answer", "approved"), [("y", True), (" Yes ", True), ("", False), ("n", False), ("ja", False)]
)
def test_without_fingerprint_it_shows_and_asks(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: str, approved: bool
) -> None:
    world.said(node("n1", "its key is locked"))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _text: answer)
    if approved:
        node_command.approve(world.docker, "n1", None)
    else:
        with pytest.raises(DockerError, match="nothing was approved"):
            node_command.approve(world.docker, "n1", None)
    shown = capsys.readouterr().out
    assert OWN in shown
    assert "compare it with the log of the agent on that node" in shown
    assert any("--label-add" in line for line in world.asked) == approved


def test_end_of_input_approves_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.said(node("n1", "its key is locked"))
    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    with pytest.raises(DockerError, match="nothing was approved"):
        node_command.approve(world.docker, "n1", None)


def test_nobody_is_asked_where_nobody_is(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.said(node("n1", "its key is locked"))
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    with pytest.raises(UsageError, match="--fingerprint"):
        node_command.approve(world.docker, "n1", None)
    world.said()
    with pytest.raises(DockerError, match="no agent has reported the keys of n1"):
        node_command.approve(world.docker, "n1", None)


def misplaced(world: World) -> list[str]:
    return node_keys.misplaced(world.docker, link_states.ask(world.docker, None))


@pytest.mark.parametrize(
    ("stated", "swarms", "label", "problem"),
    [
        ("192.0.2.1", "192.0.2.1", None, ""),
        ("203.0.113.7", "192.0.2.1", None, "which is not Swarm's for it, 192.0.2.1"),
        ("203.0.113.7", "192.0.2.1", "203.0.113.7", ""),
        ("203.0.113.7", "0.0.0.0", None, "Swarm knows none of it"),  # noqa: S104 - what Swarm writes for "here"
        ("127.0.0.1", "192.0.2.1", None, "which is a loopback address"),
        ("::ffff:192.0.2.1", "192.0.2.1", None, "which is an IPv4 address in IPv6's form"),
    ],
)
def test_address_that_does_not_count_is_shown(
    world: World, stated: str, swarms: str, label: str | None, problem: str
) -> None:
    found = json.loads((world.folder / "inspected").read_text())
    found[0]["Status"] = {"Addr": swarms}
    found[0]["Spec"]["Labels"] = {"linkwire.address": label} if label else {}
    (world.folder / "inspected").write_text(json.dumps(found))
    world.said(node("n1") | {"address": stated, "ports": [51820, 53819]})
    (shown,) = node_keys.key_states(world.docker)
    assert problem in (shown.problem or "")
    assert bool(shown.problem) == bool(problem)
    assert bool(misplaced(world)) == bool(problem)
    world.said(node("n1") | {"address": "192.0.2.1", "ports": [53, 60]})
    assert any("the UDP ports 53-60" in text for text in misplaced(world))


SINCE = "2026-11-28T20:00:00.000000+00:00"
REVOKED = {"linkwire.revoked": SINCE}


def test_revocation_is_one_label_and_drops_approval(world: World) -> None:
    world.swarm({"n1": OWN})
    node_command.revoke(world.docker, "n1")
    update = world.asked[-1].split()
    assert update[:3] == ["node", "update", "--label-add"]
    assert re.fullmatch(r"linkwire\.revoked=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", update[3])
    assert update[4:] == ["--label-rm", "linkwire.key", "id-n1"]


def test_revoked_node_is_revoked_once(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.swarm({"n1": None}, Labels=REVOKED)
    node_command.revoke(world.docker, "n1")
    assert capsys.readouterr().out == f"n1: revoked since {SINCE}\n"
    assert not any(words.startswith("node update") for words in world.asked)


def test_manager_is_not_revoked(world: World) -> None:
    world.swarm({"n1": None}, Role="manager")
    with pytest.raises(DockerError, match="docker node demote n1"):
        node_command.revoke(world.docker, "n1")
    assert not any(words.startswith("node update") for words in world.asked)


@pytest.mark.parametrize(
    ("fingerprint", "update"),
    [
        (None, "node update --label-rm linkwire.revoked id-n1"),
        (OTHER, f"node update --label-rm linkwire.revoked --label-add linkwire.key={OTHER} id-n1"),
    ],
)
def test_approval_ends_a_revocation(world: World, fingerprint: str | None, update: str) -> None:
    world.swarm({"n1": None}, Labels=REVOKED)
    node_command.approve(world.docker, "n1", fingerprint)
    assert world.asked[-1] == update


def test_revoked_node_is_shown_with_since(world: World) -> None:
    world.swarm({"n1": None}, Labels=REVOKED)
    shown = str(node_command.table(node_keys.key_states(world.docker))).splitlines()
    assert shown[1].split()[:3] == ["id-n1", "n1", "REVOKED"]
    assert f"n1: REVOKED since {SINCE}" in shown[-1]
    (problem,) = revoked_nodes.problems(world.docker)
    assert problem.startswith(f"node n1: REVOKED since {SINCE}")
