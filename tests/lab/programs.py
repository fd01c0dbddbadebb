"""The programs of tests/lab/inside: brought into tasks as configs, started there, and asked for what they found."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.lab import process
from tests.lab.layout import LabError
from tests.lab.node import Node

INSIDE = Path(__file__).parent / "inside"
NAMES = ("listen", "call", "probe", "gossip", "bulk", "ask", "wear")

Task = tuple[Node, str]
"""A running task: its node and its container's id."""


def service(image: str, program: str, *arguments: str, **more: object) -> dict[str, Any]:
    """A compose service that runs one of the programs and has the others at hand."""
    return {
        "image": image,
        "command": ["python3", "-u", f"/srv/{program}.py", *arguments],
        "configs": [{"source": name, "target": f"/srv/{name}.py"} for name in NAMES],
        **more,
    }


def idle(image: str, **more: object) -> dict[str, Any]:
    """A compose service that does nothing by itself."""
    return {**service(image, "call"), "command": ["sleep", "86400"], "stop_grace_period": "1s", **more}


def stack(services: Mapping[str, Any], networks: Mapping[str, Any] | None = None) -> str:
    """A compose file, which may be JSON."""
    configs = {name: {"file": str(INSIDE / f"{name}.py")} for name in NAMES}
    more = {"networks": networks} if networks else {}
    return json.dumps(
        {"version": "3.8", "x-wireguard": {}, "services": services, "configs": configs, **more}, indent=1
    )


@dataclass(frozen=True, slots=True)
class Call:
    """One request: seconds since the epoch, who answered, and what went wrong where nobody did."""

    began: float
    ended: float
    who: str | None
    error: str


def count_calls(task: Task, host: str, count: int, *, port: int = 80, family: str = "4") -> list[Call]:
    """Make so many short requests as fast as they go."""
    node, container = task
    argv = ["python3", "/srv/call.py", host, str(port), "--count", str(count), "--family", family]
    done = node.docker("exec", container, *argv, timeout=180)
    return [Call(*one) for one in json.loads(done.stdout)]


class Calls:
    """While entered, short requests from a task, each on a connection of its own; afterwards `made`."""

    def __init__(
        self, task: Task, host: str, *options: str, port: int = 80, pause: float = 0.02, timeout: float = 2.0
    ) -> None:
        node, container = task
        argv = ["python3", "/srv/call.py", host, str(port), *options, "--pause", str(pause)]
        self._command = node.docker_command("exec", "-i", container, *argv, "--timeout", str(timeout))
        self.made: list[Call] = []

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self._process.stderr is not None
        if "calling" not in (line := self._process.stderr.readline()):
            raise LabError(f"call.py did not start: {line}")
        return self

    def __exit__(self, *_: object) -> None:
        said, wrong = self._process.communicate("", timeout=60)
        if self._process.returncode != 0:
            raise LabError(f"call.py: {wrong}")
        self.made = sorted((Call(*one) for one in json.loads(said)), key=lambda call: call.began)

    def failed(self) -> list[Call]:
        return [call for call in self.made if call.who is None]


def probe(task: Task, targets: Iterable[tuple[str, str, int]], *options: str) -> list[tuple[str, float]]:
    """What comes of trying each (protocol, address, port) from a task: `open`, `refused` or `silent`, and seconds."""
    node, container = task
    argv = ["python3", "/srv/probe.py", *options]
    done = node.docker("exec", "-i", container, *argv, stdin=json.dumps(list(targets)), timeout=300)
    return [(outcome, seconds) for outcome, seconds in json.loads(done.stdout)]


def event_time(task: Task, event: str, what: str, since: float, *, seconds: float = 30.0) -> float:
    """When Docker first said of a container that this happened, in seconds since the epoch.

    Raises:
        LabError: it did not since then, nor within so many seconds from now.
    """
    node, container = task
    found: list[float] = []

    def said() -> bool:
        argv = ["events", "--since", f"{since:.9f}", "--until", f"{time.time():.9f}", "--filter", f"event={event}"]
        shown = node.docker(
            *argv, "--filter", f"container={container}", "--format", "{{.TimeNano}} {{.Status}}"
        ).stdout
        found[:] = [int(line.split()[0]) / 1e9 for line in shown.splitlines() if what in line]
        return bool(found)

    process.wait_for(f"{what} of {container}", said, seconds=seconds, every=0.3)
    return min(found)


def hostname(task: Task) -> str:
    """What the task calls itself: Docker's short id."""
    return task[1][:12]


def addresses(task: Task) -> dict[int, str]:
    """A task's own addresses in the mesh, by IP version."""
    node, container = task
    shown = json.loads(node.docker("exec", container, "ip", "-json", "address", "show").stdout)
    return {
        6 if ":" in address["local"] else 4: address["local"]
        for link in shown
        if link.get("ifname", "").startswith("lw")
        for address in link["addr_info"]
        if address["scope"] == "global"
    }


def resolved(task: Task, name: str) -> dict[int, str]:
    """What a name in the task's hosts file leads to, by IP version."""
    node, container = task
    lines = node.docker("exec", container, "cat", "/etc/hosts").stdout.splitlines()
    found = [line.split() for line in lines if name in line.partition("#")[0].split()[1:]]
    return {6 if ":" in address else 4: address for address, *_ in found}
