"""Linkwire on a lab: its stack deployed from built images, the Docker CLI with its plugin, and waiting for both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.lab import checker, images, process
from tests.lab.images import PROJECT, Images
from tests.lab.lab import Lab
from tests.lab.layout import LabError
from tests.lab.node import Node

STACK = "linkwire"
WAIT_S = 90.0
EXAMPLES = PROJECT / "deploy/examples"


@dataclass
class Deployment:
    """Linkwire on a lab.

    Attributes:
        lab: it is up.
        images: built and in its registry.
        settings: more flags of `docker linkwire install`, as LINKWIRE_ADDRESS_REST for --address-rest.
    """

    lab: Lab
    images: Images
    settings: dict[str, str] = field(default_factory=dict)

    def install(self, *, own_etcd: bool, gate: bool = False) -> None:
        """`docker linkwire install`, and wait until every node has a wired-up agent.

        Args:
            own_etcd: with the stack's own etcd on the manager, else on the lab's, which can be killed at will.
            gate: put the start gate into every node as well.
        """
        flags = {"image": self.images.linkwire} | (
            {} if own_etcd else {"etcd": f"http://{self.lab.etcd_endpoint}", "etcd-insecure": "true"}
        )
        flags |= {
            key.removeprefix("LINKWIRE_").lower().replace("_", "-"): text for key, text in self.settings.items()
        }
        given = [f"--{name}={text}" for name, text in flags.items()] + (["--gate"] if gate else [])
        self.linkwire("install", *given, seconds=400)
        try:
            process.wait_for("the services to be updated", self.updated, seconds=WAIT_S, every=0.2)
        except LabError as error:
            raise LabError(f"{error}: {self.not_updated()}") from error
        process.wait_for("an agent on every node", self.agents_ready, seconds=WAIT_S, every=0.2)

    def uninstall(self) -> None:
        """Remove it and wait for its containers to end."""
        self.linkwire("uninstall", "--yes")
        process.wait_for("linkwire's containers to end", lambda: not self._containers(STACK), seconds=WAIT_S)

    def updated(self) -> bool:
        """Whether Swarm has replaced every task that an update of the stack replaces."""
        return not self.not_updated()

    def not_updated(self) -> str:
        """What Swarm has still to do, the first that is found; empty when it has done all."""
        for service in self.lab.manager.get("/services"):
            status = service.get("UpdateStatus") or {"State": "completed"}
            if status["State"] != "completed":
                return f"{service['Spec']['Name']}: {status}"
        return checker.unsettled(self.lab)

    def agents_ready(self) -> bool:
        """Whether an agent of every running node has said so in the store, and a controller leads."""
        try:
            found = {node.name for node in self.lab.nodes if node.is_up() and self.inspect_from(node) is not None}
        except LabError:
            return False
        return found == {node.name for node in self.lab.nodes if node.is_up()}

    def inspect_from(self, node: Node) -> dict[str, Any] | None:
        """What the agent of a node answers to `linkwire-agent inspect`; None while it cannot."""
        container = self.agent(node)
        if container is None:
            return None
        done = node.docker("exec", container, "linkwire-agent", "inspect", check=False)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def agent(self, node: Node) -> str | None:
        """The id of a node's running agent container."""
        found = node.docker("ps", "--quiet", "--no-trunc", "--filter", "label=linkwire.role=agent").stdout.split()
        return found[0] if found else None

    def linkwire(
        self, *args: str, env: Mapping[str, str] | None = None, node: Node | None = None, seconds: float = 120
    ) -> str:
        """`docker linkwire ARGS` against the manager, with the examples' images in the environment; what it prints.

        Raises:
            LabError: it failed; with what it said.
        """
        done = self.try_linkwire(*args, env=env, node=node, seconds=seconds)
        if done.returncode != 0:
            raise LabError(f"docker linkwire {' '.join(args)}: exit code {done.returncode}: {done.stderr[-2000:]}")
        return done.stdout

    def try_linkwire(
        self, *args: str, env: Mapping[str, str] | None = None, node: Node | None = None, seconds: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """The same, and it may fail."""
        with tempfile.TemporaryDirectory(prefix="linkwire-docker-") as folder:
            plugins = Path(folder) / "cli-plugins"
            plugins.mkdir()
            (plugins / "docker-linkwire").symlink_to(Path(sys.executable).parent / "docker-linkwire")
            environment = {**os.environ, "DOCKER_CONFIG": folder, **self.example_images(), **(env or {})}
            return (node or self.lab.manager).docker("linkwire", *args, env=environment, check=False, timeout=seconds)

    def example_images(self) -> dict[str, str]:
        """The variables by which the examples take other images than the public ones."""
        names = ("WEB_IMAGE", "CLIENT_IMAGE", "FRONT_IMAGE", "CADDY_IMAGE", "APP_IMAGE", "REDIS_IMAGE")
        return dict.fromkeys(names, self.images.demo)

    def deploy(self, stack: str, compose: str | Path, env: Mapping[str, str] | None = None) -> None:
        """`docker linkwire deploy` of a compose file or of a compose text."""
        if isinstance(compose, Path):
            self.linkwire("deploy", "-c", str(compose), stack, env=env)
            return
        with tempfile.TemporaryDirectory(prefix="linkwire-compose-") as folder:
            path = Path(folder) / "docker-compose.yml"
            path.write_text(compose)
            self.linkwire("deploy", "-c", str(path), stack, env=env)

    def remove(self, *stacks: str) -> None:
        """`docker stack rm`, until Swarm has no container of any of them."""
        if not stacks:
            return
        self.lab.manager.docker("stack", "rm", *stacks)
        ended = f"the containers of {', '.join(stacks)} to end"
        process.wait_for(ended, lambda: not any(map(self._containers, stacks)), seconds=WAIT_S, every=0.2)

    def ps(self, stack: str) -> dict[str, Any]:
        """`docker linkwire ps STACK --format json`."""
        answer: dict[str, Any] = json.loads(self.linkwire("ps", stack, "--format", "json"))
        return answer

    def wait_connected(self, stack: str, seconds: float = WAIT_S) -> dict[str, Any]:
        """Wait until every pair of every link of a stack is connected, as measured; what `ps` then says."""
        deadline = time.monotonic() + seconds
        while True:
            answer = self.ps(stack)
            pairs = [pair for link in answer["links"] for pair in link["pairs"]]
            if pairs and all(pair["state"] == "connected" for pair in pairs):
                return answer
            if time.monotonic() > deadline:
                raise LabError(f"waited {seconds:.0f} s for the links of {stack}: {json.dumps(answer)[:3000]}")
            time.sleep(0.5)

    def tasks(self, service: str) -> list[tuple[Node, str]]:
        """The running task containers of a service: node and container id."""
        found: list[tuple[Node, str]] = []
        for node in self.lab.nodes:
            if node.is_up():
                labels = f"label=com.docker.swarm.service.name={service}"
                ids = node.docker("ps", "--quiet", "--no-trunc", "--filter", labels).stdout.split()
                found.extend((node, container) for container in ids)
        return found

    def wait_running(self, service: str, count: int, seconds: float = WAIT_S) -> list[tuple[Node, str]]:
        """Wait until a service has exactly so many running tasks; them."""
        tasks: list[tuple[Node, str]] = []

        def are_there() -> bool:
            tasks[:] = self.tasks(service)
            return len(tasks) == count

        process.wait_for(f"{count} tasks of {service}", are_there, seconds=seconds, every=0.2)
        return tasks

    def logged(self, service: str) -> str:
        """What every running task of a service has said, asked of the nodes.

        Not `docker service logs`: it waits for every node that the service ever ran on, now and then for ever.
        """
        done = [node.docker("logs", container) for node, container in self.tasks(service)]
        return "".join(one.stdout + one.stderr for one in done)

    def _containers(self, stack: str) -> list[str]:
        found: list[str] = []
        for node in self.lab.nodes:
            if node.is_up():
                labels = f"label=com.docker.stack.namespace={stack}"
                found += node.docker("ps", "--all", "--quiet", "--filter", labels).stdout.split()
        return found


def deployed(
    lab: Lab, settings: Mapping[str, str] | None = None, *, own_etcd: bool, gate: bool = False
) -> Deployment:
    """Build the images and install Linkwire on a lab."""
    deployment = Deployment(lab, images.build_all(lab), dict(settings or {}))
    deployment.install(own_etcd=own_etcd, gate=gate)
    return deployment
