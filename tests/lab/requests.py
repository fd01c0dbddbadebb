"""Counts requests that are lost over a link while something is being broken."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.lab import process
from tests.lab.node import Node

# One new connection every 20 ms, each with 1 s to answer, until the file /tmp/stop is there (or 5 minutes have gone).
PROGRAM = """
import json, os, sys, time, urllib.request
url, ok, lost, first, last, why = sys.argv[1], 0, 0, None, None, {}
end = time.monotonic() + 300
while not os.path.exists("/tmp/stop") and time.monotonic() < end:
    began = time.time()
    try:
        urllib.request.urlopen(url, timeout=1).read()
        ok += 1
    except Exception as error:
        lost += 1
        first, last = first or began, time.time()
        why[str(error)] = why.get(str(error), 0) + 1
    time.sleep(0.02)
gap = last - first if lost else 0.0
open("/tmp/counted", "w").write(json.dumps({"ok": ok, "lost": lost, "gap": gap, "why": why}))
"""


@dataclass(frozen=True, slots=True)
class Counted:
    """What came of it.

    Attributes:
        ok: requests that were answered.
        lost: requests that were not.
        gap: seconds from the first lost one's start to the last one's end.
        why: how often each error came.
    """

    ok: int
    lost: int
    gap: float
    why: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        errors = ", ".join(f"{count} x {text}" for text, count in self.why.items())
        return f"{self.lost} of {self.ok + self.lost} requests lost" + (
            f" in {self.gap:.1f} s: {errors}" if self.lost else ""
        )


class Requests:
    """While entered, requests from a task of a service over a link; afterwards `counted`."""

    def __init__(self, node: Node, container: str, url: str) -> None:
        """Prepare to request `url` from a container on a node."""
        self._node = node
        self._container = container
        self._url = url
        self.counted = Counted(0, 0, 0.0)

    def __enter__(self) -> Requests:  # noqa: PYI034 - final
        self._node.docker("exec", self._container, "rm", "-f", "/tmp/stop", "/tmp/counted")  # noqa: S108 - in the container
        self._node.docker("exec", "--detach", self._container, "python3", "-c", PROGRAM, self._url)
        time.sleep(1)
        return self

    def __exit__(self, *_: object) -> None:
        self._node.docker("exec", self._container, "touch", "/tmp/stop")  # noqa: S108 - in the container
        said: list[str] = []

        def ended() -> bool:
            done = self._node.docker("exec", self._container, "cat", "/tmp/counted", check=False)  # noqa: S108
            said[:] = [done.stdout]
            return bool(done.stdout)

        process.wait_for("the requests to be counted", ended, seconds=20, every=0.2)
        self.counted = Counted(**json.loads(said[0]))
