"""What the figures were measured on: nothing by which a machine could be told from another of its kind."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version

from agent.wireguard import kernel

_PROGRAMS = {
    "wg": ("wg", "--version"),
    "wireguard-go": ("wireguard-go", "--version"),
    "iproute2": ("ip", "-V"),
    "etcd": ("etcd", "--version"),
}


def facts() -> dict[str, object]:
    """Cores, kernel, backend and versions, and how busy the machine is now."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "architecture": platform.machine(),
        "kernel": platform.release(),
        "wireguard": "kernel" if kernel.available() else "wireguard-go",
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "linkwire": version("linkwire"),
        "versions": {name: _first_line(command) for name, command in _PROGRAMS.items()},
    }


def _first_line(command: tuple[str, ...]) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return (done.stdout or done.stderr).splitlines()[0].strip()
