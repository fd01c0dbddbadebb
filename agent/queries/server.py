"""Server of the queries: a unix socket in the agent's container, and a few threads.

Who may enter the container as root may ask; nobody else can reach the socket. A query is one line of JSON. It is
answered by an empty line as soon as it is taken, and then by lines of JSON.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import structlog

from mesh.errors import LinkwireError

log = structlog.get_logger(__name__)

MOST = 16
"""Queries that are answered at the same time, those that are followed included."""
MAX_QUERY = 131_072
"""Bytes: what Linux takes in one argument of a program, as the query comes."""
TIMEOUT_S = 10.0
"""For a client to say what it asks, and to take each part of the answer: one that hangs must not hold a thread."""

Document = Mapping[str, Any]
Handler = Callable[[Document], Iterable[Document]]
"""Answers one query: its arguments in, the documents to send out. The text of a LinkwireError is for the user; it is
sent as `error`, a name that no field of a document has."""


class BadQueryError(LinkwireError):
    """An argument of the query is wrong; the text says which."""


class QueryServer:
    """Server of one agent's queries.

    Args:
        path: of the socket; its folder is made, for root alone.
        handlers: by the query's name.

    Raises:
        OSError: the socket cannot be made there, or somebody else has made its folder.
    """

    def __init__(self, path: Path, handlers: Mapping[str, Handler]) -> None:
        self._path = path
        self._handlers = handlers
        self._free = threading.BoundedSemaphore(MOST)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.parent.stat().st_uid != os.geteuid():
            raise PermissionError(f"{path.parent} is another user's")
        path.unlink(missing_ok=True)  # of an agent before this one, in the same container
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(os.fspath(path))
        path.chmod(0o600)
        self._socket.listen(MOST)
        threading.Thread(target=self._accept, name="queries", daemon=True).start()

    def close(self) -> None:
        """Take no more queries; those that are being answered end with the process."""
        # Closing alone would leave a thread that waits in accept().
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            if not self._free.acquire(blocking=False):
                connection.close()
                continue
            threading.Thread(target=self._serve, args=(connection,), name="query", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                connection.settimeout(TIMEOUT_S)
                query = _read(connection)
                connection.sendall(b"\n")
                for document in self._answer(query):
                    connection.sendall(encoded(document) + b"\n")
        except OSError:
            return  # the client has gone
        finally:
            self._free.release()

    def _answer(self, query: Document | None) -> Iterable[Document]:
        if query is None:
            yield {"error": f"a query is a JSON object in one line, of at most {MAX_QUERY} bytes"}
            return
        name = str(query.get("query"))[:40]
        handler = self._handlers.get(name)
        if handler is None:
            yield {"error": f"the agent knows no query {name!r}: it is older than what asks, and has to be upgraded"}
            return
        try:
            yield from handler(query)
        except LinkwireError as error:
            yield {"error": str(error)}
        except Exception as error:
            log.exception("query failed", query=name, error=str(error))
            yield {"error": "the agent failed to answer: its log says why"}


def encoded(document: Document) -> bytes:
    """Write a document in ASCII. A large one takes msgspec a tenth of the time, but it does not escape."""
    with suppress(UnicodeEncodeError):
        plain = msgspec.json.encode(document)
        if plain.isascii():
            return plain
    return json.dumps(document, separators=(",", ":"), default=_opened).encode()


def _opened(column: object) -> Any:  # noqa: ANN401 - whatever JSON has
    """Read what is JSON already."""
    return msgspec.json.decode(column) if isinstance(column, msgspec.Raw) else str(column)


def _read(connection: socket.socket) -> Document | None:
    """Read the one line that is the query; None for anything else. Raises OSError."""
    line = b""
    while not line.endswith(b"\n"):
        part = connection.recv(MAX_QUERY)
        line += part
        if not part or len(line) > MAX_QUERY:
            return None
    try:
        query = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return query if isinstance(query, dict) else None


def serve(path: Path, handlers: Mapping[str, Handler]) -> QueryServer | None:
    """Answer queries; where that cannot be, say so, since a node's tasks are wired all the same."""
    try:
        return QueryServer(path, handlers)
    except OSError as error:
        log.warning("queries not answered", error=str(error))
        return None
