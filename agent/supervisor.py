"""Supervisor: the agent container's first process, which restarts the agent at once when it dies.

When a container's first process ends, so does everything in it. Here that would be the wireguard-go processes where
no holder has them (agent/holder), and with them every tunnel of the node: so the first process is this one, which
does next to nothing, and the agent may crash or be killed with no tunnel noticing. It also reaps what is left to it,
as a first process must.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType

import structlog

from mesh.process.backoff import Backoff

log = structlog.get_logger(__name__)

STEADY_S = 10.0
"""An agent that ran for so long is started again at once."""
MIN_DELAY_S = 0.1
MAX_DELAY_S = 5.0


def supervise(arguments: Sequence[str]) -> int:
    """Run `linkwire-agent run` with the same arguments until told to stop.

    Returns:
        The exit code for this process: 0 when told to stop.
    """
    stopping = threading.Event()
    child: subprocess.Popen[bytes] | None = None

    def stop(_signal: int = 0, _frame: FrameType | None = None) -> None:
        stopping.set()
        if child is not None and child.returncode is None:
            os.kill(child.pid, signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    backoff = Backoff(MIN_DELAY_S, MAX_DELAY_S)
    while not stopping.is_set():
        started = time.monotonic()
        child = subprocess.Popen([sys.executable, "-m", "agent", "run", *arguments])
        if stopping.is_set():
            stop()  # the signal came before this child was known
        code = _reap_until(child)
        if stopping.is_set():
            break
        is_steady = time.monotonic() - started > STEADY_S
        if is_steady:
            backoff.reset()
        delay = 0.0 if is_steady else backoff.after_failure()
        log.warning("agent ended, restarting", exit_code=code, seconds=delay)
        stopping.wait(delay)
    return 0


def _reap_until(child: subprocess.Popen[bytes]) -> int:
    """Reap every process that ends, until it is the child itself; return its exit code."""
    while True:
        pid, status = os.wait()
        if pid == child.pid:
            child.returncode = os.waitstatus_to_exitcode(status)
            return child.returncode
