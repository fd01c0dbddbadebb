"""Debian's cloud kernel for amd64, downloaded with apt and unpacked into a cache; nothing is installed."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.kernel.errors import GuestSetupError

REPO = Path(__file__).resolve().parents[2]
CACHE_VARIABLE = "LINKWIRE_KERNEL_CACHE"
META_PACKAGE = "linux-image-cloud-amd64"


@dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked kernel: its release (uname -r), its bootable image, its module tree with modules.dep."""

    release: str
    image: Path
    modules: Path


def obtain() -> Kernel:
    """Give the newest kernel that apt knows, downloading it (27 MB) if the cache does not have it yet.

    Raises:
        GuestSetupError: apt knows no such package, or cannot download it.
    """
    package = _newest_package()
    version = _field(_apt("apt-cache", "show", "--no-all-versions", package), r"^Version: (\S+)$")
    # Resolved, because the guest's init looks for it where the host's root is not yet the root.
    cache = Path(os.environ.get(CACHE_VARIABLE) or REPO / "build" / "kernel").resolve()
    cache.mkdir(parents=True, exist_ok=True)
    unpacked = cache / f"{package}_{version.replace(':', '%3a')}"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two runs at once download it once
        if not unpacked.is_dir():
            _unpack(package, unpacked)
    (modules,) = (unpacked / "lib" / "modules").iterdir()
    return Kernel(modules.name, unpacked / "boot" / f"vmlinuz-{modules.name}", modules)


def _newest_package() -> str:
    return _field(_apt("apt-cache", "depends", META_PACKAGE), r"Depends: (linux-image-\S+-cloud-amd64)$")


def _unpack(package: str, into: Path) -> None:
    with tempfile.TemporaryDirectory(dir=into.parent, prefix="download-") as name:
        folder = Path(name)
        _apt("apt-get", "download", "-qq", package, cwd=folder)
        (archive,) = folder.glob("*.deb")
        tree = folder / "tree"
        subprocess.run(["dpkg", "-x", archive, tree], check=True)
        (modules,) = (tree / "lib" / "modules").iterdir()
        # depmod takes the folder that holds lib/modules, so it can run before the tree is in its place.
        subprocess.run(["busybox", "depmod", "-b", tree, modules.name], check=True)
        shutil.move(tree, into)  # last: a cache entry that exists is complete


def _apt(*command: str, cwd: Path | None = None) -> str:
    # LC_ALL, because apt translates even its field names.
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"}
    )
    if done.returncode != 0:
        raise GuestSetupError(
            f"`{' '.join(command)}` failed: {done.stderr.strip()}\n"
            "The guest's kernel is Debian's own package: run `apt-get update`, with a Debian mirror reachable."
        )
    return done.stdout


def _field(text: str, pattern: str) -> str:
    match = re.search(pattern, text, re.MULTILINE)
    if match is None:
        raise GuestSetupError(f"apt's answer about {META_PACKAGE} has no {pattern!r}: run `apt-get update`.\n{text}")
    return match[1]
