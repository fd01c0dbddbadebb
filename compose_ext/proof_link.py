"""Proves that links carry traffic, with a link of Linkwire's own: a stack for as long as it takes.

On every node one task asks, over the link, the tasks that answer on all nodes. So each node is proven as a consumer
and as a provider, by the image, compose language, controller, agents and nodes that the user's links have.
"""

import io
import json
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from typing import Any

from compose_ext import deploy, node_jobs
from compose_ext.engine import Docker, private_files
from compose_ext.errors import DockerError
from compose_ext.files import Named
from compose_ext.swarm_queries import TIMEOUT

STACK = "linkwire-proof"
SECONDS = 90.0
"""From the tasks' start until each must have had all answers."""
MOST = 20
"""Nodes that take part. Each asks each: more would be a load, and prove nothing more of the image."""
_STARTING = 60.0
_PORT = 7777
_BRIDGE = "bridge"
_GONE = 60.0


class _Quiet(Docker):
    """The same docker, whose output is not the user's."""

    def run(self, arguments: Sequence[str], stdin: bytes | None = None) -> int:
        """Run a command. Raises DockerError where it fails."""
        self.ask(arguments, node_jobs.CREATE_TIMEOUT, stdin)
        return 0


def prove(docker: Docker, image: str, say: Callable[[str], None]) -> list[node_jobs.Outcome]:
    """Have every node ask every node over a link.

    Args:
        docker: a manager's.
        image: of the agent.
        say: is told what is waited for.

    Returns:
        An outcome a node, by name. Nothing of the stack is left.

    Raises:
        DockerError: Docker failed.
    """
    nodes = node_jobs.active(docker)
    remove(docker)
    quiet = _Quiet(docker.program, docker.flags)
    began = time.monotonic()
    try:
        text = _compose(image, sorted(nodes.values())).encode()
        flags = ["--with-registry-auth", "--resolve-image=never"]
        with (
            private_files({"proof.yml": text}) as files,
            redirect_stderr(io.StringIO()),
            redirect_stdout(io.StringIO()),
        ):
            deploy.deploy(quiet, Named((files["proof.yml"],)), STACK, flags, alone=True)
        if len(nodes) > MOST:
            return _of_some(docker, nodes, say)
        return node_jobs.outcomes(docker, f"{STACK}_ask", nodes, SECONDS + _STARTING, say)
    finally:
        remove(docker)
        say(f"its own link was tried for {time.monotonic() - began:.0f} s and is removed")


def _of_some(docker: Docker, nodes: dict[str, str], say: Callable[[str], None]) -> list[node_jobs.Outcome]:
    """The outcomes of the nodes that Swarm chose."""
    deadline = time.monotonic() + _STARTING
    chosen: set[str] = set()
    while len(chosen) < MOST and time.monotonic() < deadline:
        chosen = node_jobs.places(docker, f"{STACK}_ask")
        time.sleep(1)
    asking = {node: name for node, name in nodes.items() if node in chosen}
    return node_jobs.outcomes(docker, f"{STACK}_ask", asking, SECONDS + _STARTING, say)


def remove(docker: Docker) -> None:
    """Remove the stack, if it is there, and wait until Swarm has forgotten it. Raises DockerError."""
    wanted = f"label=com.docker.stack.namespace={STACK}"
    deadline = time.monotonic() + _GONE
    while (
        docker.ask(["service", "ls", "--quiet", "--filter", wanted], TIMEOUT).split()
        or docker.ask(["network", "ls", "--quiet", "--filter", wanted], TIMEOUT).split()
    ):
        if time.monotonic() > deadline:
            raise DockerError(f"the stack {STACK} is still there after {_GONE:g} s: docker stack rm {STACK}")
        with suppress(DockerError):  # a network whose tasks are still ending
            docker.ask(["stack", "rm", STACK], TIMEOUT)
        time.sleep(0.5)


def _compose(image: str, nodes: Sequence[str]) -> str:
    spread: dict[str, Any] = {"mode": "global"}
    expected: object = list(nodes)
    if len(nodes) > MOST:
        spread, expected = {"replicas": MOST, "placement": {"max_replicas_per_node": 1}}, MOST
    where = {"LINKWIRE_NODE": "{{.Node.Hostname}}", "LINKWIRE_NODE_ID": "{{.Node.ID}}"}
    told = {"LINKWIRE_NODES": json.dumps(expected), "LINKWIRE_SECONDS": f"{SECONDS:g}"}
    common: dict[str, Any] = {"image": image.replace("$", "$$"), "read_only": True, "cap_drop": ["ALL"]}
    common["networks"] = [_BRIDGE]  # nothing but the link is to be proven
    answering = common | {
        "entrypoint": ["linkwire-agent", "answer"],
        "environment": where,
        "deploy": spread | {"endpoint_mode": "dnsrr"},
        "x-wireguard": {"expose": [f"{_PORT}/tcp"]},
    }
    asking = common | {
        "entrypoint": ["linkwire-agent", "ask"],
        "environment": where | told,
        "links": ["answer"],
        "deploy": spread | {"restart_policy": {"condition": "none"}},
    }
    services = {"answer": answering, "ask": asking}
    networks = {_BRIDGE: {"external": True, "name": "bridge"}}
    return json.dumps({"version": "3.8", "x-wireguard": {}, "services": services, "networks": networks})
