"""Health of the DNS responder's process: whether it answers the agent, and the end of one that does not."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import threading
from contextlib import suppress

import structlog

from agent.dns.server import ALIVE, ORDER
from agent.linux import privileges
from mesh.errors import LinkwireError

log = structlog.get_logger(__name__)

ASK_EVERY_S = 2.0
HANG_S = 5.0
"""Seconds without an answer after which the process is taken for hung: it answers tasks in turns of milliseconds."""
START_S = 120.0
"""The same for the first answer: a busy node may take long to start a program."""


def exit_code(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """Wait for a process to end; None where it has not after `seconds`.

    `Popen.wait` with a time asks twenty times a second, for as long as an agent lives.
    """
    if process.poll() is not None:
        return process.returncode
    try:
        ended = os.pidfd_open(process.pid)
    except OSError:  # another thread has reaped it; or Linux before 5.3 (pidfd_open(2))
        with suppress(subprocess.TimeoutExpired):
            return process.wait(seconds)
        return None
    try:
        waiting = select.poll()
        waiting.register(ended, select.POLLIN)
        waiting.poll(seconds * 1000)
    finally:
        os.close(ended)
    return process.poll()


def ask(control: socket.socket) -> bool:
    """Ask whether the process is alive; returns whether it could be asked, within the socket's own timeout."""
    try:
        control.sendall(ORDER.pack(b"?", b""))
    except OSError:  # closed; or full of orders that it does not read
        return False
    return True


def is_answered(control: socket.socket, seconds: float) -> bool:
    """Wait for the answer, for so many seconds at most."""
    waiting = select.poll()
    try:
        waiting.register(control, select.POLLIN)
        return bool(waiting.poll(seconds * 1000)) and control.recv(len(ALIVE), socket.MSG_DONTWAIT) == ALIVE
    except (OSError, ValueError):  # closed meanwhile
        return False


def end(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """Wait for a process that was told to end, and kill it where it does not; returns its exit code or None."""
    if (code := exit_code(process, seconds)) is not None:
        return code
    killer = threading.Thread(target=_kill, args=(process.pid,), name="dns-responder-kill", daemon=True)
    killer.start()
    killer.join()
    return exit_code(process, seconds)


def _kill(pid: int) -> None:
    """Kill a process of USER's, as USER: an agent in a container has no CAP_KILL (kill(2))."""
    try:
        privileges.give_up(privileges.NET_ADMIN)
        os.kill(pid, signal.SIGKILL)
    except (LinkwireError, OSError) as error:
        log.warning("DNS responder not killed", error=str(error))
