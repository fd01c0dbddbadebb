"""Which nodes `docker linkwire gate` goes to, and what it says of those that it cannot reach."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from compose_ext.diagnostics import INCOMPLETE, UsageError
from compose_ext.docker_cli import Docker
from compose_ext.pflag import Seconds
from compose_ext.swarm import gate
from compose_ext.terminal import leave

NODES = [
    gate.Node("abc1", "n1", None, labelled=False),
    gate.Node("abd2", "n2", "it is away", labelled=True),
    gate.Node("xyz3", "twin", None, labelled=False),
    gate.Node("xyz4", "twin", None, labelled=False),
]


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        ([], ["abc1", "abd2", "xyz3", "xyz4"]),
        (["n2", "n1"], ["abd2", "abc1"]),
        (["n1", "abc1", "abc"], ["abc1"]),
        (["xyz4"], ["xyz4"]),
    ],
)
def test_nodes_are_named_as_for_docker_node(names: list[str], ids: list[str]) -> None:
    assert [node.id for node in gate._chosen(NODES, names)] == ids


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nn1", "this Swarm has no node 'nn1'; did you mean 'n1'?"),
        ("twin", "2 nodes are called 'twin': name them by id"),
        ("ab", "2 nodes are called 'ab'"),
    ],
)
def test_unknown_or_ambiguous_node_name_is_refused(name: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        gate._chosen(NODES, ["n1", name])
    assert str(refused.value).startswith(said)


@pytest.mark.parametrize(
    ("state", "availability", "has_agent", "said"),
    [
        ("ready", "active", True, None),
        ("down", "active", False, "the node is down: run this again when it is back"),
        (
            "ready",
            "drain",
            False,
            "it is set to drain: `docker node update --availability active n1`, and run this again",
        ),
        ("ready", "active", False, "no Linkwire agent runs there: `docker service ps linkwire_agent` says why"),
    ],
)
def test_obstacle_is_reported_with_a_remedy(state: str, availability: str, has_agent: bool, said: str | None) -> None:
    raw: dict[str, Any] = {"Status": {"State": state}, "Spec": {"Availability": availability}}
    assert gate._obstacle(raw, "n1", has_agent=has_agent) == said


@pytest.mark.parametrize("text", ["9" * 5000, "\u0663\u0660", "0", "86401", "1h", ""])
def test_seconds_are_a_short_number(text: str) -> None:
    with pytest.raises(UsageError, match="takes seconds from 1 to 86400"):
        Seconds(86_400).convert(text, None, None)


def test_two_runs_on_one_node_report_once() -> None:
    first = {"gate": "leaving", "said": ["default runtime linkwire -> runc"], "again": True}
    second = {"gate": "out", "said": ["default runtime runc", "script removed"]}
    assert str(gate._result(NODES[1], gate._both(first, second), "remove")) == (
        "n2: gate out: default runtime linkwire -> runc; script removed"
    )
    assert gate._both(first, {"refused": "no"}) == {"refused": "no"}


SERVICES = {
    "shop_web": ["node.labels.linkwire.gate == true", "node.role == worker"],
    "shop_db": [],
    "shop_api": ["node.labels.linkwire.gate==true"],
}
DOCKER = """#!{python}
import json, sys
services = json.loads({services!r})
if sys.argv[2] == "ls":
    print("\\n".join(services))
else:
    placed = {{name: {{"Placement": {{"Constraints": services[name]}}}} for name in sys.argv[3:]}}
    print(json.dumps([{{"Spec": {{"Name": name, "TaskTemplate": placed[name]}}}} for name in placed]))
"""


def test_what_is_left_of_gates_is_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = tmp_path / "docker"
    program.write_text(DOCKER.format(python=sys.executable, services=json.dumps(SERVICES)))
    program.chmod(0o755)
    docker = Docker(str(program))
    n1 = gate.Result(NODES[0], "leaving", services=("shop_web", "shop_db", "gone"), containers=("tool",))
    n2 = gate.Result(NODES[1], problem="the node is down: run this again when it is back")
    steps = gate.left(docker, [n1, n2, gate.Result(NODES[2], "out")], "docker linkwire gate remove", everywhere=True)
    assert leave(steps) == INCOMPLETE
    removal = "docker service update '--constraint-rm=node.labels.linkwire.gate == true' --force"
    placing = "docker service update --constraint-rm=node.labels.linkwire.gate==true"
    assert (
        capsys.readouterr().out
        == f"""\
linkwire: left to do:
linkwire:   let the tasks of shop_api run without the gate, for which they wait now: {placing} shop_api
linkwire:   replace the tasks of shop_db, which started with the gate: docker service update --force shop_db
linkwire:   replace the tasks of shop_web, which started with the gate: {removal} shop_web
linkwire:   on n1 make these containers again, which were made with the gate: tool
linkwire:   on n2: the node is down: run this again when it is back
linkwire:   then take the gate out of n1, n2: docker linkwire gate remove
"""
    )
    (step, _) = gate.left(docker, [gate.Result(NODES[0], "leaving", services=("shop_web",))], "x", everywhere=False)
    assert "constraint" not in step, "another node has the gate"
    assert leave(gate.left(docker, [gate.Result(NODES[2], "out")], "x", everywhere=False)) == 0
    assert len(gate.left(docker, [gate.Result(NODES[2], "out")], "x", everywhere=True)) == 2, "they cannot be placed"
