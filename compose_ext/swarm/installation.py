"""Linkwire's own stack, as the Swarm has it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compose_ext.docker_cli import Docker
from compose_ext.swarm import queries
from compose_ext.swarm.queries import TIMEOUT

STACK = "linkwire"
OPTIONS_LABEL = "org.linkwire.choices"
"""Service label of the controller: the options of the last install."""


@dataclass(frozen=True, slots=True)
class Deployed:
    """Linkwire's stack as the Swarm has it."""

    services: Mapping[str, Mapping[str, Any]]
    """Name within the stack to what Docker says of the service."""

    @property
    def options(self) -> str | None:
        """Return the options of the last install, as it encoded them."""
        labels = self.services.get("controller", {}).get("Spec", {}).get("Labels") or {}
        return labels.get(OPTIONS_LABEL)

    @property
    def image(self) -> str | None:
        """Return the image of the agents."""
        task = self.services.get("agent", {}).get("Spec", {}).get("TaskTemplate", {})
        image = task.get("ContainerSpec", {}).get("Image")
        return str(image) if image else None

    def mounts(self, service: str) -> frozenset[str]:
        """Return the names of the secrets and configs that a service mounts."""
        return _mounts(self.services.get(service, {}).get("Spec", {}).get("TaskTemplate", {}))


def deployed(docker: Docker) -> Deployed:
    """Read the stack's services. Raises DockerError."""
    label = f"label=com.docker.stack.namespace={STACK}"
    ids = docker.ask(["service", "ls", "--quiet", "--filter", label], TIMEOUT).split()
    if not ids:
        return Deployed({})
    found = queries.read(docker.ask(["service", "inspect", *ids], TIMEOUT))
    return Deployed({str(one["Spec"]["Name"]).removeprefix(f"{STACK}_"): one for one in found})


def _mounts(task: Mapping[str, Any]) -> frozenset[str]:
    spec = task.get("ContainerSpec", {})
    secrets = {str(one["SecretName"]) for one in spec.get("Secrets") or []}
    return frozenset(secrets | {str(one["ConfigName"]) for one in spec.get("Configs") or []})
