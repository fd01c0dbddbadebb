"""Kills Linkwire's processes at random moments, as a crash would: SIGKILL, by their own pids."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import threading
from collections import Counter
from typing import Self
from urllib.parse import quote

from tests.lab import Lab
from tests.lab.node import UnreachableError

AGENT = "agent"
WORKER = "worker"
CONTROLLER = "controller"
VICTIMS = (AGENT, WORKER, CONTROLLER)


class Killer:
    """While entered, kills one of Linkwire's processes every now and then; counts what it killed.

    The victims: an agent's container (its first process, so that all of it ends), an agent's worker (which the first
    process starts again), a controller's container (mostly the leading one's, as often as not).
    """

    def __init__(self, lab: Lab, kills: int, seed: int, least: float = 0.2, most: float = 2.5) -> None:
        """Prepare to kill so often, `least` to `most` seconds apart, in the order that the seed gives."""
        self._lab = lab
        self._left = kills
        self._random = random.Random(seed)  # noqa: S311 - a seed, so that a run can be made again
        self._pause = (least, most)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="killer", daemon=True)
        self.killed: Counter[str] = Counter()

    @property
    def left(self) -> int:
        """How many kills are still to come."""
        return self._left

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def wait(self, seconds: float) -> None:
        """Wait until every kill has been made."""
        self._thread.join(seconds)

    def _run(self) -> None:
        while self._left and not self._stopped.wait(self._random.uniform(*self._pause)):
            victim = self._random.choice(VICTIMS)
            pids = processes(self._lab, victim)
            if pids:
                with contextlib.suppress(ProcessLookupError):  # it ended by itself just now
                    os.kill(self._random.choice(pids), signal.SIGKILL)
                    self.killed[victim] += 1
                    self._left -= 1


def processes(lab: Lab, victim: str) -> list[int]:
    """Pids, in the machine's own pid namespace, of every agent, worker or controller that runs now."""
    found: list[int] = []
    role = CONTROLLER if victim == CONTROLLER else AGENT
    query = quote(json.dumps({"label": [f"linkwire.role={role}"]}))
    for node in lab.nodes:
        try:
            listed = node.get(f"/containers/json?filters={query}")
            firsts = [int(node.get(f"/containers/{one['Id']}/json")["State"]["Pid"]) for one in listed]
        except UnreachableError:
            continue
        found += [pid for pid in firsts if pid > 1] if victim != WORKER else _workers(firsts)
    return found


def _workers(firsts: list[int]) -> list[int]:
    """The agent processes below supervisors: their children that run Python, not wireguard-go."""
    found: list[int] = []
    for first in firsts:
        try:
            with open(f"/proc/{first}/task/{first}/children", encoding="ascii") as file:  # noqa: PTH123 - procfs
                children = [int(pid) for pid in file.read().split()]
            found += [pid for pid in children if "agent" in _command(pid)]
        except OSError:
            continue
    return found


def _command(pid: int) -> str:
    with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - procfs
        return file.read()
