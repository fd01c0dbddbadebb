"""A Swarm as a manager's Docker tells of it, for controllers that are processes of their own."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mesh.model.labels.consent import NAMESPACE
from tests.store.small_mesh import NODES, record
from tests.support.faults.docker_api import Answer, DockerApi
from tests.support.signing import CLUSTER
from tests.support.swarm_world import home

STACK = "small"
NO_LEADER: Answer = (
    500,
    {"message": "rpc error: code = Unknown desc = The swarm does not have a leader. It's possible that too few"},
)
"""What a manager says that has lost the others, shortened."""


@dataclass
class Swarm:
    """`web` links to `db`; three tasks of each to begin with."""

    tasks: dict[str, tuple[str, str, int]] = field(default_factory=dict)
    """Service, node and slot, by id."""
    labels: dict[str, dict[str, str]] = field(
        default_factory=lambda: {"web": {"linkwire.links": f"{STACK}_db:db"}, "db": {}}
    )


class ManagersDocker(DockerApi):
    """Docker of a manager.

    Attributes:
        swarm: as it tells of it.
        refusal: what it says to each question about the Swarm; None to answer.
        answers: it does not answer at all while this is not set.
    """

    def __init__(self, socket: Path) -> None:
        super().__init__(socket)
        self.swarm = Swarm()
        self.refusal: Answer | None = None
        self.answers = threading.Event()
        self.answers.set()

    def begin(self) -> None:
        """Begin with another Swarm."""
        self.swarm = Swarm()
        for number in range(6):
            self.start("web" if number % 2 else "db")

    def start(self, service: str) -> str:
        """Start a task."""
        number = len(self.swarm.tasks)
        task = f"t{number}".ljust(25, "x")
        self.swarm.tasks = {**self.swarm.tasks, task: (service, NODES[number % 2], number + 1)}
        self.tell("service", "update", f"#{service}")
        return task

    def end(self, task: str) -> None:
        """End a task."""
        service, _, _ = self.swarm.tasks[task]
        self.swarm.tasks = {name: found for name, found in self.swarm.tasks.items() if name != task}
        self.tell("service", "update", f"#{service}")

    def label(self, service: str, name: str, value: str) -> None:
        """Give a service a label."""
        self.swarm.labels = {**self.swarm.labels, service: {**self.swarm.labels[service], name: value}}
        self.tell("service", "update", f"#{service}")

    def answer(self, path: str, query: dict[str, Any]) -> Answer:
        """As the other."""
        self.answers.wait(60)
        if self.refusal is not None and path != "version":
            return self.refusal
        swarm = self.swarm
        match path:
            case "swarm":
                return 200, {"ID": CLUSTER}
            case "services":
                return 200, [_service(name, labels) for name, labels in swarm.labels.items()]
            case "tasks":
                asked = query["filters"].get("service", ())
                tasks = (_task(task, *found) for task, found in swarm.tasks.items())
                return 200, [task for task in tasks if not asked or task["ServiceID"] in asked]
            case "nodes":
                return 200, [_node(name) for name in NODES]
        return super().answer(path, query)


def _service(name: str, labels: Mapping[str, str]) -> dict[str, Any]:
    spec = {"Name": f"{STACK}_{name}", "Labels": {**labels, NAMESPACE: STACK}, "Mode": {"Global": {}}}
    return {"ID": f"#{name}", "Version": {"Index": 1}, "Spec": spec}


def _task(task: str, service: str, node: str, slot: int) -> dict[str, Any]:
    status = {"State": "running"}
    return {
        "ID": task,
        "ServiceID": f"#{service}",
        "Slot": slot,
        "NodeID": node,
        "DesiredState": "running",
        "Status": status,
    }


def _node(name: str) -> dict[str, Any]:
    return {
        "ID": name,
        "Description": {"Hostname": name},
        "Status": {"State": "ready", "Addr": str(home(name))},
        "Spec": {"Role": "manager", "Labels": {"linkwire.key": record(name).statement(CLUSTER).fingerprint}},
    }
