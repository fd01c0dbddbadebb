"""Questions to the Swarm: its services, tasks and nodes, as Docker shows them."""

import json
from typing import Any

from compose_ext.engine import Docker
from compose_ext.errors import DockerError

TIMEOUT = 30.0
"""Seconds for one question to Docker."""


def read(text: str) -> Any:  # noqa: ANN401 - Docker's own documents
    """Decode an answer. Raises DockerError."""
    try:
        return json.loads(text)
    except ValueError:
        raise DockerError("docker's answer is not JSON") from None


def tasks(docker: Docker, *services: str, wanted: str = "") -> list[dict[str, Any]]:
    """Return the tasks of services, `wanted` by one of Docker's filters.

    Raises:
        DockerError: Docker does not answer, or there is no such service.
    """
    filters = ["--filter", wanted] if wanted else []
    ids = docker.ask(["service", "ps", "--quiet", "--no-trunc", *filters, *services], TIMEOUT).split()
    if not ids:
        return []
    try:
        found: list[dict[str, Any]] = read(docker.ask(["inspect", "--type", "task", *ids], TIMEOUT))
    except DockerError:  # one of them ended meanwhile
        return []
    return found


def nodes(docker: Docker) -> list[dict[str, Any]]:
    """Return all nodes. Raises DockerError."""
    ids = docker.ask(["node", "ls", "--quiet"], TIMEOUT).split()
    found: list[dict[str, Any]] = read(docker.ask(["node", "inspect", *ids], TIMEOUT))
    return found
