"""Memory with secrets in it: neither dumped nor read by others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROTECTED = "from mesh.process import hardening; hardening.protect(); "
# Root that may not trace whom it likes: what an ordinary user is among his own processes.
PLAIN = ("setpriv", "--bounding-set=-sys_ptrace", "--")


def is_read(script: str) -> bool:
    """Whether the memory of a process that runs the script can be read by another one of its kind."""
    code = f"{script}print('ready', flush=True); import signal; signal.pause()"
    with subprocess.Popen([*PLAIN, sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as one:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
        try:
            read = [*PLAIN, "head", "-c", "0", f"/proc/{one.pid}/mem"]
            return subprocess.run(read, stderr=subprocess.DEVNULL, check=False).returncode == 0
        finally:
            one.kill()


def test_protection_keeps_other_processes_from_reading_memory() -> None:
    assert is_read("")
    assert not is_read(PROTECTED)


@pytest.mark.parametrize(("script", "limits"), [("", "7 7"), (PROTECTED, "0 0")])
def test_it_and_its_children_dump_no_core(script: str, limits: str) -> None:
    code = f"{script}import os; os.execvp('sh', ['sh', '-c', 'echo $(ulimit -S -c) $(ulimit -H -c)'])"
    shell = ["sh", "-c", 'ulimit -c 7 && exec "$@"', "sh", sys.executable, "-c", code]
    assert subprocess.run(shell, stdout=subprocess.PIPE, text=True, check=True).stdout.strip() == limits


def test_those_who_hold_secrets_call_it_first() -> None:
    root = Path(__file__).parents[3]
    for main in ("agent/cli.py", "controller/cli.py"):
        body = (root / main).read_text().partition("def main() -> None:")[2]
        assert body.splitlines()[2].strip() == "hardening.protect()", main
