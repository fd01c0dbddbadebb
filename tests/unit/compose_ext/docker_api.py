"""A stand-in for Docker's API on a unix socket: takes what `docker stack deploy` asks, and keeps what it would make.

Swarm has no networks, configs, secrets or services of any stack at the start of each recording; everything external
that is asked for is there. Linkwire's own services are there as well.
"""

from __future__ import annotations

import json
import re
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

API = "1.41"
_ALWAYS: dict[str, Any] = {
    "/info": {
        "ID": "x",
        "OSType": "linux",
        "ServerVersion": "20.10.24",
        "Swarm": {"LocalNodeState": "active", "ControlAvailable": True, "NodeID": "n" * 25},
    },
    "/version": {"ApiVersion": API, "MinAPIVersion": "1.12", "Os": "linux", "Version": "20.10.24"},
}
_KINDS = ("services", "networks", "configs", "secrets")
_CREATE = re.compile(rf"/({'|'.join(_KINDS)})/create")
_ONE = re.compile(rf"/({'|'.join(_KINDS)})/([^/]+)")
_LIST = re.compile(rf"/({'|'.join(_KINDS)})")


@dataclass
class Recorded:
    """What was made, as the bodies of the requests, by name."""

    services: dict[str, Any] = field(default_factory=dict)
    networks: dict[str, Any] = field(default_factory=dict)
    configs: dict[str, Any] = field(default_factory=dict)
    secrets: dict[str, Any] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    """Requests that nobody here knows: the stand-in is too small then."""


class Api:
    """The server; `recorded` is what was made since `forget`, `has_linkwire` whether its services are there."""

    def __init__(self, socket: Path) -> None:
        self.host = f"unix://{socket}"
        self.recorded = Recorded()
        self.has_linkwire = True

    def forget(self) -> Recorded:
        """Return what was made, and begin anew."""
        before, self.recorded = self.recorded, Recorded()
        return before

    def answer(self, method: str, target: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Return status and body for one request."""
        url = urlsplit(re.sub(r"^/v[0-9.]+", "", target))
        path, query = url.path, parse_qs(url.query)
        if path in _ALWAYS:
            return 200, _ALWAYS[path]
        if (match := _CREATE.fullmatch(path)) and method == "POST":
            kept = getattr(self.recorded, match[1])
            kept[body["Name"]] = body
            return 201, {"ID": f"{match[1]}-{body['Name']}", "Id": f"{match[1]}-{body['Name']}"}
        if (match := _LIST.fullmatch(path)) and method == "GET":
            return 200, self._list(match[1], json.loads(query.get("filters", ["{}"])[0]))
        if (match := _ONE.fullmatch(path)) and method == "DELETE":
            made = getattr(self.recorded, match[1])
            del made[match[2].removeprefix(f"{match[1]}-")]
            return 204, None
        if (match := _ONE.fullmatch(path)) and method == "GET":
            return self._one(match[1], match[2])
        self.recorded.unknown.append(f"{method} {target}")
        return 404, {"message": f"the stand-in knows no {method} {target}"}

    def _list(self, kind: str, filters: dict[str, Any]) -> list[Any]:
        made = getattr(self.recorded, kind)
        # Go's client writes {"name": {"a": true}}, older ones {"name": ["a"]}.
        names = list(filters.get("name", ()))
        if kind == "services" and not filters:
            status = {"RunningTasks": 1, "DesiredTasks": 1}
            mode = {"Replicated": {"Replicas": 1}}
            return [
                {"ID": role, "Spec": {"Name": f"linkwire_{role}", "Mode": mode}, "ServiceStatus": status}
                for role in (("agent", "controller") if self.has_linkwire else ())
            ]
        if kind == "configs" and "label" in filters:
            (wanted,) = filters["label"]
            label, _, value = wanted.partition("=")
            labelled = {name: body for name, body in made.items() if (body.get("Labels") or {}).get(label)}
            return [
                {"ID": f"configs-{name}", "Spec": body}
                for name, body in labelled.items()
                if value in ("", body["Labels"][label])
            ]
        if names:
            # Secrets and configs are looked up by their names before a service is made: what is external is there.
            return [{"ID": f"{kind}-{name}", "Spec": made.get(name, {"Name": name})} for name in names]
        if kind == "networks":
            return [{"Name": name, "Id": f"networks-{name}", "Scope": "swarm"} for name in made]
        return []

    def _one(self, kind: str, name: str) -> tuple[int, Any]:
        if kind == "networks":
            scope = "local" if name in ("host", "bridge", "none") else "swarm"
            return 200, {"Name": name, "Id": f"networks-{name}", "Scope": scope, "Driver": "overlay"}
        return 404, {"message": f"no such {kind.removesuffix('s')}: {name}"}


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64


class _Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    api: Api

    def do_GET(self) -> None:
        if self.path.endswith("/_ping"):
            self._send(200, b"OK")
            return
        chunked = self.headers.get("Transfer-Encoding") == "chunked"
        data = self._chunks() if chunked else self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, said = self.api.answer(self.command, self.path, json.loads(data) if data.strip() else {})
        self._send(status, json.dumps(said).encode() if said is not None else b"")

    do_POST = do_HEAD = do_DELETE = do_GET  # noqa: N815 - likewise

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline().strip() or b"0", 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, status: int, data: bytes) -> None:
        self.send_response(status)
        headers = {"Api-Version": API, "Ostype": "linux", "Docker-Experimental": "false", "Swarm": "active/manager"}
        for name, value in {**headers, "Content-Type": "application/json"}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def address_string(self) -> str:
        return "docker"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the standard library
        pass


@contextmanager
def serving(socket: Path) -> Iterator[Api]:
    """The stand-in on a socket, until it is left."""
    api = Api(socket)
    with _Server(str(socket), type("Handler", (_Handler,), {"api": api})) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            yield api
        finally:
            server.shutdown()
