"""DNS responder's process: answers questions of all tasks of this node, on sockets that the agent opened.

It reads what tasks send, which may be anything, so it is apart from the agent: it runs as no user there is, has no
capability and no file, and what it holds are the tables of names and the sockets, each in its task's namespace. Being
busy with one task's questions it delays no other one's wiring, and other tasks' questions take turns with them.

When the agent dies it goes on for as long as a new agent may take to start.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import os
import selectors
import socket
import struct
import sys
import time

from agent.dns.table import Table
from agent.linux.privileges import USER
from mesh.process import hardening

ORDER = struct.Struct("=c96s")
"""An order of the agent: for a task `+`, with a file in memory that holds its table and further sockets, or `-`;
`!` to end at once; `?` to answer ALIVE, which a process that hangs does not."""
ALIVE = b"."
LINGER_S = 30.0
_MOST_DESCRIPTORS = 32
_MOST_IN_A_ROW = 16
"""Questions of one task that are answered before the others' turn comes."""
_MAX_BYTES = 4096
_PR_SET_NO_NEW_PRIVS = 38  # linux/prctl.h


class Server:
    """Server of all tasks' questions; ends when the agent has been gone for some time."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._tables: dict[bytes, Table] = {}
        self._sockets: dict[bytes, list[socket.socket]] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ)
        self._until: float | None = None

    def run(self) -> None:
        """Answer, until the agent has been gone for some time."""
        while self._until is None or time.monotonic() < self._until:
            for key, _ in self._selector.select(None if self._until is None else 1.0):
                if key.fileobj is self._control:
                    self._obey()
                elif isinstance(key.fileobj, socket.socket) and key.fileobj.fileno() >= 0:
                    self._answer(key.fileobj, key.data)

    def _obey(self) -> None:
        order, descriptors = _received(self._control)
        if len(order) < ORDER.size:
            self._selector.unregister(self._control)
            self._until = time.monotonic() + LINGER_S
            return
        verb, task = ORDER.unpack(order)
        if verb == b"!":
            self._until = 0.0
        elif verb == b"?":
            with contextlib.suppress(OSError):  # the agent has gone, or reads nothing: that is no reason to wait
                self._control.send(ALIVE, socket.MSG_DONTWAIT)
        elif verb == b"+":
            table, *opened = descriptors
            with open(table, "rb") as file:  # noqa: PTH123 - a descriptor
                self._tables[task] = Table(os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0))
            for descriptor in opened:
                made = socket.socket(fileno=descriptor)
                made.setblocking(False)
                self._sockets.setdefault(task, []).append(made)
                self._selector.register(made, selectors.EVENT_READ, task)
        else:
            self._tables.pop(task, None)
            for made in self._sockets.pop(task, ()):
                self._selector.unregister(made)
                made.close()

    def _answer(self, asked: socket.socket, task: bytes) -> None:
        for _ in range(_MOST_IN_A_ROW):
            try:
                message, source = asked.recvfrom(_MAX_BYTES)
            except OSError:  # nothing more; or an error that an earlier answer met
                return
            answer = self._tables[task].answer(message)
            if answer is not None:
                with contextlib.suppress(OSError):  # as any datagram, it may be lost
                    asked.sendto(answer, source)


def main() -> None:
    """Serve what comes by the socket whose descriptor is the argument."""
    control = socket.socket(fileno=int(sys.argv[1]))
    _drop_rights()
    Server(control).run()


def _received(control: socket.socket) -> tuple[bytes, list[int]]:
    space = socket.CMSG_SPACE(_MOST_DESCRIPTORS * 4)
    try:
        order, ancillary, _, _ = control.recvmsg(ORDER.size, space, socket.MSG_CMSG_CLOEXEC | socket.MSG_WAITALL)
    except ConnectionResetError:  # the agent died before it read an answer (unix(7)): as if it had closed its end
        return b"", []
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    return order, list(descriptors)


def _drop_rights() -> None:
    """Give up root and every capability, which go with it, for good (capabilities(7))."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(USER, USER, USER)
        os.setresuid(USER, USER, USER)
    ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    hardening.protect()


if __name__ == "__main__":
    main()
