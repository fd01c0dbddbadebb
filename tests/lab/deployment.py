"""Linkwire on a lab: its stack deployed from built images, the Docker CLI with its plugin, and waiting for both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.lab import checker, images, process
from tests.lab.images import PROJECT, Images
from tests.lab.lab import Lab
from tests.lab.layout import LabError
from tests.lab.node import Node, UnreachableError

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
        plugin: the program `docker-linkwire`.
        staying: names of the stacks that stay until the last test of the file has ended.
    """

    lab: Lab
    images: Images
    settings: dict[str, str] = field(default_factory=dict)
    plugin: Path = Path(sys.executable).parent / "docker-linkwire"
    staying: set[str] = field(default_factory=set)

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
        self.wait_gone(WAIT_S)

    def wait_gone(self, seconds: float = 60.0) -> None:
        """Wait until no container of Linkwire's is left.

        Raises:
            LabError: one is; with each one's state and its last words.
        """
        try:
            process.wait_for("linkwire's containers to end", lambda: not self._containers(STACK), seconds=seconds)
        except LabError as error:
            raise LabError(f"{error}:\n{self._last_words()}") from error

    def _last_words(self) -> str:
        said = []
        for node in self.lab.nodes:
            form = ["--format", "{{.ID}} {{.Names}}: {{.Status}}"]
            of_stack = ["--filter", f"label=com.docker.stack.namespace={STACK}"]
            for line in node.docker("ps", "--all", *of_stack, *form).stdout.splitlines():
                done = node.docker("logs", "--tail", "40", line.split()[0], check=False)
                said.append(f"{node.name}: {line}\n{done.stdout}{done.stderr}")
        return "\n".join(said)

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

    def change(self, service: str, how: str, *flags: str) -> None:
        """`docker service HOW FLAGS` a service of Linkwire's by hand, and wait until all runs so.

        Take a change back by `rollback`: `update` shuffles the variables, and a deployment, which sorts them, would
        replace the tasks.
        """
        self.lab.manager.docker("service", how, "--detach", *flags, service)
        process.wait_for("the service to be changed", self._changed, seconds=120, every=0.5)
        process.wait_for("an agent on every node", self.agents_ready, seconds=WAIT_S, every=0.5)

    def _changed(self) -> bool:
        states = [service.get("UpdateStatus", {}).get("State") for service in self.lab.manager.get("/services")]
        return set(states) <= {None, "completed", "rollback_completed"} and not checker.unsettled(self.lab)

    def agents_ready(self) -> bool:
        """Whether an agent of every running node has said so in the store, and a controller leads."""
        up = [node for node in self.lab.nodes if node.is_up()]
        try:
            # `inspect` starts a whole program, which takes the processor from the agents that are awaited.
            return all(self._ask(node, "linkwire-ask", "links") for node in up) and all(
                self._ask(node, "linkwire-agent", "inspect") for node in up
            )
        except LabError:
            return False

    def _ask(self, node: Node, *words: str) -> dict[str, Any] | None:
        """What a program in the container of a node's agent answers; None while it cannot."""
        container = self.agent(node)
        if container is None:
            return None
        done = node.docker("exec", container, *words, check=False)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def agent(self, node: Node) -> str | None:
        """The id of a node's running agent container."""
        found = _containers_of(node, "linkwire.role=agent")
        return found[0] if found else None

    def linkwire(
        self, *args: str, env: Mapping[str, str] | None = None, node: Node | None = None, seconds: float = 300
    ) -> str:
        """`docker linkwire ARGS` against the manager, with the examples' images in the environment; what it prints.

        Raises:
            LabError: it failed; with what it said.
        """
        done = self.try_linkwire(*args, env=env, node=node, seconds=seconds)
        if done.returncode != 0:
            output = f"{done.stdout[-2000:]}{done.stderr[-2000:]}"
            raise LabError(f"docker linkwire {' '.join(args)}: exit code {done.returncode}: {output}")
        return done.stdout

    def try_linkwire(
        self, *args: str, env: Mapping[str, str] | None = None, node: Node | None = None, seconds: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """The same, and it may fail."""
        with self.plugged_in() as own:
            environment = {**own, **self.example_images(), **(env or {})}
            return (node or self.lab.manager).docker("linkwire", *args, env=environment, check=False, timeout=seconds)

    @contextmanager
    def plugged_in(self) -> Iterator[dict[str, str]]:
        """The environment of a Docker CLI that has this Linkwire as its plugin."""
        with tempfile.TemporaryDirectory(prefix="linkwire-docker-") as folder:
            plugins = Path(folder) / "cli-plugins"
            plugins.mkdir()
            (plugins / "docker-linkwire").symlink_to(self.plugin)
            yield {**os.environ, "DOCKER_CONFIG": folder}

    def example_images(self) -> dict[str, str]:
        """The variables by which the examples take other images than the public ones."""
        names = ("WEB", "CLIENT", "FRONT", "CADDY", "TRAEFIK", "APP", "REDIS")
        return dict.fromkeys((f"{name}_IMAGE" for name in names), self.images.demo)

    def deploy(self, stack: str, compose: str | Path, env: Mapping[str, str] | None = None) -> None:
        """`docker linkwire deploy` of a compose file or of a compose text, without waiting for its links."""
        if isinstance(compose, Path):
            self.linkwire("deploy", "--detach", "-c", str(compose), stack, env=env)
            return
        with tempfile.TemporaryDirectory(prefix="linkwire-compose-") as folder:
            path = Path(folder) / "docker-compose.yml"
            path.write_text(compose)
            self.linkwire("deploy", "--detach", "-c", str(path), stack, env=env)

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

    def events(self, *words: str) -> list[tuple[str, dict[str, str]]]:
        """Kinds and details of the last ten minutes' events; another test may have wiped earlier pages with etcd."""
        told = self.try_linkwire("events", "--since", "10m", "--format", "json", *words)
        lines = [json.loads(line) for line in told.stdout.splitlines()]
        problems = [line["problem"] for line in lines if "problem" in line]
        if told.returncode != bool(problems) or not all("pages are missing: " in problem for problem in problems):
            raise LabError(f"docker linkwire events: exit code {told.returncode}: {problems}: {told.stderr[-2000:]}")
        return [(line["kind"], line["details"]) for line in lines if "problem" not in line]

    def wait_connected(self, stack: str, seconds: float = WAIT_S) -> dict[str, Any]:
        """Wait until every pair of every link of a stack is connected, as measured; what `ps` then says."""
        answer: dict[str, Any] = {}

        def is_connected() -> bool:
            # The same answer by fewer processes: while one has to be awaited they take its processor.
            answer.update(self._ask(self.lab.manager, "linkwire-ask", "links", json.dumps({"stack": stack})) or {})
            if not _are_connected(answer):
                return False
            answer.update(self.ps(stack))
            return _are_connected(answer)

        try:
            process.wait_for(f"the links of {stack}", is_connected, seconds=seconds, every=0.3)
        except LabError as error:
            raise LabError(f"{error}: {json.dumps(answer)[:3000]}") from error
        return answer

    def tasks(self, service: str) -> list[tuple[Node, str]]:
        """The running task containers of a service: node and container id."""
        found: list[tuple[Node, str]] = []
        for node in self.lab.nodes:
            if node.is_up():
                ids = _containers_of(node, f"com.docker.swarm.service.name={service}")
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
                found += _containers_of(node, f"com.docker.stack.namespace={stack}", ended=True)
        return found


def _are_connected(answer: Mapping[str, Any]) -> bool:
    pairs = [pair for link in answer.get("links", ()) for pair in link["pairs"]]
    return bool(pairs) and all(pair["state"] == "connected" for pair in pairs)


def _containers_of(node: Node, label: str, *, ended: bool = False) -> list[str]:
    """The ids of a node's containers that have a label, running ones or all.

    Not by the CLI: nodes are asked several times a second while something is awaited, and a process for each question
    took a third of a processor from those that were awaited.
    """
    filters = quote(json.dumps({"label": [label]}))
    try:
        listed = node.get(f"/containers/json?all={int(ended)}&filters={filters}", seconds=60)
    except UnreachableError as error:
        raise LabError(str(error)) from error
    return [one["Id"] for one in listed]


def deployed(
    lab: Lab, settings: Mapping[str, str] | None = None, *, own_etcd: bool, gate: bool = False
) -> Deployment:
    """Build the images and install Linkwire on a lab."""
    deployment = Deployment(lab, images.build_all(lab), dict(settings or {}))
    deployment.install(own_etcd=own_etcd, gate=gate)
    return deployment
