"""A container's first process: it ends when it is told to, however early that is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.support.patience import slowness

PROGRAMS = ("linkwire-agent", "linkwire-controller", "linkwire-etcd")
ENDS_S = 10.0
_TERM = 1 << (signal.SIGTERM - 1)


def has_handler(process: Path) -> bool:
    """Whether a process has a handler of its own for SIGTERM."""
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    return bool(int(status["SigCgt"], 16) & _TERM)


@pytest.mark.parametrize("program", PROGRAMS)
def test_told_to_stop_while_loading(program: str) -> None:
    """The kernel drops what a first process has no handler for: Docker would wait for its whole grace period."""
    command = [str(Path(sys.executable).parent / program)]
    with subprocess.Popen(["unshare", "--pid", "--fork", "--kill-child", *command]) as outside:
        try:
            deadline = time.monotonic() + ENDS_S * slowness()
            children = Path(f"/proc/{outside.pid}/task/{outside.pid}/children")
            while not (pid := children.read_text().strip()) or not has_handler(Path(f"/proc/{pid}")):
                assert time.monotonic() < deadline
                time.sleep(0.001)
            loaded = Path(f"/proc/{pid}/maps").read_text()
            os.kill(int(pid), signal.SIGTERM)
            assert outside.wait(ENDS_S * slowness()) == 0
        finally:
            outside.kill()
    assert "/_ssl." not in loaded, "the handler comes before all other modules"


def test_told_to_stop_while_it_starts_the_agent() -> None:
    """Between the agent's start and the moment in which its supervisor knows its pid."""
    code = """
        import os, signal, subprocess, sys
        from agent import supervisor

        start = subprocess.Popen

        def started(_command):
            child = start(["sleep", "60"])
            os.kill(os.getpid(), signal.SIGTERM)
            return child

        supervisor.subprocess.Popen = started
        sys.exit(supervisor.supervise([]))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], timeout=ENDS_S * slowness(), check=False)
    assert done.returncode == 0


def test_an_agent_that_hangs_while_it_leaves() -> None:
    """It ends, and says where it hung."""
    code = """
        import time
        from agent import assembly

        assembly.HANGS_S = 1.0
        assembly.still_leaving()
        time.sleep(0.7)
        assembly.still_leaving()
        time.sleep(0.7)
        print("moved", flush=True)
        time.sleep(60)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, timeout=ENDS_S * slowness(), check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "moved\n")
    assert "line 11 in <module>" in done.stderr
