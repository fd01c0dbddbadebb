"""The stack file of an install: stack.yml without unused parts, and its variables."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml

from compose_ext.install.options import Options
from compose_ext.swarm.installation import NODE_KEYS_SINCE, OPTIONS_LABEL


@dataclass(frozen=True, slots=True)
class Release:
    """One release of the stack: the options, and the secret or config behind each variable of the stack file.

    Attributes:
        options: the user's.
        endpoints: of etcd, for controller and agent.
        mounted: variable, such as LINKWIRE_LINK_SEED_NAME, to Docker's name.
        installation: id of it.
        members: of etcd, where it has several: `LINKWIRE_ETCD_MEMBERS`; "" for an only one.
        replicas: of etcd, on as many nodes.
        node_keys_since: `installation.NODE_KEYS_SINCE`: what a rotation asked for outlives a deployment.
    """

    options: Options
    endpoints: str
    mounted: Mapping[str, str]
    installation: str = ""
    members: str = ""
    replicas: int = 1
    node_keys_since: str = "0"

    def variables(self) -> dict[str, str]:
        """Return the variables of the stack file; none is secret."""
        chosen = self.options
        return {
            "LINKWIRE_IMAGE": chosen.image,
            "LINKWIRE_ETCD": self.endpoints,
            "LINKWIRE_ETCD_INSECURE": "1" if chosen.in_clear else "0",
            "LINKWIRE_ETCD_MEMBERS": self.members,
            "LINKWIRE_ETCD_REPLICAS": str(self.replicas),
            "LINKWIRE_INSTALLATION": self.installation,
            "LINKWIRE_SUBNET": chosen.subnet,
            "LINKWIRE_CONTROLLERS": chosen.controllers,
            "LINKWIRE_PORTS": chosen.ports,
            "LINKWIRE_METRICS": chosen.metrics,
            "LINKWIRE_CONTROLLER_METRICS": chosen.controller_metrics,
            "LINKWIRE_ETCD_METRICS": chosen.etcd_metrics,
            "LINKWIRE_NODE_ENCRYPTION": chosen.node_encryption,
            "LINKWIRE_NODE_KEY_ROTATION": chosen.node_key_rotation,
            NODE_KEYS_SINCE: self.node_keys_since,
            "LINKWIRE_ADDRESS_REST": chosen.address_rest,
            "LINKWIRE_LOG_LEVEL": chosen.log_level,
            **self.mounted,
        }

    def mounts(self, service: str) -> frozenset[str]:
        """Return the names of the secrets and configs that a service is to mount."""
        document = self._document()
        variables = self.variables()
        return frozenset(
            variables[document[sort][one["source"]]["name"].removeprefix("${").removesuffix("}")]
            for sort in ("secrets", "configs")
            for one in document["services"][service].get(sort, [])
        )

    @property
    def services(self) -> tuple[str, ...]:
        """Return the names of its services, within the stack."""
        return tuple(self._document()["services"])

    def text(self, services: Collection[str] | None = None, update: Mapping[str, str] | None = None) -> str:
        """Return the stack file; JSON is YAML.

        Args:
            services: only these; by default all.
            update: what else their `update_config` says.
        """
        document = self._document()
        for name in set(document["services"]) - set(document["services"] if services is None else services):
            del document["services"][name]
        for service in document["services"].values():
            service["deploy"]["update_config"] |= update or {}
        return json.dumps(document)

    def _document(self) -> dict[str, Any]:
        document: dict[str, Any] = yaml.safe_load(template())
        services = document["services"]
        if not self.members:
            _remove_members(document)
        if self.options.etcd:
            _remove_etcd(document)
        if self.options.in_clear:
            _remove_certificates(document)
        # `$` begins a variable for Docker.
        label = self.options.label().replace("$", "$$")
        services["controller"]["deploy"]["labels"] = {OPTIONS_LABEL: label}
        return document


def _remove_members(document: dict[str, Any]) -> None:
    """Leave etcd as it is where it has one member: nobody to meet, and no health to wait for."""
    etcd = document["services"]["etcd"]
    for variable in ("LINKWIRE_ETCD_MEMBERS", "LINKWIRE_ETCD_PEER_CERT", "LINKWIRE_NODE_ID"):
        del etcd["environment"][variable]
    etcd["secrets"] = [one for one in etcd["secrets"] if one["source"] != "etcd_peer"]
    del document["secrets"]["etcd_peer"], etcd["healthcheck"]
    del etcd["deploy"]["replicas"], etcd["deploy"]["placement"]["max_replicas_per_node"]


def _remove_etcd(document: dict[str, Any]) -> None:
    del document["services"]["etcd"], document["volumes"]["store"]
    del document["secrets"]["etcd_server"], document["configs"]["etcd_server_trust"]


def _remove_certificates(document: dict[str, Any]) -> None:
    for sort in ("secrets", "configs"):
        document[sort] = {name: one for name, one in document[sort].items() if not name.startswith("etcd_")}
        for service in document["services"].values():
            service[sort] = [one for one in service.get(sort, []) if one["source"] in document[sort]]
    for service in document["services"].values():
        for variable in ("LINKWIRE_ETCD_CA", "LINKWIRE_ETCD_CERT", "LINKWIRE_ETCD_KEY"):
            del service["environment"][variable]


def template() -> str:
    """Return the stack file as it is packaged."""
    return resources.files("compose_ext.install").joinpath("stack.yml").read_text("utf-8")
