"""Control groups as the lab's only record of which processes are whose.

A pid in a file goes stale and may come to name a stranger; a process cannot leave its group by forking, and the
kernel kills a whole group at once (cgroup.kill, Linux 5.14, Documentation/admin-guide/cgroup-v2.rst).
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.lab.layout import LabError

MOUNTS = Path("/proc/self/mounts")


@cache
def unified() -> Path:
    """Where the version 2 hierarchy is mounted: alone, or beside version 1."""
    for line in MOUNTS.read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    raise LabError("no cgroup2 is mounted: the lab needs one to keep track of its processes")


@cache
def _hierarchies() -> tuple[Path, ...]:
    kinds = {"cgroup", "cgroup2"}
    lines = (line.split() for line in MOUNTS.read_text().splitlines())
    return tuple(dict.fromkeys(Path(fields[1]) for fields in lines if fields[2] in kinds))


@dataclass(frozen=True, slots=True)
class Group:
    """One cgroup, by its path from the root of every hierarchy (Docker makes its own in all of them)."""

    path: str

    @property
    def procs(self) -> Path:
        """The file to write a pid into."""
        return unified() / self.path / "cgroup.procs"

    def child(self, name: str) -> Group:
        return Group(f"{self.path}/{name}")

    def make(self) -> None:
        self.procs.parent.mkdir(parents=True, exist_ok=True)

    def pids(self) -> set[int]:
        """Every process of the group and of those below it. A zombie is in no group."""
        found: set[int] = set()
        for hierarchy in _hierarchies():
            for folder, _, files in os.walk(hierarchy / self.path):
                if "cgroup.procs" in files:
                    # OSError: it is being removed right now, or (version 2) is a threaded one.
                    with contextlib.suppress(OSError):
                        found.update(int(pid) for pid in (Path(folder) / "cgroup.procs").read_text().split())
        return found

    def command_pid(self, command: str) -> int | None:
        """The pid in this group of the program `command`, as the kernel names it."""
        for pid in sorted(self.pids()):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().strip() == command:
                    return pid
        return None

    def kill(self, *, seconds: float = 20.0) -> None:
        """SIGKILL everything in it and wait until it is gone, like a power cut.

        Raises:
            LabError: something was still there after `seconds`.
        """
        deadline = time.monotonic() + seconds
        switch = unified() / self.path / "cgroup.kill"
        while True:
            with contextlib.suppress(OSError):
                switch.write_text("1")
            pids = self.pids()
            if not pids and not self._is_populated():
                return
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise LabError(f"processes {sorted(pids)} of {self.path} do not die, killed {seconds:.0f} s ago")
            time.sleep(0.02)

    def _is_populated(self) -> bool:
        """Whether a thread is left in it, of a process that `pids` may not show any more.

        A process is off the list when its first thread has ended; the last one may still hold files and ports.
        """
        try:
            return "populated 1" in (unified() / self.path / "cgroup.events").read_text()
        except OSError:
            return False

    def remove(self) -> None:
        """Remove the (empty) group from every hierarchy."""
        for hierarchy in _hierarchies():
            for folder, _, _ in os.walk(hierarchy / self.path, topdown=False):
                _rmdir(folder)


def _rmdir(folder: str) -> None:
    for _ in range(50):
        try:
            Path(folder).rmdir()
        except FileNotFoundError:
            return
        except OSError:  # EBUSY: the kernel has not put away its last process yet
            time.sleep(0.02)
        else:
            return
    raise LabError(f"{folder} cannot be removed: something is still in it")
