"""What the figures were measured on: nothing by which a machine could be told from another of its kind."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

from agent.wireguard import kernel

_PROGRAMS = {
    "wg": ("wg", "--version"),
    "wireguard-go": ("wireguard-go", "--version"),
    "iproute2": ("ip", "-V"),
    "etcd": ("etcd", "--version"),
    "docker": ("dockerd", "--version"),
}


def facts() -> dict[str, object]:
    """Cores, kernel, backend and versions, and how busy the machine is now."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _found(r"^model name\s*: (.+)$", "/proc/cpuinfo") or "unknown",
        "memory_gib": round(int(_found(r"^MemTotal:\s*(\d+) kB$", "/proc/meminfo") or 0) / 2**20),
        "architecture": platform.machine(),
        "kernel": _release(),
        "wireguard": "kernel" if kernel.available() else "wireguard-go",
        "load": load(),
        "python": platform.python_version(),
        "linkwire": version("linkwire"),
        "versions": {name: _first_line(command) for name, command in _PROGRAMS.items() if shutil.which(command[0])},
    }


def _release() -> str:
    """The kernel's version, without what whoever built it has put behind."""
    found = re.match(r"[\d.]*\d", platform.release())
    return found[0] if found else "unknown"


def load() -> float:
    """How many wanted to run, over the last minute."""
    return round(os.getloadavg()[0], 2)


def _found(pattern: str, path: str) -> str | None:
    found = re.search(pattern, Path(path).read_text(), re.MULTILINE)
    return found and found[1].strip()


def _first_line(command: tuple[str, ...]) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return (done.stdout or done.stderr).splitlines()[0].partition(" - http")[0].strip()
