"""The version of Docker's API: the newest that was tried, or what the daemon has nearest to it.

Docker 29 takes none below 1.44 (traefik#12253).
"""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator

import docker
import docker.errors
import pytest

from agent.containers.docker_api import connect as agents
from controller.swarm.docker_client import connect as controllers
from mesh.process.docker_version import TRIED, choose


@pytest.mark.parametrize(
    ("newest", "oldest", "chosen"),
    [
        ("1.41", "1.12", "1.41"),
        ("1.41", "", "1.41"),
        ("1.45", "1.24", "1.45"),
        ("1.52", "1.44", TRIED),
        ("1.9", "1.5", "1.9"),
        ("2.10", "1.60", "1.60"),
    ],
)
def test_what_is_spoken(newest: str, oldest: str, chosen: str) -> None:
    assert choose(newest, oldest) == chosen


class Docker29(http.server.BaseHTTPRequestHandler):
    """Refuses what Docker 29 refuses, in its words."""

    def do_GET(self) -> None:
        version, _, path = self.path.removeprefix("/v").partition("/")
        if self.path == "/version":
            self._answer(200, {"ApiVersion": "1.52", "MinAPIVersion": "1.44"})
        elif tuple(map(int, version.split("."))) < (1, 44):
            text = f"client version {version} is too old. Minimum supported API version is 1.44"
            self._answer(400, {"message": text})
        else:
            self._answer(200, {"asked": path, "version": version})

    def _answer(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's
        pass


@pytest.fixture(scope="module")
def docker29() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Docker29) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"tcp://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize("connect", [agents, controllers])
def test_a_daemon_that_takes_nothing_old(docker29: str, connect: Callable[..., docker.APIClient]) -> None:
    assert connect(docker29, 5.0).info() == {"asked": "info", "version": TRIED}
    with pytest.raises(docker.errors.APIError, match="too old"):
        docker.APIClient(docker29, version="1.43").info()
