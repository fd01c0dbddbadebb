"""Processes under test that are forked from one which has loaded their modules, since that takes more than a second.

The server has no other thread. On standard input it takes a line of JSON for each process, and answers with its id.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.faults.injection import Fault, Injector

PROJECT = Path(__file__).resolve().parents[3]
_PR_SET_PDEATHSIG = 1  # linux/prctl.h

Order = dict[str, Any]
"""`log` and `calls` are files, `faults` what is to fail; the rest is for who prepares the process."""


def serve(prepare: Callable[[Injector, Order], Callable[[], object]]) -> None:
    """Fork for each order until standard input ends.

    Args:
        prepare: wraps the adapters of the process, and returns its main function.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                _run(prepare, json.loads(line))
            finally:
                sys.stderr.flush()
                os._exit(1)
        print(json.dumps(pid), flush=True)


def _run(prepare: Callable[[Injector, Order], Callable[[], object]], order: Order) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    calls = os.open(order["calls"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def told(operation: str, kinds: tuple[str, ...]) -> None:
        os.write(calls, f"{json.dumps([operation, kinds])}\n".encode())

    def fired(fault: Fault) -> None:
        os.write(calls, f"{json.dumps(str(fault))}\n".encode())

    prepare(Injector([Fault(*fault) for fault in order["faults"]], told, fired), order)()


class ForkServer:
    """The server of a module that calls `serve`."""

    def __init__(self, module: str, more: Mapping[str, str] | None = None) -> None:
        """Start it; `more` is for its environment."""
        command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", module]
        environment = {**os.environ, **(more or {})}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, cwd=PROJECT, env=environment, stdin=pipe, stdout=pipe)

    def start(self, order: Order) -> int:
        """Start a process; return its id."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{json.dumps(order)}\n".encode())
        self._process.stdin.flush()
        pid: int = json.loads(self._process.stdout.readline())
        return pid

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)


@dataclass(slots=True)
class Supervised:
    """A program that is started again when it ends, without faults then, as its supervisor or Swarm does."""

    server: ForkServer
    order: Order
    pid: int = 0
    starts: int = 0
    _handle: int = -1
    _ended_at: float | None = field(default=None)

    def start(self, faults: Iterable[Fault] = ()) -> None:
        """Start it."""
        given = [(fault.operation, fault.number, fault.kind) for fault in faults]
        self.pid = self.server.start({**self.order, "faults": given})
        self.starts += 1
        with contextlib.suppress(ProcessLookupError):
            self._handle = os.pidfd_open(self.pid)

    def look(self) -> None:
        """Start it again where it has ended."""
        if self.has_ended():
            self.start()

    def has_ended(self) -> bool:
        """Tell whether it has."""
        if self._handle < 0:
            return True
        poll = select.poll()
        poll.register(self._handle, select.POLLIN)
        if not poll.poll(0):
            return False
        os.close(self._handle)
        self._handle = -1
        return True

    def kill(self) -> None:
        """End it as a crash would."""
        if self.has_ended():
            return
        signal.pidfd_send_signal(self._handle, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while not self.has_ended():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        log = Path(self.order["log"])
        said = log.read_bytes() if log.exists() else b""
        if said and not said.endswith(b"\n"):  # cut in the middle of a line, which the next one would go on with
            os.truncate(log, said.rfind(b"\n") + 1)

    def resources(self) -> Counter[str]:
        """Count its open descriptors by what they are, and its threads."""
        held: Counter[str] = Counter()
        base = Path(f"/proc/{self.pid}")
        with contextlib.suppress(FileNotFoundError):
            for entry in (base / "fd").iterdir():
                with contextlib.suppress(FileNotFoundError):
                    target = str(entry.readlink())
                    held["file" if target.startswith("/") else target.partition(":")[0]] += 1
            held["threads"] = len(list((base / "task").iterdir()))
        return held

    def recorded(self) -> list[tuple[str, tuple[str, ...]]]:
        """List the calls that were made, in order, with the kinds of faults that each may have."""
        return [(line[0], tuple(line[1])) for line in self._calls() if not isinstance(line, str)]

    def fired(self) -> list[str]:
        """List the faults that were made."""
        return [line for line in self._calls() if isinstance(line, str)]

    def log(self) -> str:
        """Read all that it has said."""
        path = Path(self.order["log"])
        return path.read_text() if path.exists() else ""

    def _calls(self) -> list[Any]:
        path = Path(self.order["calls"])
        # A line may be cut where the process was killed.
        return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
