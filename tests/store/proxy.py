"""A TCP proxy on loopback, to break the way to etcd without touching etcd."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from types import TracebackType
from typing import Self


class Proxy:
    """Passes connections on to a port of loopback until it is told to freeze, to be slow, or to refuse.

    Attributes:
        accepted: connections so far.
        held: all that waits to be passed on while it is frozen.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._flowing = threading.Event()
        self._flowing.set()
        self._refusing = False
        self._delay = 0.0
        self._over = False
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.accepted = 0
        self.held: list[bytes] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over = True
        self._flowing.set()
        self._close([self._listener, *self._sockets])
        for thread in self._threads:
            thread.join()

    def freeze(self) -> None:
        """Stop passing anything on, both ways, on old and new connections, and close none."""
        self._flowing.clear()

    def freeze_old(self) -> None:
        """Freeze the connections of this moment for ever; new ones work."""
        frozen, self._flowing = self._flowing, threading.Event()
        self._flowing.set()
        frozen.clear()

    def slow(self, seconds: float) -> None:
        """Pass everything on so much later."""
        self._delay = seconds

    def thaw(self) -> None:
        """Pass on again."""
        self._flowing.set()

    def cut(self) -> None:
        """Close all connections and accept no new one."""
        self._refusing = True
        self._close(self._sockets)

    def heal(self) -> None:
        """Accept connections again."""
        self._refusing = False

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._over:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            if self._refusing or self._over:
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", self._port))
            self._sockets += [near, far]
            self._start(self._pump, near, far, self._flowing)
            self._start(self._pump, far, near, self._flowing)

    def _pump(self, source: socket.socket, sink: socket.socket, flowing: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not flowing.is_set():
                    self.held.append(data)
                while not flowing.wait(0.1):
                    if self._over:
                        return
                    data += self._more(source)
                if self._delay:
                    time.sleep(self._delay)
                sink.sendall(data)
        self._close([source, sink])

    def _more(self, source: socket.socket) -> bytes:
        """Take what has come meanwhile, so that all that was sent is held."""
        with contextlib.suppress(BlockingIOError):
            data = source.recv(65536, socket.MSG_DONTWAIT)
            self.held.append(data)
            return data
        return b""

    @staticmethod
    def _close(sockets: list[socket.socket]) -> None:
        for one in sockets:
            # shutdown wakes a thread that is blocked in accept or recv; close alone does not.
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
