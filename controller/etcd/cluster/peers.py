"""Members of an etcd asked at their peer URLs, over mutual TLS; and the answer of one that waits without data.

etcd itself answers `/members` there, with the members of its cluster, which is how it joins one. Nobody but members
has a certificate that this port accepts (`--peer-cert-allowed-cn`).
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from urllib.parse import urlsplit

from controller.etcd.cluster.plan import WAITING, Answer, Listed

_TIMEOUT = 1.5
_LARGEST = 65536
_CLUSTER = "X-Etcd-Cluster-ID"
_WAITS = "X-Linkwire-Waits"


def ask(urls: Iterable[str], ca: Path, own: Path) -> dict[str, Answer | None]:
    """Ask members at their peer URLs, all at once; None for one that does not answer.

    Args:
        urls: of them.
        ca: authorities that their certificates must chain to.
        own: certificate and key to show.
    """
    wanted = list(urls)
    if not wanted:
        return {}
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(ca))
    context.load_cert_chain(own)
    with ThreadPoolExecutor(max_workers=len(wanted)) as workers:
        return dict(zip(wanted, workers.map(lambda url: _asked(url, context), wanted), strict=True))


def _asked(url: str, context: ssl.SSLContext) -> Answer | None:
    place = urlsplit(url)
    connection = http.client.HTTPSConnection(place.hostname or "", place.port, timeout=_TIMEOUT, context=context)
    try:
        connection.request("GET", "/members")
        response = connection.getresponse()
        body = response.read(_LARGEST)
        if response.status != http.HTTPStatus.OK:
            return None
        if response.headers.get(_WAITS):
            return WAITING
        return _read(response.headers[_CLUSTER], body)
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return None
    finally:
        connection.close()


def _read(cluster: str, body: bytes) -> Answer | None:
    """Read etcd's list of members. It is empty while etcd reads its log, and then says nothing."""
    members = tuple(
        Listed(int(one["id"]), str(one.get("name", "")), str(one["peerURLs"][0]), bool(one.get("isLearner")))
        for one in json.loads(body)
    )
    return Answer(int(cluster, 16), members) if members else None


class _Waiting(BaseHTTPRequestHandler):
    """Answers every question: it waits."""

    timeout = _TIMEOUT

    def do_GET(self) -> None:
        """Answer."""
        self.send_response(http.HTTPStatus.OK)
        self.send_header(_WAITS, "1")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing: others ask every second."""


class _Server(ThreadingTCPServer):
    """Makes each handshake in the thread of its connection, so that nobody holds up others."""

    daemon_threads = True
    allow_reuse_address = True

    def finish_request(self, request: object, client_address: object) -> None:
        """Answer one connection; one that breaks off is nobody's business."""
        with suppress(OSError):
            request.settimeout(_TIMEOUT)  # type: ignore[attr-defined] # an SSLSocket
            request.do_handshake()  # type: ignore[attr-defined]
            super().finish_request(request, client_address)  # type: ignore[arg-type]


@contextmanager
def waiting(url: str, ca: Path, own: Path) -> Iterator[None]:
    """Say at a peer URL that this member waits without data. Raises OSError: the port is taken."""
    place = urlsplit(url)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(ca))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(own)
    host = place.hostname or ""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with type("_Family", (_Server,), {"address_family": family})((host, place.port or 0), _Waiting) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
