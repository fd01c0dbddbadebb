"""Linkwire's own stack, as the Swarm has it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compose_ext.docker_cli import Docker
from compose_ext.swarm import listings

STACK = "linkwire"
SERVICES = ("etcd", "controller", "agent")
NODE_KEYS_SINCE = "LINKWIRE_NODE_KEYS_SINCE"
"""Setting of the controllers: nodes' keys are not to be older, in seconds since 1970. `rotate --nodes` sets it."""
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
    def node_keys_since(self) -> str:
        """Return NODE_KEYS_SINCE as it is; "0" where nobody has put it there."""
        task = self.services.get("controller", {}).get("Spec", {}).get("TaskTemplate", {})
        given = dict(each.partition("=")[::2] for each in task.get("ContainerSpec", {}).get("Env") or ())
        return str(given.get(NODE_KEYS_SINCE, "0"))

    @property
    def image(self) -> str | None:
        """Return the image of the agents."""
        task = self.services.get("agent", {}).get("Spec", {}).get("TaskTemplate", {})
        image = task.get("ContainerSpec", {}).get("Image")
        return str(image) if image else None

    def mounts(self, service: str) -> frozenset[str]:
        """Return the names of the secrets and configs that a service mounts."""
        return frozenset(_mounts(self.services.get(service, {})))

    @property
    def mounted_names(self) -> dict[str, str]:
        """Return the secrets and configs that its services mount: name to Docker's id."""
        return {name: found for service in self.services.values() for name, found in _mounts(service).items()}

    @property
    def mounted_ids(self) -> frozenset[str]:
        """Return the ids of the secrets and configs that its services mount."""
        return frozenset(found for service in self.services.values() for found in _mounts(service).values())


NOTHING_DEPLOYED = Deployed({})


def deployed(docker: Docker) -> Deployed:
    """Read the stack's services. Raises DockerError."""
    found = listings.services(docker, f"label=com.docker.stack.namespace={STACK}")
    # Anybody who may create a service may give it the stack's label; its name is the service's alone.
    names = {f"{STACK}_{role}": role for role in SERVICES}
    return Deployed({names[name]: one for one in found if (name := str(one["Spec"]["Name"])) in names})


def _mounts(service: Mapping[str, Any]) -> dict[str, str]:
    spec = service.get("Spec", {}).get("TaskTemplate", {}).get("ContainerSpec", {})
    return {
        str(one[f"{sort}Name"]): str(one.get(f"{sort}ID", ""))
        for sort in ("Secret", "Config")
        for one in spec.get(f"{sort}s") or []
    }
