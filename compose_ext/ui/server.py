"""The page's server: the files of the page, and its documents as JSON, on 127.0.0.1."""

from __future__ import annotations

import logging
import secrets
import socket
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from compose_ext.diagnostics import DockerError
from compose_ext.ui import snapshot
from compose_ext.ui.encoded import GraphJson, encoded
from compose_ext.ui.guard import App, Guard
from compose_ext.ui.snapshot import Document
from compose_ext.ui.source import Source

LOOPBACK = "127.0.0.1"
FILES = Path(__file__).parent / "static"


def listener(port: int) -> socket.socket:
    """Open the socket; 0 is any free port. Raises DockerError: somebody has that port."""
    opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((LOOPBACK, port))
        opened.listen()  # a browser that is quicker than the server waits
    except OSError as error:
        opened.close()
        raise DockerError(
            f"port {port} of {LOOPBACK} cannot be had ({error.strerror}): choose another --port"
        ) from None
    return opened


def token() -> str:
    """Make a token that nobody guesses, of letters that an address takes as they are."""
    return secrets.token_urlsafe(24)


def application(source: Source, port: int, secret: str, files: Path = FILES) -> App:
    """Make the application: everything lies under `/SECRET/`.

    Args:
        source: of what the documents say.
        port: of 127.0.0.1, as browsers name it.
        secret: the first part of each address.
        files: the page's own.
    """
    hosts = frozenset({f"{LOOPBACK}:{port}", f"localhost:{port}"})

    graph_json = GraphJson()
    graph_json.of(*source.known())  # ready before the first window asks for it

    def graph(request: Request) -> Response:
        reading, failed = source.known() if "known" in request.query_params else source.read()
        return Response(graph_json.of(reading, failed), media_type="application/json")

    def link(request: Request) -> Response:
        reading, _ = source.read()
        ends = (request.query_params.get("consumer", ""), request.query_params.get("provider", ""))
        return _answer(snapshot.link(reading, *ends) if reading else None)

    def service(request: Request) -> Response:
        reading, _ = source.read()
        return _answer(snapshot.service(reading, request.query_params.get("name", "")) if reading else None)

    def node(request: Request) -> Response:
        reading, _ = source.read()
        return _answer(snapshot.node(reading, request.query_params.get("name", "")) if reading else None)

    def timeline(_: Request) -> Response:
        return _answer(source.timeline())

    documents = [
        Route("/graph.json", graph),
        Route("/link.json", link),
        Route("/service.json", service),
        Route("/node.json", node),
        Route("/events.json", timeline),
    ]
    page = Mount("/", StaticFiles(directory=files, html=True))
    # 5,000 links are 1 MB of JSON, or 60 kB for 2 ms: a window may be at the far end of an ssh tunnel.
    packed = Middleware(GZipMiddleware, compresslevel=1)
    app = Starlette(routes=[Mount(f"/{secret}", routes=[*documents, page])], middleware=[packed])
    return Guard(app, hosts, secret)


def configured(app: App) -> uvicorn.Config:
    """Return the server's settings."""
    return uvicorn.Config(
        app,
        lifespan="off",
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=1,
    )


class Server(uvicorn.Server):
    """Uvicorn's, that ends without a word about the answers that it did not wait for."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close what is open."""
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        await super().shutdown(sockets)


def serve(app: App, opened: socket.socket) -> None:
    """Answer until the process is interrupted."""
    Server(configured(app)).run(sockets=[opened])


def _answer(document: Document | None) -> Response:
    if document is None:
        return Response('{"error": "no such thing, or no longer"}', 404, media_type="application/json")
    return Response(encoded(document), media_type="application/json")
