"""A proxy on Docker's socket, to have Docker be slow, wrong or silent for one container without touching Docker.

Each request gets a connection of its own to Docker, which both sides close after the answer.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

Failure = Literal["slow", "refused", "missing", "nonsense", "silent"]
FAILURES: tuple[Failure, ...] = ("slow", "refused", "missing", "nonsense", "silent")
SLOW_S = 4.0
_INSPECT = re.compile(r"(?:/v[0-9.]+)?/containers/(?P<id>[^/]+)/json$")
_MOST = 1 << 16
_ANSWERS: dict[Failure, tuple[str, bytes]] = {
    "refused": ("500 Internal Server Error", b'{"message":"Docker is ill"}'),
    "missing": ("404 Not Found", b'{"message":"No such container"}'),
    "nonsense": ("200 OK", b'["neither", "a", {"container": 1}]'),
}


@dataclass(slots=True)
class _Request:
    head: bytes
    body: bytes

    @property
    def path(self) -> str:
        return self.head.split(b" ", 2)[1].decode().partition("?")[0]


class DockerProxy:
    """Passes requests on to Docker until it is told otherwise.

    Attributes:
        failing: containers whose inspect fails, and how.
        fails: tells how that of any other fails, by its id; None where it does not.
        refuses: whether it ends every connection without an answer.
        asked: how often each kind of request came: `inspect`, `list`, `events`, `other`.
    """

    def __init__(self, path: Path, docker: Path) -> None:
        """Prepare to listen at `path`, in front of the socket of Docker."""
        self.path, self._docker = path, docker
        self.failing: dict[str, Failure] = {}
        self.fails: Callable[[str], Failure | None] = lambda _container: None
        self.asked: Counter[str] = Counter()
        self.refuses = False
        self._events: Literal["pass", "stall", "drop"] = "pass"
        self._changed = threading.Condition()
        self._open: set[socket.socket] = set()
        self._is_over = False
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    @property
    def url(self) -> str:
        return f"unix://{self.path}"

    def __enter__(self) -> Self:
        self._listener.bind(str(self.path))
        self._listener.listen(256)
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.events("pass")
        self._is_over = True
        with self._changed:
            self._changed.notify_all()
            left = [self._listener, *self._open]
        for one in left:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self.path.unlink(missing_ok=True)

    def events(self, how: Literal["pass", "stall", "drop"]) -> None:
        """Pass events on; or keep them for later, on new streams as well; or lose them."""
        with self._changed:
            self._events = how
            self._changed.notify_all()

    def heal(self) -> None:
        """Pass on all requests again; those that were kept silent get their answer."""
        with self._changed:
            self.failing.clear()
            self.fails = lambda _container: None
            self._changed.notify_all()

    def _failure(self, container: str) -> Failure | None:
        return self.failing.get(container) or self.fails(container)

    def _accept(self) -> None:
        while not self._is_over:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            with self._changed:
                self._open.add(near)
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError, IndexError), near:
            request = _read(near)
            found = _INSPECT.match(request.path)
            kind = "events" if request.path.endswith("/events") else "inspect" if found else "other"
            self.asked["list" if request.path.endswith("/containers/json") else kind] += 1
            if self.refuses:
                return
            failure = self._failure(found["id"]) if found else None
            if failure == "slow":
                time.sleep(SLOW_S)
            elif failure == "silent":
                with self._changed:
                    self._changed.wait_for(lambda: self._is_over or found is None or not self._failure(found["id"]))
            elif failure is not None:
                status, body = _ANSWERS[failure]
                head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\n"
                near.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
                return
            self._pass_on(request, near, are_events=kind == "events")
        with self._changed:
            self._open.discard(near)

    def _pass_on(self, request: _Request, near: socket.socket, *, are_events: bool) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as far:
            far.connect(str(self._docker))
            with self._changed:
                self._open.add(far)
            far.sendall(request.head + request.body)
            while data := far.recv(_MOST):
                if are_events and not self._may_pass():
                    continue
                near.sendall(data)
            with self._changed:
                self._open.discard(far)

    def _may_pass(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._is_over or self._events != "stall")
            return self._events != "drop"


def _read(near: socket.socket) -> _Request:
    """Read a request; it is to be the last of its connection."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = near.recv(_MOST)
        if not more:
            raise ValueError("no request")
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
    lengths = [int(line.split(b":")[1]) for line in lines if line.lower().startswith(b"content-length:")]
    while len(body) < sum(lengths):
        body += near.recv(_MOST)
    return _Request(b"\r\n".join([*lines, b"Connection: close", b"", b""]), body)
