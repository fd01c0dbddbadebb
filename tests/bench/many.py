"""Many wired tasks on one node: what one of many takes against one of few, and all against a sidecar each."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

from agent.wireguard import kernel
from tests.bench.crowd import PEERS, Figures
from tests.bench.measure import Effort, Row
from tests.support import stage

_SIDECAR_MIB = 60.0
"""Of a proxy beside each task: what Envoy, idle, is commonly seen to take."""
_RUNS = 2
_MOST_USERSPACE = 100
"""Each wireguard-go takes one of fs.inotify.max_user_instances, of which a user has 128 unless told otherwise."""


def measure(effort: Effort) -> list[Row]:
    """Time, memory and CPU of each task of many."""
    many = 2 * effort.many if kernel.available() else min(2 * effort.many, _MOST_USERSPACE)
    few = max(2, many // 20)
    small = [_run(few) for _ in range(_RUNS)]
    large = [_run(many) for _ in range(_RUNS)]
    against = f"a task of {few}"
    pairs = min(len(large[0].wire_ms), len(small[0].wire_ms))
    wiring, reference = ([took for run in runs for took in run.wire_ms[-pairs:]] for runs in (large, small))
    looks, few_looks = ([run.look_ms for run in runs] for runs in (large, small))
    each = f"with {PEERS} peers each"
    sidecars = [_SIDECAR_MIB * many] * _RUNS
    agents, more = [run.agent_mib for run in large], [run.task_mib for run in large]
    rows = [
        Row("many.wire", f"wire the last of {many} tasks, {each}", against, "ms", "lower", wiring, reference),
        Row("many.look", f"CPU to read one of {many} tasks, {each}", against, "ms CPU", "lower", looks, few_looks),
        Row(
            "memory.agent", f"an agent with {many} tasks, {each}", "a sidecar each", "MiB", "lower", agents, sidecars
        ),
        Row(
            "memory.task",
            f"one more task of {many}, {each}",
            "a sidecar",
            "MiB",
            "lower",
            more,
            [_SIDECAR_MIB] * _RUNS,
        ),
    ]
    notes = (
        "the task of few is the last too",
        "of the agent, every 3 s or less often: all together take at most a twentieth of a processor",
        f"a sidecar is taken to have {_SIDECAR_MIB:.0f} MiB",
        "memory of all the machine in a guest; else of the agent, and a wireguard-go has 4 MiB and more besides",
    )
    aims = ("<= 1.5", "<= 1.5", "<= 100 MiB", "< 1 MiB")
    rows = [replace(row, aim=aim, note=note) for row, aim, note in zip(rows, aims, notes, strict=True)]
    return [replace(row, size=many, base=few) if row.key.startswith("many.") else row for row in rows]


def _run(count: int) -> Figures:
    """In a session of its own: whatever ends this process, that one is left the time to take away what it made."""
    command = [sys.executable, "-m", "tests.bench.crowd", str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as crowd:
        try:
            output, _ = crowd.communicate()
        except BaseException:
            with stage.uninterrupted():
                crowd.terminate()
                crowd.communicate()
            raise
    if crowd.returncode:
        raise ChildProcessError(f"{count} tasks in one process: exit code {crowd.returncode}")
    return Figures(**json.loads(output.splitlines()[-1]))
