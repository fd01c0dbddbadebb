"""Ways in which etcd, Docker and files fail, and the wrapping of their adapters' lowest functions."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from pathlib import PosixPath
from types import SimpleNamespace
from typing import Any

import docker
import grpc
import requests

from mesh.store import etcd_channel
from tests.support.faults.injection import KILLED, Failure, Injector, When, hanging, raising

Kinds = Mapping[str, tuple[When, Failure]]


class _RpcError(grpc.RpcError):  # type: ignore[misc]
    """What gRPC raises."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details


def os_error(code: int) -> Failure:
    """A failure with this errno."""
    return raising(lambda: OSError(code, os.strerror(code)))


ETCD: Kinds = {
    "unavailable before": (
        "before",
        raising(lambda: _RpcError(grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses")),
    ),
    "unavailable after": ("after", raising(lambda: _RpcError(grpc.StatusCode.UNAVAILABLE, "Socket closed"))),
    "no answer": ("after", hanging(lambda: _RpcError(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"))),
    "no space": (
        "before",
        raising(lambda: _RpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded")),
    ),
    **KILLED,
}
READ: Kinds = {"no disk": ("before", os_error(errno.EIO)), **KILLED}
WRITE: Kinds = {
    "no space": ("before", os_error(errno.ENOSPC)),
    "read-only": ("before", os_error(errno.EROFS)),
    "no disk": ("after", os_error(errno.EIO)),
    **KILLED,
}
OPEN: Kinds = {"too many": ("before", os_error(errno.EMFILE)), **KILLED}


def _error_500() -> requests.Response:
    answer = requests.Response()
    answer.status_code, answer.reason, answer.url = 500, "Internal Server Error", "http+docker://localhost"
    answer._content = b'{"message":"rpc error: code = Unavailable"}'
    answer.headers["Content-Type"] = "application/json"
    answer.raw = SimpleNamespace(_fp=SimpleNamespace(chunked=False))  # docker-py looks whether it is a stream
    return answer


DOCKER: Kinds = {
    "error 500": ("before", _error_500),
    "not there": ("before", raising(lambda: requests.ConnectionError("Connection refused"))),
    "no answer": ("after", hanging(lambda: requests.ReadTimeout("Read timed out. (read timeout=20)"))),
    **KILLED,
}


class FaultyPath(PosixPath):
    """A path whose reads and writes may fail; those made of it are such ones too."""

    __slots__ = ()


def wrap_clients(injector: Injector) -> None:
    """Wrap etcd's and Docker's clients, and the methods of FaultyPath."""
    for name in ("ask", "page", "commit", "grant", "renew_lease", "revoke", "watch"):
        injector.wrap(etcd_channel.Channel, name, "etcd", ETCD, method(name))
    injector.wrap(docker.APIClient, "send", "docker", DOCKER, _asked)
    for name in ("read_text", "read_bytes", "iterdir"):
        injector.wrap(FaultyPath, name, f"file {name}", READ)
    for name in ("write_text", "unlink", "mkdir", "replace", "hardlink_to"):
        injector.wrap(FaultyPath, name, f"file {name}", WRITE)


def method(name: str) -> Callable[..., str]:
    """Name an operation by the method, whoever calls it."""
    return lambda *_arguments, **_named: name


def _asked(_client: object, request: requests.PreparedRequest, **_: Any) -> str:  # noqa: ANN401
    """Name a request to Docker by its path, without ids."""
    parts = [part for part in str(request.path_url).partition("?")[0].split("/") if part]
    parts = parts[1:] if parts[0].startswith("v1.") else parts
    return f"{request.method} {'/'.join(part if n % 2 == 0 else 'ID' for n, part in enumerate(parts))}"
