"""Another Docker engine than the machine's: Debian's newest, for nodes that are to run it.

A whole root file system, because dockerd brings a C library, containerd, runc and iptables of its own age. A node has
its /usr over the machine's, so the lab's own programs are there too.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab import process
from tests.lab.images import MAKING, cache

if TYPE_CHECKING:
    from collections.abc import Callable

SUITE = "sid"
PACKAGES = "docker.io,docker-cli,iproute2,iptables,nftables,procps"
# The suite's index says for how long it is good, a week; a mirror may be behind.
OPTIONS = (
    '--aptopt=Acquire::Check-Valid-Until "false"',
    *(f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("doc", "locale", "man")),
)


def newest(say: Callable[[str], None] = lambda _: None) -> Path:
    """The root file system with it, made when it is missing: LINKWIRE_ENGINE_SUITE names another suite of Debian's.

    Raises:
        LabError: it could not be made, with what was said.
    """
    suite = os.environ.get("LINKWIRE_ENGINE_SUITE", SUITE)
    root = cache() / f"engine-{suite}"
    with root.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            say(f"making a root file system with the Docker of Debian's {suite}, once (two minutes)")
            fresh = root.with_suffix(".new")
            process.answer(["rm", "-rf", "--one-file-system", str(fresh)])
            argv = ["mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", *OPTIONS, suite, str(fresh)]
            process.answer([*argv, *os.environ.get("MIRROR", "").split()], timeout=MAKING)
            fresh.rename(root)
    return root
