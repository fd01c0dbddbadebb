"""Many wired tasks in one process that is like an agent: what they take. Prints figures as JSON; `many` runs it."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import agent.assembly  # noqa: F401 - all that an agent has in memory
from agent.containers.docker_client import LocalTask
from agent.interface import reconcile
from agent.interface.schedule import Schedule
from agent.interface.task import TaskState
from agent.interface.task_interface import TaskInterface
from agent.reporting.status_poller import StatusPoller
from mesh.process.log_setup import configure
from tests.kernel.guest import GUEST_VARIABLE
from tests.netns.world import World, device_name
from tests.support import stage

PEERS = 10
"""Of each task."""
_LOOKS = 5


@dataclass(frozen=True, slots=True)
class Figures:
    """What a number of tasks took.

    Attributes:
        wire_ms: for each task, milliseconds until it was wired and read back.
        agent_mib: memory of this process, with all of them.
        task_mib: memory for one more task: of the whole machine in a guest that does nothing else, of this process
            elsewhere.
        look_ms: CPU of this process for reading one task's device, as it does every few seconds.
    """

    wire_ms: list[float]
    agent_mib: float
    task_mib: float
    look_ms: float


def main(count: int) -> None:
    """Wire so many tasks, look at them, print the figures and take all of it away."""
    configure("warning")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with stage.world() as (world, folder):
        print(json.dumps(asdict(_measure(world, folder, count))), flush=True)  # taking away takes as long again


def _measure(world: World, folder: Path, count: int) -> Figures:
    node = world.node()
    tasks = [world.task(node) for _ in range(count + 1)]
    wired: dict[str, TaskState] = {}
    times = []
    used = 0.0
    for number, task in enumerate(tasks):
        config = stage.interface(device_name(), task, stage.strangers(PEERS, keepalive=0))
        hosts = stage.hosts_file(folder, f"hosts{number}")
        local = LocalTask(f"c{number}", f"t{number}", "s", "n", "running", None, hosts, None, (), gated=False)
        began = time.perf_counter()
        reconcile.reconcile(node.backend, task.netns, hosts, config, None, complete=True)
        times.append((time.perf_counter() - began) * 1000)
        wired[f"c{number}"] = TaskState(local, TaskInterface(task.netns, config), Schedule(tried=config))
        if number == 0:  # what is there once, or is loaded with the first
            used = _used()
    more = _used() - used
    for _ in range(2):  # what the first round reads is decoded and kept for the next
        StatusPoller().read(wired, node.backend, lambda: False)
    began = time.process_time()
    for _ in range(_LOOKS):
        found = StatusPoller().read(wired, node.backend, lambda: False)
        assert found is not None
        assert len(found) == len(tasks)
    look = (time.process_time() - began) * 1000 / _LOOKS / len(tasks)
    for state in wired.values():
        interface = state.interface
        assert interface.netns is not None
        node.backend.delete(interface.netns, interface.applied.name if interface.applied else "")
    return Figures(times[1:], _resident(), max(more, 0.001) / count, look)


def _used() -> float:
    gc.collect()
    if GUEST_VARIABLE not in os.environ:
        return _resident()
    facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return (int(facts["MemTotal"].split()[0]) - int(facts["MemAvailable"].split()[0])) / 1024


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / (1 << 20)


if __name__ == "__main__":
    main(int(sys.argv[1]))
