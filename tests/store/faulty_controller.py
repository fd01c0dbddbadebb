"""Server of controllers in which calls of an adapter fail or are the last (tests.support.faults.fork_server)."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from controller import cli, election, settings
from controller.swarm import poller
from mesh.identity import key_files
from tests.support.faults.fork_server import Order, serve
from tests.support.faults.injection import Injector, Module, give
from tests.support.faults.kinds import OPEN, WRITE, FaultyPath, wrap_clients


def wrap(injector: Injector) -> None:
    """Wrap all adapters of a controller."""
    wrap_clients(injector)
    kinds = {"fsync": WRITE, "link": WRITE, "open": OPEN}
    others: Any = Module(os, **{name: getattr(os, name) for name in kinds})
    for name, of in kinds.items():
        injector.wrap(others, name, f"file {name}", of)
    temporary: Any = Module(tempfile, mkstemp=tempfile.mkstemp)
    injector.wrap(temporary, "mkstemp", "file mkstemp", WRITE)
    give(key_files, os=others, tempfile=temporary, Path=FaultyPath)
    give(settings, Path=FaultyPath)


def prepare(injector: Injector, order: Order) -> Callable[[], object]:
    """Have a controller take the lead sooner than it would; the order may say after how many seconds of silence."""
    wrap(injector)
    silence = order.get("silence", 1.0)
    if silence < election.SILENCE_S:
        give(election, SILENCE_S=silence, BEAT_S=0.3, LOOK_S=0.1)
        give(poller, SILENCE_S=silence)
    sys.argv = ["linkwire-controller", *order["arguments"]]
    return cli.main


if __name__ == "__main__":
    serve(prepare)
