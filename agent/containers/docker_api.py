"""Docker's API, asked over one connection: a failure becomes the error that the caller acts on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import docker
import docker.errors
import requests

from mesh.errors import Retryable
from mesh.process import docker_api


def connect(url: str, timeout: float | None) -> docker.APIClient:
    """Connect a client of the version that `mesh.process.docker_api` chooses; `timeout` in seconds, None for none.

    Raises what docker and requests raise.
    """
    arguments: dict[str, Any] = {"timeout": None if timeout is None else int(timeout)}
    with contextlib.closing(docker.APIClient(url, version=docker_api.TRIED, **arguments)) as first:
        daemon = first.version(api_version=False)
    version = docker_api.choose(daemon["ApiVersion"], daemon.get("MinAPIVersion") or "")
    return docker.APIClient(url, version=version, **arguments)


class Docker:
    """One Docker engine, connected when first asked.

    Args:
        url: of the engine.
        timeout: in seconds, for one request; None for none.
        error: raised for every failure.
    """

    def __init__(self, url: str, timeout: float | None, error: type[Exception] = Retryable) -> None:
        self._url = url
        self._timeout = timeout
        self._error = error
        self._client: docker.APIClient | None = None

    @contextlib.contextmanager
    def asked_to(self, do: str) -> Iterator[docker.APIClient]:
        """Lend the client; a failure of what is done with it becomes `error`, with `do` in front of its text."""
        try:
            client = self._client  # another thread may disconnect meanwhile
            if client is None:
                client = self._client = connect(self._url, self._timeout)
            yield client
        except docker.errors.APIError as error:
            raise self._error(f"cannot {do}: {error.explanation or error}") from error
        except (docker.errors.DockerException, requests.RequestException, OSError) as error:
            raise self._error(f"cannot {do}: {error}") from error

    def inspect(
        self, kind: Literal["container", "network", "volume"], name: str, *, lenient: bool = False
    ) -> dict[str, Any] | None:
        """Inspect an object; None where Docker has none of that name.

        Args:
            kind: of the object.
            name: its name or id.
            lenient: whether any refusal counts as if there were none.
        """
        with self.asked_to(f"inspect the {kind} {name}") as client:
            try:
                answer: dict[str, Any] = getattr(client, f"inspect_{kind}")(name)
            except docker.errors.NotFound:
                return None
            except docker.errors.APIError:
                if not lenient:
                    raise
                return None
        return answer

    def disconnect(self) -> None:
        """Choose the version anew when next asked: an engine that was upgraded may refuse the old one."""
        self._client = None
