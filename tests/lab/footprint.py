"""What there is on this machine that a lab could leave behind, read without asking the lab."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

NAMESPACES = ("net", "mnt", "uts", "pid")
FOLDERS = ("/etc/docker", "/opt", "/opt/containerd", "/run", "/run/netns", "/var/lib", "/var/lib/docker")


def footprint() -> frozenset[str]:
    """One line for each thing found.

    Processes and namespaces that are not the machine's own, mounts, devices, cgroups, and the files of some folders.
    """
    return frozenset().union(_processes(), _mounts(), _devices(), _cgroups(), _files())


def _processes() -> set[str]:
    """The processes in other network or mount namespaces than ours, and every namespace of theirs.

    Those in ours are left out: they are whoever else uses the machine.
    """
    ours = _namespaces(Path("/proc/self"))
    found: set[str] = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended; so has a zombie, which waits for the machine's init only
            theirs = _namespaces(process)
            if (theirs["net"], theirs["mnt"]) != (ours["net"], ours["mnt"]):
                # Fields 2 and 22 of proc(5) stat: command and start time.
                command, rest = process.joinpath("stat").read_text().rsplit(")", 1)
                found.add(f"process {command}) started {rest.split()[19]}")
                found.update(f"namespace {theirs[kind]}" for kind in theirs if theirs[kind] != ours[kind])
    return found


def _namespaces(process: Path) -> dict[str, str]:
    return {kind: str((process / "ns" / kind).readlink()) for kind in NAMESPACES}


def _mounts() -> set[str]:
    # Without its id, parent and group numbers, which are given anew.
    return {f"mount {line.split(' ', 3)[3]}" for line in Path("/proc/self/mountinfo").read_text().splitlines()}


def _devices() -> set[str]:
    return {f"device {device.name}" for device in Path("/sys/class/net").iterdir()}


def _cgroups() -> set[str]:
    return {f"cgroup {folder}" for folder, _, _ in os.walk("/sys/fs/cgroup")}


def _files() -> set[str]:
    return {f"file {entry}" for folder in FOLDERS if Path(folder).is_dir() for entry in Path(folder).iterdir()}
