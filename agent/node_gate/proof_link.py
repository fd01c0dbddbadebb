"""Proof link: the two programs by which `docker linkwire install` proves that links carry traffic.

    linkwire-agent answer   tells everybody who connects which node it is on
    linkwire-agent ask      connects to each of them by the link's name, until each node has answered

`ask` prints what `agent.node_gate.node_jobs` prints. Both are tasks like any user's, with no right and no file of
the agent's.
"""

from __future__ import annotations

import json
import signal
import socket
import sys
import time
from collections.abc import Mapping

PORT = 7777
NAME = "answer"
"""The service that answers, and so the link's name."""
_CONNECT_S = 2.0
_PAUSE_S = 0.2
_LONGEST = 300  # bytes of a node's name; Linux has hostnames of 64


def run(command: str, environ: Mapping[str, str]) -> int:
    """Run one of the two; return the exit code.

    Args:
        command: `answer` or `ask`.
        environ: LINKWIRE_NODE and LINKWIRE_NODE_ID say where this is; `ask` has LINKWIRE_SECONDS too, and
            LINKWIRE_NODES, in JSON the names of the nodes that are to answer, or how many.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if command == NAME:
        answer(environ["LINKWIRE_NODE"])
    nodes = json.loads(environ["LINKWIRE_NODES"])
    count = nodes if isinstance(nodes, int) else len(nodes)
    seconds = float(environ["LINKWIRE_SECONDS"])
    answered, error = ask(count, seconds)
    problems = []
    if len(answered) < count:
        named = sorted(set(nodes) - answered) if isinstance(nodes, list) else [f"{count - len(answered)} more"]
        missing = ", ".join(named)
        problems.append(f"over a link of its own no answer came in {seconds:g} s from {missing} ({error})")
    print(json.dumps({"node": environ["LINKWIRE_NODE_ID"], "problems": problems}), flush=True)  # noqa: T201
    return 1 if problems else 0


def answer(node: str) -> None:
    """Tell whoever connects the node's name, until the process is ended."""
    with socket.create_server(("", PORT)) as listening:
        while True:
            connection, _ = listening.accept()
            with connection:
                connection.sendall(f"{node}\n".encode())


def ask(count: int, seconds: float) -> tuple[set[str], str]:
    """Connect to every address of the link's name until so many nodes have answered.

    Returns:
        The names of those that did within the time; and the last thing that went wrong, in words.
    """
    deadline = time.monotonic() + seconds
    answered: set[str] = set()
    error = "its name is not known"
    while len(answered) < count and time.monotonic() < deadline:
        try:
            targets = socket.getaddrinfo(NAME, PORT, socket.AF_INET, socket.SOCK_STREAM)
        except OSError as failed:
            targets, error = [], f"the name {NAME}: {failed.strerror}"
        for *_, target in targets:
            try:
                with socket.create_connection((str(target[0]), PORT), _CONNECT_S) as connection:
                    answered.add(connection.makefile("rb").readline(_LONGEST).decode("utf-8", "replace").strip())
            except OSError as failed:
                error = f"{target[0]}: {failed.strerror or failed}"
        time.sleep(_PAUSE_S)
    return answered - {""}, error
