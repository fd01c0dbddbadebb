"""`linkwire-gate`: the program that `docker linkwire gate` has a Swarm task run on each node."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from agent.node_gate import node
from agent.node_gate.engine import Engine, is_rootless
from agent.node_gate.errors import GateError

SCRIPT = Path("/opt/linkwire/share/linkwire-runc")
"""The gate's script, in the image."""
TASK = "LINKWIRE_TASK"
"""The environment variable with the id of the Swarm task that this is."""


def main() -> None:
    """Work, and print one line of JSON: `gate` ("in", "in part", "leaving" or "out") and `said`, or `refused`."""
    parser = argparse.ArgumentParser(prog="linkwire-gate", description="the start gate of this node's Docker")
    parser.add_argument("action", choices=("install", "remove", "status"))
    parser.add_argument("--wait", type=int, help="seconds for which a start waits to be wired")
    parser.add_argument("--ready-wait", type=int, help="seconds for which a start waits for ready providers")
    parser.add_argument("--on-node", action="store_true", help="this process has the node's rights and processes")
    options = parser.parse_args()
    try:
        answer = _here(options) if options.on_node else _helped()
    except GateError as error:
        answer = json.dumps({"refused": str(error)})
    print(answer)


def _helped() -> str:
    docker = Engine()
    if is_rootless(docker.info()):
        raise GateError(
            "its Docker is rootless, and has no root on the node: Linkwire's agent cannot work there either. Use a "
            "Docker that root runs"
        )
    argv = ["linkwire-gate", *sys.argv[1:], "--on-node"]
    return docker.run_on_node(os.environ.get(TASK, ""), argv).strip()


def _here(options: argparse.Namespace) -> str:
    docker, script = Engine(), SCRIPT.read_text()
    waits = {"LINKWIRE_GATE_SECONDS": options.wait, "LINKWIRE_READY_SECONDS": options.ready_wait}
    match options.action:
        case "install":
            given = {name: seconds for name, seconds in waits.items() if seconds is not None}
            return json.dumps(node.install(docker, script, given))
        case "remove":
            return json.dumps(node.remove(docker))
        case _:
            return json.dumps(node.status(docker, script))
