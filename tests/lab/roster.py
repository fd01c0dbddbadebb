"""Who held which address outside the mesh, and from when to when its program ran: asked of Docker over and over."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from typing import Any, Self
from urllib.parse import quote

from tests.lab.lab import Lab
from tests.lab.node import Node, UnreachableError

EVERY_S = 0.2


class Roster:
    """While entered, follows the running containers of a stack on every node."""

    def __init__(self, lab: Lab, stack: str) -> None:
        self._lab = lab
        self._filters = quote(json.dumps({"label": [f"com.docker.stack.namespace={stack}"], "status": ["running"]}))
        self._spans: dict[tuple[str, str, str], list[float]] = {}
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._follow, args=(node,), daemon=True) for node in lab.nodes]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def held(self, node: str | None, address: str, at: float, margin: float) -> str | None:
        """The container that ran with that address, from `margin` seconds before until as many after the moment.

        Of a node's own network only that node's are meant; without a node, of a network that all share.
        """
        for (where, container, own), (first, last) in self._spans.items():
            if own == address and node in (None, where) and first <= at - margin and at + margin <= last:
                return container
        return None

    def _follow(self, node: Node) -> None:
        while not self._stopped.wait(EVERY_S):
            with contextlib.suppress(UnreachableError):
                asked = time.time()
                listed: list[dict[str, Any]] = node.get(f"/containers/json?filters={self._filters}")
                for one in listed:
                    for end in one["NetworkSettings"]["Networks"].values():
                        key = (node.name, one["Names"][0].removeprefix("/"), end["IPAddress"])
                        # It ran when the answer was made, which is after it was asked for.
                        self._spans.setdefault(key, [time.time(), asked])[1] = asked
