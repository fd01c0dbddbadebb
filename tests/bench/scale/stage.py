"""Starts what a simulation needs, and ends it: an etcd, the processes, and an ear at the store that counts writes."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mesh.crypto.signed_envelope import peek
from mesh.errors import LinkwireError
from mesh.model import keyspace
from mesh.store.follower import Batch
from mesh.store.watch_stream import Ranges, WatchStream
from tests.bench.scale.world import World
from tests.store.etcd_server import EtcdServer

WITHIN_S = 240.0


class Part:
    """One process (tests.bench.scale.part), which does what it is told."""

    def __init__(self, told: dict[str, Any]) -> None:
        command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "tests.bench.scale.part"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._send(told)
        self._answer()

    def __call__(self, do: str, **words: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever the part understands
        """Tell it, and return its answer."""
        self._send({"do": do, "with": words})
        return self._answer()

    def cpu(self) -> float:
        """Milliseconds of CPU that it has used."""
        return float(self("cost")["cpu"]) * 1000

    def stop(self) -> None:
        """End it in good order, else by force."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _send(self, words: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a process of the simulation ended with {self._process.wait(10)}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@dataclass(slots=True)
class Ear:
    """Hears every change in the store, as bytes; opens only what an endpoint says of itself.

    Attributes:
        writes: keys put or deleted, but for statuses.
        bytes: of these keys and values.
        ready: ids of the tasks whose endpoint is ready.
        keys: task -> its public key.
        ended: task -> when it was last said to be ready no more.
        reports: ids of the tasks that their node reports as wired.
    """

    writes: int = 0
    bytes: int = 0
    ready: set[str] = field(default_factory=set)
    keys: dict[str, str] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    reports: set[str] = field(default_factory=set)

    def follow(self, feed: WatchStream) -> None:
        """Until the feed is closed."""
        with suppress(LinkwireError), closing(feed.batches()) as batches:
            for batch in batches:
                self._take(batch)

    def _take(self, batch: Batch) -> None:
        for change in batch.changes:
            key, value = change.key.decode(), change.value
            if key.startswith(keyspace.STATUS):
                continue
            self.writes += 1
            self.bytes += len(key) + len(value or b"")
            task = key.rpartition("/")[2]
            if key.startswith(keyspace.ENDPOINTS):
                told = json.loads(peek(key, value).body) if value is not None else {}
                self.keys[task] = told.get("public_key", "")
                if told.get("ready"):
                    self.ready.add(task)
                elif task in self.ready:
                    self.ended[task] = time.monotonic()
                    self.ready.discard(task)
            elif key.startswith(keyspace.TASKS) and value is not None and json.loads(peek(key, value).body)["wired"]:
                self.reports.add(task)


def wait_for(found: Callable[[], object], within: float = WITHIN_S) -> None:
    """Wait until something is so.

    Raises:
        RuntimeError: It did not come to be.
    """
    deadline = time.monotonic() + within
    while not found():
        if time.monotonic() > deadline:
            raise RuntimeError("the simulation does not get where it should")
        time.sleep(0.01)


class Stage:
    """A simulated cluster: a controller, some nodes with agents, and the crowd of all others."""

    def __init__(
        self, etcd: EtcdServer, folder: Path, world: World, told: dict[str, Any], nodes: Sequence[str]
    ) -> None:
        """Start the processes, which begin when told to: `told` says how to make the world anew."""
        self.etcd = etcd
        self.world = world
        self._told = {**told, "etcd": etcd.endpoint}
        self._ends = ExitStack()
        self.ear = Ear()
        self.nodes: dict[str, Part] = {}
        self._folder = folder
        self.crowd = self._part(role="crowd", nodes=[node for node in world.nodes if node not in nodes])
        approved = dict(self.crowd("fingerprints")["approved"])
        for node in nodes:
            (folder / node).mkdir()
            self.nodes[node] = self._part(role="node", node=node, folder=str(folder / node))
            approved[node] = self.nodes[node]("fingerprints")["approved"]
        self._approved = approved
        feed = WatchStream((f"127.0.0.1:{etcd.port}",), 5.0, Ranges.of(keyspace.ROOT.encode(), [b""]), None)
        thread = threading.Thread(target=self.ear.follow, args=(feed,), daemon=True)
        thread.start()
        self._ends.callback(feed.close)
        self.controller = self.new_controller()

    def new_controller(self) -> Part:
        """Another controller, which does not begin yet."""
        return self._part(role="controller", approved=self._approved)

    def _part(self, **told: Any) -> Part:  # noqa: ANN401 - whatever the part understands
        part = Part({**self._told, **told})
        self._ends.callback(part.stop)
        return part

    def again(self, node: str) -> Part:
        """The agent of a node, ended and made again on what its node kept; it does not begin yet."""
        self.nodes[node].stop()
        self.nodes[node] = self._part(role="node", node=node, folder=str(self._folder / node))
        return self.nodes[node]

    def fill(self) -> None:
        """Start everything, and wait until every task is ready and every node's tasks are wired."""
        self.crowd("start")
        for node in self.nodes.values():
            node("start")
        self.controller("start")
        wait_for(lambda: len(self.ear.ready) == len(self.world.tasks))
        self.settle()

    def settle(self) -> None:
        """Wait until nobody writes any more."""
        since, last = time.monotonic(), self.ear.writes
        while time.monotonic() < since + 0.5:
            time.sleep(0.02)
            if self.ear.writes != last:
                since, last = time.monotonic(), self.ear.writes

    def close(self) -> None:
        """End all of it."""
        self._ends.close()


@contextmanager
def staged(world: World, told: dict[str, Any], nodes: Sequence[str]) -> Iterator[Stage]:
    """A filled cluster on an etcd of its own."""
    with tempfile.TemporaryDirectory(prefix="linkwire-bench-") as name, EtcdServer(Path(name)) as etcd:
        stage = Stage(etcd, Path(name), world, told, nodes)
        try:
            stage.fill()
            yield stage
        finally:
            stage.close()
