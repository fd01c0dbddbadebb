"""One process of the simulation: a controller, a node with an agent, or the crowd of other nodes.

It obeys lines of JSON on its standard input and answers each with one: so its CPU is its own, and can be asked for.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from controller.loop import Controller
from controller.swarm.model import Swarm
from controller.swarm.poller import SwarmPoller
from controller.transactions import Packed
from mesh.crypto.preshared_keys import LinkSeed
from mesh.crypto.signed_envelope import Signer
from mesh.integrity.record_signing import RecordSigner
from mesh.model.snapshot import Holds, Snapshot
from mesh.process.log_setup import configure
from mesh.process.wakeup import Wake
from mesh.store.client import Store
from tests.bench.scale import world as worlds
from tests.bench.scale.crowd import Crowd
from tests.bench.scale.node import KEYRING, SEEN, SIGNING_KEY, SimulatedNode, local
from tests.bench.scale.profile import Profile

SUBNET = IPv4Network("100.96.0.0/16")
Answer = dict[str, Any]


class _Watched(Controller):
    """The controller, which tells how often it has decided and when it last found something, or nothing, to do."""

    passes = 0
    quiet_at = 0.0
    """When it first found nothing to do after it had."""
    waited_from = 0.0
    waited_to = 0.0
    """When it began, and ceased, to wait for nodes to be heard."""
    foresaw = 0.0
    """Seconds of that in which it judged and planned."""

    def watch(self) -> None:
        """Measure from now on."""
        self._startup.check = self._checked(self._startup.check)  # type: ignore[assignment, method-assign]
        self._decider.prepare = self._prepared(self._decider.prepare)  # type: ignore[assignment, method-assign]
        self._decider.decide = self._decided(self._decider.decide)  # type: ignore[assignment, method-assign]

    def _checked(self, check: Callable[[Snapshot, Sequence[str]], bool]) -> Callable[[Snapshot, Sequence[str]], bool]:
        def checked(stored: Snapshot, up: Sequence[str]) -> bool:
            waits = check(stored, up)
            if waits:
                self.waited_from = self.waited_from or time.monotonic()
            elif self.waited_from and not self.waited_to:
                self.waited_to = time.monotonic()
            return waits

        return checked

    def _prepared(
        self, prepare: Callable[[Snapshot, Swarm, Holds], None]
    ) -> Callable[[Snapshot, Swarm, Holds], None]:
        def prepared(stored: Snapshot, swarm: Swarm, token: Holds) -> None:
            began = time.monotonic()
            prepare(stored, swarm, token)
            self.foresaw += time.monotonic() - began

        return prepared

    def _decided(
        self, decide: Callable[[Snapshot, Swarm], tuple[Packed, bool]]
    ) -> Callable[[Snapshot, Swarm], tuple[Packed, bool]]:
        def decided(stored: Snapshot, swarm: Swarm) -> tuple[Packed, bool]:
            plan, whole = decide(stored, swarm)
            self.passes += 1
            if plan.batches:
                self.quiet_at = 0.0
            elif not self.quiet_at:
                self.quiet_at = time.monotonic()
            return plan, whole

        return decided


class _ControllerPart:
    def __init__(self, told: Answer) -> None:
        self._swarm = worlds.SyntheticSwarm(_world(told), told["approved"])
        self._wake = Wake()
        self._store = Store([told["etcd"]], RecordSigner.controller(KEYRING, SIGNING_KEY))
        signer = Signer(worlds.CLUSTER, SIGNING_KEY)
        watch = SwarmPoller(self._swarm)
        seed = LinkSeed(bytes(LinkSeed.SIZE))
        self._controller = _Watched(watch, self._store, signer, self._wake, SUBNET, 60, "simulated", seed)
        self._controller.watch()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._controller.run, args=(self._stopped,))

    def start(self) -> Answer:
        self._thread.start()
        return {}

    def state(self) -> Answer:
        one = self._controller
        waited = one.waited_to - one.waited_from
        return {"passes": one.passes, "quiet_at": one.quiet_at, "waited": waited, "foresaw": one.foresaw}

    def put(self, service: str, place: tuple[int, str, int], desired: str, state: str, scale: int) -> Answer:
        """A task moves, and Swarm says that its service does. A place is a slot, a node, and which task there."""
        made = replace(worlds.task(service, *place), desired=desired, state=state)
        self._swarm.put(made, scale=scale)
        at = time.monotonic()
        self._wake("service", service)
        return {"task": made.id, "at": at}

    def take(self, task: str) -> Answer:
        self._swarm.take(task)
        return {}

    def fail(self, node: str) -> Answer:
        self._swarm.fail(node)
        at = time.monotonic()
        self._wake("node", node)
        return {"at": at}

    def stop(self) -> None:
        self._stopped.set()
        self._wake()
        if self._thread.is_alive():
            self._thread.join(20)
        self._store.close()


class _NodePart:
    def __init__(self, told: Answer) -> None:
        self._node = SimulatedNode(_world(told), told["node"], told["etcd"], Path(told["folder"]))

    def fingerprints(self) -> Answer:
        return {"approved": self._node.fingerprint}

    def start(self) -> Answer:
        self._node.start()
        return {}

    def container(self, task: str, service: str, state: str) -> Answer:
        self._node.containers.put(local(task, service, state))
        return {}

    def peer(self, key: str) -> Answer:
        return {"at": SEEN.of(key)}

    def state(self) -> Answer:
        return {"wirings": SEEN.wirings}

    def links(self, **query: str) -> Answer:
        """What a `docker linkwire ps` costs the agent: seconds, CPU seconds of the thread, bytes of the answer."""
        began, spent = time.monotonic(), time.thread_time()
        (document,) = self._node.answers.links(query)
        size = len(json.dumps(document, separators=(",", ":")))
        pairs = sum(len(link["pairs"]) for link in document["links"])
        cost = {"seconds": time.monotonic() - began, "cpu": time.thread_time() - spent, "bytes": size}
        return {**cost, "links": len(document["links"]), "pairs": pairs}

    def stop(self) -> None:
        self._node.stop()


class _CrowdPart:
    def __init__(self, told: Answer) -> None:
        self._crowd = Crowd(told["nodes"], told["etcd"])

    def fingerprints(self) -> Answer:
        return {"approved": self._crowd.fingerprints()}

    def start(self) -> Answer:
        self._crowd.start()
        return {}

    def statuses(self, *, on: bool) -> Answer:
        self._crowd.statuses(on=on)
        return {}

    def fall_silent(self, node: str) -> Answer:
        self._crowd.fall_silent(node)
        return {}

    def stop(self) -> None:
        self._crowd.stop()


def _world(told: Answer) -> worlds.World:
    return worlds.stacks(told["tasks"]) if told["shape"] == "stacks" else worlds.rolling(told["of"], told["tasks"])


def _cost() -> Answer:
    """CPU seconds of all threads, and what memory this process holds and has held at most, MiB."""
    held = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
    return {
        "cpu": time.process_time(),
        "mib": held,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _end(failed: threading.ExceptHookArgs) -> None:
    """A part whose thread has died is none: nobody must wait for it."""
    traceback.print_exception(failed.exc_type, failed.exc_value, failed.exc_traceback)
    os._exit(1)


def main() -> None:
    """Obey until the input ends."""
    threading.excepthook = _end
    told = json.loads(sys.stdin.readline())
    configure(told.get("log", "error"))
    profile = Profile()
    roles = {"controller": _ControllerPart, "node": _NodePart, "crowd": _CrowdPart}
    part: Any = roles[told["role"]](told)
    own: dict[str, Callable[..., Answer]] = {"cost": _cost, "profile": profile.start, "profiled": profile.stop}
    try:
        print(json.dumps({}), flush=True)
        for line in sys.stdin:
            words = json.loads(line)
            action = own.get(words["do"]) or getattr(part, words["do"])
            print(json.dumps(action(**words["with"])), flush=True)
    finally:
        part.stop()


if __name__ == "__main__":
    main()
