"""A program that stands for docker on a manager of the simulated Swarm: it tells what was written beforehand.

`exec` starts the agent's own program, which asks over the same kind of socket. Docker's own time is in none of it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from compose_ext.swarm import listings
from compose_ext.swarm.link_states import SERVICE
from mesh.model.labels.link_labels import encode
from tests.bench.scale import world as worlds
from tests.bench.scale.world import World

CONTAINER = 64 * "c"
_NOW = "2026-01-01T00:00:00.123456789Z"
_AGENT = "agent"

_PROGRAM = """#!/bin/sh
here={folder}
for last; do :; done
case "$*" in
"exec "*) shift 3; exec {python} -S -c 'import sys; sys.path.insert(0, "{project}")
from agent.queries.client import ask
sys.exit(ask(sys.argv[1:], "{socket}"))' "$@" ;;
"info "*) echo 2026-01-01T00:10:00Z ;;
"service ls --quiet") cat $here/services.ids ;;
"service inspect "*) cat $here/services ;;
"node ls --quiet") cat $here/nodes.ids ;;
"node inspect "*) cat $here/nodes ;;
"service ps --quiet --no-trunc --filter node=self {agent}") head -1 $here/agents.ids ;;
"service ps "*" {agent}") cat $here/agents.ids ;;
"service ps "*) cat $here/tasks.ids ;;
"inspect --type task "*) shift 3; cat "$here/task.$1.$#" ;;
*) echo "This node is not a swarm manager" >&2; exit 1 ;;
esac
"""


def install(world: World, folder: Path, socket: Path) -> Path:
    """Write the program and what it tells; returns its path."""
    project = Path(__file__).resolve().parents[3]
    folder.mkdir()
    services = [_service(one.id, one.name, encode(one.labels)) for one in world.services.values()]
    _list(folder, "services", [*services, _service(_AGENT, SERVICE, {})])
    _list(folder, "nodes", [_node(node) for node in world.nodes])
    agents = [_task(f"agent{number:020d}", _AGENT, node, 1, "running") for number, node in enumerate(world.nodes)]
    agents[0]["Status"]["ContainerStatus"]["ContainerID"] = CONTAINER
    tasks = [_task(one.id, one.service, one.node, one.slot + 1, "running") for one in world.tasks.values()]
    _inspected(folder, agents)
    _inspected(folder, [*agents, *tasks])
    _inspected(folder, agents[:1])
    for name, listed in (("agents", agents), ("tasks", [*agents, *tasks])):
        (folder / f"{name}.ids").write_text("\n".join(one["ID"] for one in listed))
    program = folder / "docker"
    values = {"folder": folder, "python": sys.executable, "project": project, "socket": socket, "agent": SERVICE}
    program.write_text(_PROGRAM.format(**values))
    program.chmod(0o755)
    return program


def _list(folder: Path, name: str, listed: Sequence[dict[str, Any]]) -> None:
    (folder / f"{name}.ids").write_text("\n".join(one["ID"] for one in listed))
    (folder / name).write_text(json.dumps(listed))


def _inspected(folder: Path, tasks: Sequence[dict[str, Any]]) -> None:
    """Write tasks as they are inspected: some thousand at a time, in the order of their list."""
    for chunk in _chunks(tasks, listings.INSPECTED_AT_ONCE):
        (folder / f"task.{chunk[0]['ID']}.{len(chunk)}").write_text(json.dumps(chunk, indent=4))


def _chunks(listed: Sequence[dict[str, Any]], size: int) -> Iterator[Sequence[dict[str, Any]]]:
    for first in range(0, len(listed), size):
        yield listed[first : first + size]


def _service(identity: str, name: str, labels: dict[str, str]) -> dict[str, Any]:
    spec = {"Name": name, "Labels": labels, "Mode": {"Replicated": {"Replicas": 10}}, "TaskTemplate": _template(name)}
    return {"ID": identity, "UpdatedAt": _NOW, "Spec": spec}


def _node(node: str) -> dict[str, Any]:
    spec = {"Availability": "active", "Labels": {}}
    described = {"Hostname": worlds.hostname(node)}
    return {"ID": node, "Description": described, "Spec": spec, "Status": {"State": "ready"}}


def _task(task: str, service: str, node: str, slot: int, state: str) -> dict[str, Any]:
    """A task as long as Docker shows one: some two kilobytes."""
    status = {"State": state, "Timestamp": _NOW, "Message": "started", "ContainerStatus": {"ContainerID": 2 * task}}
    network = {"ID": task, "Spec": {"Name": f"{service}_default", "DriverConfiguration": {}, "Scope": "swarm"}}
    return {
        "ID": task,
        "CreatedAt": _NOW,
        "UpdatedAt": _NOW,
        "ServiceID": service,
        "NodeID": node,
        "Slot": slot,
        "DesiredState": "running",
        "Status": status,
        "Spec": _template(service),
        "NetworksAttachments": [{"Network": network, "Addresses": ["10.0.0.2/24"]}],
    }


def _template(name: str) -> dict[str, Any]:
    labels = {f"com.example.{number}": f"{name} value {number}" for number in range(8)}
    container = {"Image": f"registry.example.com/{name}:1@sha256:{64 * '0'}", "Labels": labels, "Env": ["A=1", "B=2"]}
    return {"ContainerSpec": container, "Resources": {}, "Placement": {}, "ForceUpdate": 0, "Runtime": "container"}
