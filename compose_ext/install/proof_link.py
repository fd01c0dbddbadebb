"""Proof that links carry traffic: a short-lived stack with a link of its own.

On every node one task asks, over the link, the tasks that answer on all nodes. So each node is proven as a consumer
and as a provider, by the image, compose language, controller, agents and nodes that the user's links have.
"""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from compose_ext.diagnostics import DockerError, Report
from compose_ext.docker_cli import Docker, private_files
from compose_ext.language.compose_files import Named, open_all
from compose_ext.language.override import compile_override, dump
from compose_ext.swarm import node_jobs
from compose_ext.swarm.handover import handed
from compose_ext.swarm.queries import TIMEOUT

STACK = "linkwire-proof"
SECONDS = 90.0
"""From the tasks' start until each must have had all answers."""
MOST = 20
"""Nodes that take part. Each asks each: more would be a load, and prove nothing more of the image."""
_STARTING = 60.0
_PORT = 7777
_BRIDGE = "bridge"
_GONE = 60.0


def prove(docker: Docker, image: str, say: Callable[[str], None]) -> list[node_jobs.Outcome]:
    """Have every node ask every node over a link.

    Args:
        docker: a manager's.
        image: of the agent.
        say: prints a line of progress.

    Returns:
        An outcome a node, by name. Nothing of the stack is left.

    Raises:
        DockerError: Docker failed.
    """
    nodes = node_jobs.active(docker)
    remove(docker)
    began = time.monotonic()
    try:
        _deploy(docker, _compose(image, sorted(nodes.values())))
        if len(nodes) > MOST:
            return _of_some(docker, nodes, say)
        return node_jobs.outcomes(docker, f"{STACK}_ask", nodes, SECONDS + _STARTING, say)
    finally:
        remove(docker)
        say(f"the test link ran for {time.monotonic() - began:.0f} s and is removed")


def _deploy(docker: Docker, text: str) -> None:
    report = Report()
    with private_files({"proof.yml": text.encode()}) as paths:
        files = open_all(Named((paths["proof.yml"],)), report)
        override = compile_override(files.links, STACK, report) if files.links else {}
        if report.errors:
            raise DockerError(f"the proof's own compose file is wrong: {report.errors[0]}")
        with handed(docker, files.sources, dump(override)) as handover:
            flags = ["--with-registry-auth", "--resolve-image=never"]
            words = ["stack", "deploy", *handover.arguments, *flags, STACK]
            handover.docker.ask(words, node_jobs.CREATE_TIMEOUT, handover.stdin)


def _of_some(docker: Docker, nodes: dict[str, str], say: Callable[[str], None]) -> list[node_jobs.Outcome]:
    """Return the outcomes of the nodes that Swarm chose."""
    deadline = time.monotonic() + _STARTING
    chosen: set[str] = set()
    while len(chosen) < MOST and time.monotonic() < deadline:
        chosen = node_jobs.places(docker, f"{STACK}_ask")
        time.sleep(1)
    asking = {node: name for node, name in nodes.items() if node in chosen}
    return node_jobs.outcomes(docker, f"{STACK}_ask", asking, SECONDS + _STARTING, say)


def remove(docker: Docker) -> None:
    """Remove the stack, if there is one, and wait until Swarm no longer lists it. Raises DockerError."""
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
    settings = {"LINKWIRE_NODES": json.dumps(expected), "LINKWIRE_SECONDS": f"{SECONDS:g}"}
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
        "environment": where | settings,
        "links": ["answer"],
        "deploy": spread | {"restart_policy": {"condition": "none"}},
    }
    services = {"answer": answering, "ask": asking}
    networks = {_BRIDGE: {"external": True, "name": "bridge"}}
    return json.dumps({"version": "3.8", "x-wireguard": {}, "services": services, "networks": networks})
