"""An etcd that stops while requests run: each of them ends, and is an error."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import grpc
import pytest

from mesh.errors import LinkwireError
from mesh.store.etcd_channel import Channel

ENDS_S = 8.0
_HEADERS, _SETTINGS, _GOAWAY = 1, 4, 7  # RFC 9113, section 6
_PREFACE, _HEAD = 24, 9  # bytes


def frame(kind: int, body: bytes = b"", flags: int = 0) -> bytes:
    """A frame of HTTP/2 that belongs to no stream."""
    return len(body).to_bytes(3) + bytes((kind, flags)) + bytes(4) + body


@pytest.fixture
def going() -> Iterator[str]:
    """The address of a server that has begun to stop: it takes one connection, and no request in it."""
    listener = socket.create_server(("127.0.0.1", 0))
    address, port = listener.getsockname()

    def serve() -> None:
        with suppress(OSError):
            connection, _ = listener.accept()
            listener.close()
            with connection:
                connection.sendall(frame(_SETTINGS))
                with connection.makefile("rb") as received:
                    received.read(_PREFACE)
                    while (head := received.read(_HEAD))[3] != _HEADERS:
                        received.read(int.from_bytes(head[:3]))
                connection.sendall(frame(_SETTINGS, flags=1) + frame(_GOAWAY, bytes(8)))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"{address}:{port}"
    listener.close()
    thread.join()


@pytest.mark.parametrize(
    "request_of",
    [lambda link: next(link.watch(b"a", b"b")), lambda link: link.renew_lease(1), lambda link: link.ask(b"a")],
    ids=["watch", "renew_lease", "ask"],
)
def test_no_request_outlives_an_etcd_that_stops(going: str, request_of: Callable[[Channel], object]) -> None:
    """gRPC 1.85 begins such a stream again by itself; where nobody listens any more, it then waits for ever."""
    errors: list[Exception] = []

    def ask() -> None:
        try:
            request_of(link)
        except (grpc.RpcError, LinkwireError) as error:
            errors.append(error)

    with closing(Channel(going, 2.0)) as link:
        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(ENDS_S)
        assert not thread.is_alive()
    assert len(errors) == 1
