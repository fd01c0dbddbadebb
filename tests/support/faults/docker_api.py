"""Docker's API on a unix socket, as a program tells it: what agents and controllers ask. tests/lab has Docker."""

from __future__ import annotations

import contextlib
import json
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs

Answer = tuple[int, Any]


class DockerApi:
    """The server; who inherits it says what there is."""

    def __init__(self, socket: Path) -> None:
        self.url = f"unix://{socket}"
        self._server = _Server(str(socket), type("Handler", (_Handler,), {"api": self}))
        self._changed = threading.Condition()
        self._events: list[bytes] = []
        self._cuts = 0
        self._closed = False

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, query: dict[str, Any]) -> Answer:
        """Return status and body for a request."""
        if path == "version":
            return 200, {"ApiVersion": "1.41", "MinAPIVersion": "1.12"}
        return 404, {"message": f"no such {path} {query}"}

    def tell(self, kind: str, action: str, name: str, **attributes: str) -> None:
        """Tell all who follow events of one more."""
        event = {"Type": kind, "Action": action, "Actor": {"ID": name, "Attributes": attributes}}
        with self._changed:
            self._events.append(json.dumps(event).encode() + b"\n")
            self._changed.notify_all()

    def cut(self) -> None:
        """Break all streams of events in the middle of one."""
        with self._changed:
            self._cuts += 1
            self._changed.notify_all()

    def events(self) -> Iterator[bytes | None]:
        """Yield events from now on; None where the stream breaks."""
        with self._changed:
            at, cuts = len(self._events), self._cuts
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._cuts > cuts or len(self._events) > at)  # noqa: B023
                if self._closed:
                    return
                fresh, at, is_cut = self._events[at:], len(self._events), self._cuts > cuts
            yield from fresh
            if is_cut:
                yield None
                return


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: whoever asked was killed."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: DockerApi

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        parts = [part for part in path.split("/") if part]
        path = "/".join(parts[1:] if parts[0].startswith("v1.") else parts)
        asked = {name: values[0] for name, values in parse_qs(query).items()}
        asked["filters"] = json.loads(asked.get("filters", "{}"))
        with contextlib.suppress(OSError):
            if path == "events":
                self._stream()
            else:
                self._send(*self.api.answer(path, asked))

    def _send(self, status: int, body: Any) -> None:  # noqa: ANN401
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        for event in self.api.events():
            data = event if event is not None else b'{"Type":"container",'  # a long event comes in several chunks
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.flush()
        self.close_connection = True

    def address_string(self) -> str:
        return "docker"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the standard library
        pass
