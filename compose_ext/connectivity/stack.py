"""The stack of the connectivity test: its compose file, and how it is deployed and removed.

On every node one task asks, over the link, the tasks that answer on all nodes. So each node is proven as a consumer
and as a provider, by the image, compose language, controller, agents and nodes that the user's links have.
"""

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from compose_ext.diagnostics import DockerError, Report
from compose_ext.docker_cli import Docker, private_files
from compose_ext.language.compose_files import Named, open_all
from compose_ext.language.override import compile_override, dump
from compose_ext.swarm import node_jobs
from compose_ext.swarm.compose_handover import handed
from compose_ext.swarm.listings import TIMEOUT

PROGRAM = "linkwire-connectivity"
"""In the agent's image."""
ASK, ROLLED, STRANGER = "ask", "rolled", "stranger"
MOST = 20
"""Nodes that take part. Each asks each: more would be a load, and prove nothing more of the image."""
SECONDS = 90.0
"""Unless another time is said."""
GENERATION = "LINKWIRE_GENERATION"
"""The variable whose change is the rolling update."""
_PORT = 7777
_BRIDGE = "bridge"
_REPLICAS = 3
_GONE = 60.0


@dataclass(frozen=True, slots=True)
class Plan:
    """A test to deploy.

    Attributes:
        stack: its name.
        image: of the agent.
        nodes: names of those that take part.
        thorough: all cases, and not the link alone.
        load: a rolling update under load, too.
        seconds: from the tasks' start until each must have had all answers.
    """

    stack: str
    image: str
    nodes: Sequence[str]
    thorough: bool = False
    load: bool = False
    seconds: float = SECONDS

    @property
    def count(self) -> int:
        """How many nodes take part; where it is fewer than there are, Swarm chooses."""
        return min(len(self.nodes), MOST)


def deploy(docker: Docker, plan: Plan) -> None:
    """Deploy the stack. Raises DockerError."""
    report = Report()
    with private_files({"test.yml": compose(plan).encode()}) as paths:
        files = open_all(Named((paths["test.yml"],)), report)
        override = compile_override(files.links, plan.stack, report) if files.links else {}
        if report.errors:
            raise DockerError(f"the test's own compose file is wrong: {report.errors[0]}")
        with handed(docker, files.sources, dump(override)) as handover:
            flags = ["--with-registry-auth", "--resolve-image=never"]
            words = ["stack", "deploy", *handover.arguments, *flags, plan.stack]
            handover.docker.ask(words, node_jobs.CREATE_TIMEOUT, handover.stdin)


def remove(docker: Docker, stack: str) -> None:
    """Remove the stack, if there is one, and wait until Swarm no longer lists it. Raises DockerError."""
    wanted = f"label=com.docker.stack.namespace={stack}"
    deadline = time.monotonic() + _GONE
    while (
        docker.ask(["service", "ls", "--quiet", "--filter", wanted], TIMEOUT).split()
        or docker.ask(["network", "ls", "--quiet", "--filter", wanted], TIMEOUT).split()
    ):
        if time.monotonic() > deadline:
            raise DockerError(f"the stack {stack} is still there after {_GONE:g} s: docker stack rm {stack}")
        with suppress(DockerError):  # a network whose tasks are still ending
            docker.ask(["stack", "rm", stack], TIMEOUT)
        time.sleep(0.5)


def compose(plan: Plan) -> str:
    """Return the compose file, in JSON."""
    spread: dict[str, Any] = {"mode": "global"}
    expected: object = sorted(plan.nodes)
    if len(plan.nodes) > MOST:
        spread, expected = {"replicas": MOST, "placement": {"max_replicas_per_node": 1}}, MOST
    where = {"LINKWIRE_NODE": "{{.Node.Hostname}}", "LINKWIRE_NODE_ID": "{{.Node.ID}}"}
    where |= {"LINKWIRE_NODES": json.dumps(expected), "LINKWIRE_SECONDS": f"{plan.seconds:g}"}
    settings = where | ({"LINKWIRE_CASES": "all"} if plan.thorough else {})
    settings |= {"LINKWIRE_LOAD": "1"} if plan.load else {}
    common: dict[str, Any] = {"image": plan.image.replace("$", "$$"), "read_only": True, "cap_drop": ["ALL"]}
    common["networks"] = [_BRIDGE]  # nothing but the link is to be proven
    serving = common | {"entrypoint": [PROGRAM, "serve"], "environment": where}
    once = {"restart_policy": {"condition": "none"}}
    tcp = f"{_PORT}/tcp"
    services = {
        "answer": serving
        | {"deploy": spread | {"endpoint_mode": "dnsrr"}, "x-wireguard": {"expose": [tcp, f"{_PORT}/udp"]}},
        ASK: common
        | {
            "entrypoint": [PROGRAM, "ask"],
            "environment": settings,
            "links": ["answer", ROLLED, "board"] if plan.thorough else ["answer"],
            "deploy": spread | once,
        },
    }
    if plan.thorough:
        # Without it Docker takes a task for ready that does not listen yet.
        healthy = {
            "test": ["CMD", PROGRAM, "healthy"],
            "interval": "1s",
            "timeout": "5s",
            "retries": 9,
        }
        update = {"parallelism": 1, "order": "start-first"}
        replicas = {"replicas": min(_REPLICAS, max(2, plan.count)), "update_config": update}
        services[ROLLED] = serving | {
            "environment": where | {GENERATION: "1"},
            "deploy": replicas,
            "healthcheck": healthy,
            "x-wireguard": {"expose": [tcp]},
        }
        services["board"] = serving | {"deploy": {"replicas": 1}, "x-wireguard": {"expose": [tcp]}}
        services[STRANGER] = common | {
            "entrypoint": [PROGRAM, "stranger"],
            "environment": where,
            "links": ["board"],
            "deploy": spread | once,
        }
    networks = {_BRIDGE: {"external": True, "name": "bridge"}}
    return json.dumps({"version": "3.8", "x-wireguard": {}, "services": services, "networks": networks})
