"""What it takes to wire a task, against Docker's own start of the same task, on a Swarm of two nodes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tests.bench import starts
from tests.bench.measure import Effort, NotHere, Row
from tests.bench.starts import Start
from tests.lab import Lab, process
from tests.lab.deployment import Deployment, deployed
from tests.lab.lab import COMMANDS, default_name
from tests.lab.layout import LabError
from tests.lab.node import Node

_STACK = """
version: "3.8"
x-wireguard: {{}}
services:
  web: {{image: "{image}", command: [sleep, "86400"], stop_grace_period: 0s}}
  client:
    image: "{image}"
    command: [sleep, "86400"]
    stop_grace_period: 0s
    links: [web]
    x-wireguard: {{gate: false}} # what is measured is Docker's own way to the start
    deploy: {{replicas: 0}}
"""
_AT_ONCE = 10


def measure(effort: Effort) -> list[Row]:
    """Tasks one after the other, then ten at a time. Raises NotHere where there is no Docker."""
    try:
        process.need(*COMMANDS, process.docker_cli())
    except LabError as why:
        raise NotHere(str(why)) from why
    with Lab(f"{default_name()[:6]}b", nodes=2).anew() as lab:
        return rows(deployed(lab, own_etcd=False), effort)


def rows(deployment: Deployment, effort: Effort) -> list[Row]:
    """The same on a lab that is there, which keeps nothing of it."""
    deployment.deploy("started", _STACK.format(image=deployment.images.demo))
    try:
        deployment.wait_running("started_web", 1)
        _scale(deployment, 1)  # not counted: what is done once for all, such as pulling the image
        one = [_started(deployment, count, 1) for count in range(2, effort.rounds + 2)]
        ten = []
        for _ in range(max(1, effort.rounds // 5)):
            _scale(deployment, 0)
            ten.append(_started(deployment, min(_AT_ONCE, effort.many), min(_AT_ONCE, effort.many)))
    finally:
        deployment.remove("started")
    return [
        *starts.rows("docker.one", "wire a task, one at a time", [start for batch in one for start in batch]),
        *starts.rows("docker.ten", "wire a task, ten at a time", [start for batch in ten for start in batch]),
    ]


def _scale(deployment: Deployment, count: int) -> None:
    deployment.lab.manager.docker("service", "scale", "--detach", f"started_client={count}")
    deployment.wait_running("started_client", count)


def _started(deployment: Deployment, count: int, new: int) -> list[Start]:
    """Scale to so many, of which some are new; those, when Docker and the agents have said all of them."""
    since = time.time()
    with _namespaces(deployment.lab) as seen:
        _scale(deployment, count)
    found: dict[str, Start] = {}

    def all_said() -> bool:
        placed = [line for task in deployment.tasks("linkwire_controller") for line in _logged(*task, since)]
        for node in deployment.lab.nodes:
            until = f"{time.time():.9f}"
            filters = ("--filter", "type=container", "--filter", "type=network", "--format", "{{json .}}")
            events = node.docker("events", "--since", f"{since:.9f}", "--until", until, *filters).stdout
            wired = _logged(node, deployment.agent(node) or "", since)
            found.update(starts.read(events.splitlines(), wired, placed))
        return len(found) >= new

    process.wait_for(f"{new} tasks to be wired", all_said, seconds=60, every=0.3)
    return [replace(start, there=seen.get(_namespace(deployment.lab, start.container))) for start in found.values()]


@contextmanager
def _namespaces(lab: Lab) -> Iterator[dict[str, float]]:
    """While entered, looks when containers' namespaces come: by name, milliseconds since the epoch, 5 ms exact."""
    folders = [Path(f"/proc/{node.dockerd_pid}/root/run/docker/netns") for node in lab.nodes]
    seen: dict[str, float] = {}
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.005):
            for folder in folders:
                for path in folder.iterdir():
                    seen.setdefault(path.name, time.time() * 1000)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def _namespace(lab: Lab, container: str) -> str:
    """The name of a container's namespace; no name is the same on two nodes."""
    for node in lab.nodes:
        shown = node.docker("inspect", "--format", "{{.NetworkSettings.SandboxKey}}", container, check=False)
        if shown.returncode == 0:
            return Path(shown.stdout.strip()).name
    return ""


def _logged(node: Node, container: str, since: float) -> list[str]:
    done = node.docker("logs", "--since", f"{since:.9f}", container)
    return (done.stderr + done.stdout).splitlines()
