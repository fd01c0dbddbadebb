"""What a command of the agent's image said on each node, and what Docker said where it could not even start."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.node_gate import node_jobs as inside
from compose_ext.diagnostics import DockerError
from compose_ext.docker_cli import Docker
from compose_ext.install import rollout
from compose_ext.swarm import node_jobs

# Answers as Docker does, from files; writes down what it was asked.
DOCKER = """#!{python}
import json, pathlib, sys
folder, words = pathlib.Path({folder!r}), sys.argv[1:]
with (folder / "asked").open("a") as asked:
    asked.write(json.dumps(words) + "\\n")
world = json.loads((folder / "world").read_text())
if words[:2] == ["node", "ls"]:
    form = words[words.index("--format") + 1]
    for node in world["nodes"]:
        print(form.replace("{{{{.ID}}}}", node[0]).replace("{{{{json .Hostname}}}}", json.dumps(node[1]))
              .replace("{{{{.Status}}}}", node[2]).replace("{{{{.Availability}}}}", node[3]))
elif words[:2] == ["service", "ps"]:
    print("\\n".join(task["ID"] for task in world["tasks"]))
elif words[0] == "inspect":
    print(json.dumps([task for task in world["tasks"] if task["ID"] in words]))
elif words[:2] == ["service", "logs"]:
    print("\\n".join(world["logs"]))
elif words[:2] == ["service", "ls"]:
    print("s1" if world.get("services") else "")
elif words[:2] == ["service", "inspect"]:
    print(json.dumps(world["services"]))
"""
NODES = [["a1", "n1", "Ready", "Active"], ["b2", "n2", "Ready", "Active"], ["c3", "n3", "Down", "Active"]]


class World:
    """A docker program with one state for everything."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        program = folder / "docker"
        program.write_text(DOCKER.format(python=sys.executable, folder=str(folder)))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        self.docker = Docker(str(program))

    def set(self, tasks: list[dict[str, Any]], logs: list[object], **more: object) -> None:
        lines = [f"{_details(line)} {json.dumps(line)}" for line in logs] + ["not JSON", "x=y not JSON"]
        text = json.dumps({"nodes": NODES, "tasks": tasks, "logs": lines, **more})
        (self.folder / "world").write_text(text)

    def asked(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.folder / "asked").read_text().splitlines()]

    def look(self, seconds: float = 5.0) -> list[node_jobs.Outcome]:
        return node_jobs.run(self.docker, node_jobs.LOOK, "image:tag", seconds, lambda _: None)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def _details(line: object) -> str:
    """What Swarm says of a line, with the node that sent it."""
    node = line.get("sent by", line.get("node")) if isinstance(line, dict) else "?"
    return f"com.docker.swarm.node.id={node},com.docker.swarm.service.id=s1,com.docker.swarm.task.id=t1"


def task(number: int, node: str, state: str, error: str = "") -> dict[str, Any]:
    spec = {"ContainerSpec": {"Image": "image:typo"}}
    return {"ID": f"t{number}", "NodeID": node, "Spec": spec, "Status": {"State": state, "Err": error}}


def test_each_node_says_how_it_went(world: World) -> None:
    world.set(
        [task(1, "a1", "complete"), task(2, "b2", "failed", "task: non-zero exit (1)")],
        [{"node": "a1", "problems": [], "root": "/data"}, {"node": "b2", "problems": ["no nftables"]}],
    )
    one, two = world.look()
    assert (one.node, one.problems, one.report["root"]) == ("n1", (), "/data")
    assert (two.node, two.problems) == ("n2", ("no nftables",))
    assert node_jobs.table([one, two]) == "n2: no nftables"
    removed = [words for words in world.asked() if words[:2] == ["service", "rm"]]
    assert len(removed) == 2, "also what an earlier run has left"


def test_an_image_that_is_nowhere_is_swarms_word(world: World) -> None:
    told = {"node": "a1", "problems": [], "root": "/data"}
    world.set([task(1, "a1", "complete"), task(2, "b2", "rejected", "No such image: image:tag")], [told])
    outcomes = world.look()
    assert [outcome.problems for outcome in outcomes] == [
        (),
        ("No such image: image:tag (the task is rejected)",),
    ]
    assert outcomes[0].report["root"] == "/data", "one node's task hides no other node's report"


def test_what_to_do_about_userns_remap_is_said(world: World) -> None:
    docker = "cannot share the host's network namespace when user namespaces are enabled"
    world.set([task(1, "a1", "complete"), task(2, "b2", "rejected", docker)], [])
    (problem,) = world.look()[1].problems
    assert problem == (
        f"{docker} (the task is rejected): it has userns-remap: take that out of this node's daemon.json, or the node"
        " out of the Swarm"
    )


def test_what_does_not_end_is_named(world: World) -> None:
    world.set([task(1, "a1", "preparing")], [])
    one, two = world.look(seconds=0.2)
    assert one.problems == ("the task is still preparing",)
    assert two.problems == ("Swarm has started no task there",)
    assert node_jobs.others(world.docker) == ["n3 (down, active)"]


def test_rollback_error_names_task_node_and_reason(world: World) -> None:
    service = {
        "ID": "s1",
        "Spec": {"Name": "linkwire_agent", "Mode": {"Global": {}}, "TaskTemplate": {"ContainerSpec": {}}},
        "UpdateStatus": {"State": "rollback_completed", "Message": "rollback completed"},
    }
    world.set([task(7, "b2", "rejected", "No such image: image:typo")], [], services=[service])
    with pytest.raises(DockerError) as caught:
        rollout.wait(world.docker, 1.0, lambda _: None)
    assert "task t7 on n2 (image:typo): No such image: image:typo" in str(caught.value)
    assert "agent: rollback completed" in str(caught.value)


def test_a_remapped_root_is_seen() -> None:
    assert not inside.remapped("         0          0 4294967295\n")
    assert inside.remapped("         0     231072      65536\n")


def test_agent_finds_itself_in_its_dockers_folder(tmp_path: Path) -> None:
    ours = "600 5 8:1 /data/docker/containers/abc/hosts /etc/hosts rw - ext4 /dev/sda rw"
    mounts = f"27 1 0:24 / /proc rw - proc proc rw\n{ours}\n"
    assert not inside._shows_us(tmp_path, mounts)
    (tmp_path / "abc").mkdir()
    assert inside._shows_us(tmp_path, mounts)
    assert not inside._shows_us(tmp_path, "")


def test_a_node_reports_for_itself_alone(world: World) -> None:
    world.set(
        [task(1, "a1", "complete"), task(2, "b2", "complete")],
        [{"node": "a1", "problems": ["no nftables"]}, {"node": "a1", "problems": [], "sent by": "b2"}],
    )
    one, two = world.look()
    assert (one.problems, two.problems) == (("no nftables",), ())


def test_nodes_name_adds_no_other_node(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    posing = ["b2", 'n2 Ready Active\na1 Down Drain "evil"\nc3', "Ready", "Active"]
    monkeypatch.setattr(sys.modules[__name__], "NODES", [NODES[0], posing, NODES[2]])
    world.set([], [])
    assert list(node_jobs.active(world.docker)) == ["a1", "b2"]
    assert node_jobs.active(world.docker)["a1"] == "n1"
    assert node_jobs.others(world.docker) == ["n3 (down, active)"]
