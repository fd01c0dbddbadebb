"""Words of `status` while something else is being broken: does it call a link broken that works?"""

from __future__ import annotations

import json
import threading
from typing import Self

from tests.lab.deployment import Deployment
from tests.lab.node import Node

EVERY_S = 4.0


class Words:
    """While entered, `docker linkwire status` is asked every few seconds; afterwards `false`.

    Args:
        deployment: with a stack none of whose links is broken.
        stack: its name.
        node: whose Docker is asked; the manager's, if not given.
    """

    def __init__(self, deployment: Deployment, stack: str, node: Node | None = None) -> None:
        self._deployment, self._stack, self._node = deployment, stack, node
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self.asked = 0
        self.false: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._ends.wait(EVERY_S):
            done = self._deployment.try_linkwire("status", "--format", "json", node=self._node)
            try:
                findings = json.loads(done.stdout)["findings"]
            except ValueError:
                continue  # it says that it knows nothing
            self.asked += 1
            self.false += [
                found["text"]
                for found in findings
                if found["severity"] == "broken" and f"{self._stack}_" in found["text"]
            ]
