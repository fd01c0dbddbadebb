"""Agent's side of the DNS responder: opens sockets in tasks' namespaces and hands them to an unprivileged process.

A socket keeps its namespace alive: it is closed here and there when the task goes.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from agent.dns import process_health, ruleset
from agent.dns.server import ORDER
from agent.linux.netns import TaskNetns
from mesh.errors import LinkwireError
from mesh.topology.policy import Resolving
from mesh.topology.wgtypes import Answer

log = structlog.get_logger(__name__)

SEND_S = 2.0
"""Seconds after which the process is taken for hung."""
RESTART_S = 0.2
END_S = 1.0
_UNANSWERED = "wired, but its own DNS questions for links are not answered (its hosts file has their names)"


@dataclass(slots=True)
class _Served:
    """One task: its sockets by their number, which is that of the name server, and its table."""

    netns: TaskNetns
    table: bytes
    sockets: dict[int, socket.socket] = field(default_factory=dict)
    problem: str | None = None
    """Why a socket could not be opened."""


class Responder:
    """Answers the DNS questions that the rules of this node's tasks turn to it.

    Args:
        able: whether the kernel can turn them; if not, it says so of every task.
    """

    def __init__(self, *, able: bool = True) -> None:
        self.able = able
        self._lock = threading.RLock()
        self._served: dict[str, _Served] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._closed = False

    def serve(self, container: str, netns: TaskNetns, answers: Sequence[Answer], resolving: Resolving) -> None:
        """Answer for a task from now on, or with other answers. Failures are logged, and tried again next time.

        Args:
            container: its id.
            netns: its namespace.
            answers: all that there are.
            resolving: as the rules have it.
        """
        if not answers or not self.able:
            self.stop(container)
            return
        names = {answer.name: ([str(address) for address in answer.addresses], answer.rotates) for answer in answers}
        table = json.dumps({"names": names, "search": resolving.search}).encode()
        with self._lock:
            served = self._served.get(container)
            if served is not None and served.netns is not netns:
                self.stop(container)
                served = None
            if served is None:
                served = self._served[container] = _Served(netns, b"")
            opened = self._open(container, served, resolving)
            if opened or table != served.table:
                served.table = table
                self._send(container, table, opened)

    def problem(self, container: str) -> str | None:
        """Return why a task's questions are not all answered, in words; None where they are."""
        if not self.able:
            return f"{_UNANSWERED}: this node's kernel or nft is too old to turn them (see its agent's log)"
        with self._lock:
            served = self._served.get(container)
            return f"{_UNANSWERED}: {served.problem}" if served is not None and served.problem else None

    def stop(self, container: str) -> None:
        """Answer no more for a task, and let go of its namespace."""
        with self._lock:
            served = self._served.pop(container, None)
            if served is not None:
                for opened in served.sockets.values():
                    opened.close()
                self._order(b"-", container, ())

    def close(self) -> None:
        """Stop answering all tasks."""
        with self._lock:
            self._closed = True
            for container in list(self._served):
                self.stop(container)
            if self._process is not None and self._control is not None:
                self._end(self._process, self._control)
                self._control = None
                with suppress(subprocess.TimeoutExpired):  # it ends without the agent, later
                    self._process.wait(END_S)

    def _open(self, container: str, served: _Served, resolving: Resolving) -> list[socket.socket]:
        servers = enumerate(resolving.servers[: ruleset.MOST_SERVERS])
        wanted = [(n, server.version) for n, server in servers if n not in served.sockets]
        if not wanted:
            return []
        try:
            opened, problem = served.netns.run(lambda: _bound(wanted))
        except LinkwireError as error:
            opened, problem = {}, str(error)
        if problem != served.problem:
            served.problem = problem
            if problem is not None:
                log.warning("DNS questions not answered", container=container[:12], error=problem)
        served.sockets.update(opened)
        return list(opened.values())

    def _send(self, container: str, table: bytes, sockets: Sequence[socket.socket]) -> None:
        try:
            memory = os.memfd_create("linkwire-names")
        except OSError as error:
            log.warning("DNS answers not updated", error=str(error))
            if self._process is not None and self._control is not None:
                self._end(self._process, self._control)  # the next one is handed everything
                self._control = None
            return
        try:
            os.pwrite(memory, table, 0)
            self._order(b"+", container, (memory, *(opened.fileno() for opened in sockets)))
        finally:
            os.close(memory)

    def _order(self, verb: bytes, container: str, descriptors: Sequence[int]) -> None:
        if self._process is None:
            if not self._closed:
                self._start()  # which sends it all
            return
        if self._control is None:
            return  # it is started again soon
        try:
            socket.send_fds(self._control, [ORDER.pack(verb, container.encode()[:96])], list(descriptors))
        except OSError as error:
            log.warning("DNS responder not reachable, restarting", error=str(error))
            self._end(self._process, self._control)
            self._control = None

    @staticmethod
    def _end(process: subprocess.Popen[bytes], control: socket.socket) -> None:
        """End the process: by asking it, since it is another user's and an agent in a container has no CAP_KILL."""
        control.settimeout(0)
        with suppress(OSError):
            control.send(ORDER.pack(b"!", b""))
            control.shutdown(socket.SHUT_RDWR)  # so that nobody waits for its answer any more
        control.close()
        with suppress(PermissionError):
            process.kill()

    def _start(self) -> bool:
        """Start the process, and hand it all that there is; False where it cannot be started."""
        ours, theirs = socket.socketpair()
        ours.settimeout(SEND_S)
        command = (sys.executable, "-m", "agent.dns.server", str(theirs.fileno()))
        environment = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        try:
            self._process = subprocess.Popen(
                command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, env=environment
            )
        except OSError as error:
            log.warning("DNS responder not started", error=str(error))
            ours.close()
            return False
        finally:
            theirs.close()
        self._control = ours
        watched = (self._process, ours)
        threading.Thread(target=self._watch, args=watched, name="dns-responder", daemon=True).start()
        for container, served in self._served.items():
            self._send(container, served.table, list(served.sockets.values()))
        return True

    def _watch(self, process: subprocess.Popen[bytes], control: socket.socket) -> None:
        """Replace the process when it has ended, or hangs. A hung one's sockets keep the questions for the next."""
        patience = process_health.START_S
        while (code := process_health.exit_code(process, process_health.ASK_EVERY_S)) is None:
            with self._lock:
                asked = self._control is control and process_health.ask(control)
            if asked and process_health.is_answered(control, patience):
                patience = process_health.HANG_S
                continue
            code = process_health.exit_code(process, RESTART_S)
            if code is None:
                self._give_up(process, control, patience)
                code = process_health.end(process, END_S)
            break
        while True:
            time.sleep(RESTART_S)
            with self._lock:
                if self._closed:
                    return
                if self._control is not None:
                    self._control.close()
                    log.warning("DNS responder ended, restarting", exit_code=code)
                self._process = self._control = None
                if self._start():
                    return

    def _give_up(self, process: subprocess.Popen[bytes], control: socket.socket, seconds: float) -> None:
        """Ask a process that did not answer for so many seconds to end."""
        with self._lock:
            if self._control is control:
                log.warning("DNS responder hangs, restarting", seconds=seconds)
                self._end(process, control)
                self._control = None


def _bound(wanted: Sequence[tuple[int, int]]) -> tuple[dict[int, socket.socket], str | None]:
    """Bind sockets in this thread's namespace for name servers of these numbers and IP versions; return the error."""
    opened: dict[int, socket.socket] = {}
    problem = None
    for number, version in wanted:
        family = socket.AF_INET if version == 4 else socket.AF_INET6  # noqa: PLR2004 - IP version
        address = (ruleset.LOOPBACK[version], ruleset.FIRST_PORT + number)
        try:
            made = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        except OSError as error:
            problem = f"{address[0]} port {address[1]}: {error.strerror}"
            continue
        try:
            # The process of an agent that has died may still have it.
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
        except OSError as error:
            made.close()
            problem = f"{address[0]} port {address[1]}: {error.strerror}"
        else:
            opened[number] = made
    return opened, problem
