"""`linkwire-holder`: keeps a node's wireguard-go processes in a container of its own, which outlives the agent's.

It does what agents of any version ask for over a Unix socket beside those of wireguard-go: a line a request, `1 VERB
[NAME [PORT]]`, and a line an answer, `ok [yes|no]`, `later TEXT` or `failed TEXT`. It knows no key, no record, no
Docker and no etcd. What version 1 asks for stays as it is for good; another version has another number.

    start NAME        starts a wireguard-go for a device that none serves, in the node's network namespace
    end NAME          ends it
    hears NAME PORT   tells whether it has its UDP socket bound to that port
    leave             ends the holder, unless a device is left

An agent keeps a connection open for as long as it lives. Without one, and without a task's device, the holder ends.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import threading
import time
from types import FrameType

from agent.holder import sockets
from agent.holder.processes import OwnProcesses, Processes, make_tun
from mesh.errors import LinkwireError, Retryable
from mesh.process import hardening

SOCKET = "holder"
"""Name of its socket beside those of wireguard-go, without `.sock`."""
ALONE_S = 300.0
"""Seconds without an agent after which a holder without a device ends."""
LEFT_S = 86_400.0
"""The same while only the node's own device is left: the node may have left the Swarm, or its agent not start."""
LEAVES_S = 0.1
"""Seconds from the answer to `leave` to the end."""
_LOOK_S = 10.0
_SHORT_S = 0.2
_MOST_BYTES = 256
_REQUEST = re.compile(
    rf"1 (?:(?P<verb>start|end) (?P<name>{sockets.PREFIX}\w{{1,13}})"
    rf"|hears (?P<heard>{sockets.PREFIX}\w{{1,13}}) (?P<port>[0-9]{{1,5}})|(?P<leave>leave))",
    re.ASCII,
)


class Holder:
    """Answers agents.

    Args:
        processes: whose life is that of this process.
        alone: seconds without an agent after which it ends, without a device.
        left: the same, with the node's own device alone.
    """

    def __init__(self, processes: Processes, alone: float = ALONE_S, left: float = LEFT_S) -> None:
        self._processes = processes
        self._alone, self._left = alone, left
        self._lock = threading.Lock()
        self._agents = 0
        self._starting = 0
        self._without_agent = time.monotonic()
        self._leaving = False

    def serve(self) -> None:
        """Answer until nobody needs it; the socket is there, for root alone, when this process can be asked."""
        folder = self._processes.folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in folder.glob(f"{sockets.PREFIX}*.sock"):  # by a holder that was killed
            if sockets.process(left.stem) is None:
                left.unlink(missing_ok=True)
        path = sockets.socket_path(SOCKET, folder)
        path.unlink(missing_ok=True)  # of one that was killed; Docker lets two of that name not be
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as listening:
            before = os.umask(0o177)
            listening.bind(str(path))
            os.umask(before)
            listening.listen(64)
            listening.settimeout(min(_LOOK_S, self._alone / 2))
            looked = time.monotonic()
            while True:
                if time.monotonic() - looked > _LOOK_S / 2 or self._alone < _LOOK_S:
                    if self.is_over():
                        break
                    looked = time.monotonic()
                self._accept(listening)
            path.unlink(missing_ok=True)

    def is_over(self) -> bool:
        """Tell whether the holder is to end: an agent has told it to leave, or nobody needs it any more."""
        self._processes.reap()
        devices = set(sockets.served(self._processes.folder))
        with self._lock:
            if self._leaving:
                return True
            if self._agents or self._starting or devices - sockets.NODE_DEVICES:
                return False
            self._leaving = time.monotonic() - self._without_agent > (self._left if devices else self._alone)
            return self._leaving

    def _accept(self, listening: socket.socket) -> None:
        """Answer the next agent beside the others. A node that is short of something must cost no device."""
        try:
            connection, _ = listening.accept()
        except TimeoutError:
            return
        except OSError:  # too many open files
            time.sleep(_SHORT_S)
            return
        with self._lock:
            self._agents += 1
        try:
            threading.Thread(target=self._converse, args=(connection,), daemon=True).start()
        except RuntimeError:  # no more threads
            connection.close()
            self._count_out()
            time.sleep(_SHORT_S)

    def _count_out(self) -> None:
        with self._lock:
            self._agents -= 1
            self._without_agent = time.monotonic()

    def _converse(self, connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rb") as lines:
                while sockets.peer_user(connection) == 0 and (line := lines.readline(_MOST_BYTES)).endswith(b"\n"):
                    connection.sendall(f"{self.answer(line.decode(errors='replace').strip())}\n".encode())
        except OSError:
            pass  # it has ended
        finally:
            self._count_out()

    def answer(self, request: str) -> str:
        """Do what a line asks for, and return the answer's line."""
        asked = _REQUEST.fullmatch(request)
        if asked is None:
            return "failed the holder of this node is of another version, and does not understand that"
        try:
            return self._do(asked)
        except Retryable as error:
            return f"later {error}"
        except LinkwireError as error:
            return f"failed {error}"
        except Exception as error:  # noqa: BLE001 - whatever it is, other devices are held by this process too
            return f"later {type(error).__name__}: {error}"

    def _do(self, asked: re.Match[str]) -> str:
        if asked["leave"]:
            return self._leave()
        if asked["heard"]:
            return "ok yes" if self._processes.hears(asked["heard"], int(asked["port"])) else "ok no"
        if asked["verb"] == "end":
            self._processes.end(asked["name"])
            return "ok"
        with self._lock:
            if self._leaving:
                raise Retryable("the holder is leaving")
            self._starting += 1
        try:
            self._processes.start(asked["name"])
        finally:
            with self._lock:
                self._starting -= 1
        return "ok"

    def _leave(self) -> str:
        devices = sockets.served(self._processes.folder)
        with self._lock:
            if self._starting or devices:
                return f"failed it has devices: {len(devices) or 'one that starts'}"
            self._leaving = True
        threading.Timer(LEAVES_S, os.kill, (os.getpid(), signal.SIGTERM)).start()  # when the answer is on its way
        return "ok"


def main() -> None:
    """Hold a node's wireguard-go processes until nobody needs them, or a signal says to stop."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        os._exit(0)  # the kernel ends all else in the container

    signal.signal(signal.SIGTERM, stop)
    hardening.protect()
    try:
        make_tun()
    except OSError as error:
        sys.exit(f"linkwire-holder: /dev/net/tun cannot be used: {error.strerror}")
    Holder(OwnProcesses()).serve()
    os._exit(0)


if __name__ == "__main__":
    main()
