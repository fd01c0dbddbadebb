"""Revoked nodes, by their Swarm labels: an operator wants their tasks to have no links."""

from collections.abc import Mapping
from typing import Any

from compose_ext.diagnostics import DockerError
from compose_ext.docker_cli import Docker, printable
from compose_ext.swarm import listings

REVOKED_LABEL = "linkwire.revoked"
"""The node label with the time of the revocation; only managers write it."""


def since(node: Mapping[str, Any]) -> str | None:
    """Return the time of a node's revocation; None if it is not revoked.

    Args:
        node: as Docker shows it.
    """
    label = ((node.get("Spec") or {}).get("Labels") or {}).get(REVOKED_LABEL)
    return None if label is None else printable(str(label))


def explained(when: str) -> str:
    """Say that a node is revoked."""
    return f"REVOKED since {when}: its tasks have no links; `docker linkwire node approve` undoes it"


def problems(docker: Docker) -> list[str]:
    """Name every revoked node.

    Raises:
        DockerError: the endpoint is no manager, or does not answer.
    """
    try:
        found = [(node, when) for node in listings.nodes(docker) if (when := since(node)) is not None]
        return [f"node {printable(str(node['Description']['Hostname']))}: {explained(when)}" for node, when in found]
    except (AttributeError, KeyError, TypeError) as error:
        raise DockerError(f"unexpected answer of docker ({type(error).__name__}: {error})") from None
