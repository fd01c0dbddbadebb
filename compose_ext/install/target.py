"""The target of an install: options, seeds and certificates, taken from the Swarm or made."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from compose_ext.diagnostics import DockerError
from compose_ext.docker_cli import Docker
from compose_ext.install.options import Options
from compose_ext.install.stack_template import Release
from compose_ext.secrets import etcd_certificates, external_etcd, seeds
from compose_ext.secrets.docker_secrets import DockerSecrets
from compose_ext.swarm import installation, queries
from compose_ext.swarm.queries import TIMEOUT

ETCD_LABEL = "linkwire.etcd"
"""Label of the node that etcd runs on."""
KEY_LABEL = "linkwire.key"
"""Label of a node whose keys were approved by hand."""


@dataclass(frozen=True, slots=True)
class Target:
    """Options, seeds and certificates of one deployment.

    Attributes:
        options: the user's.
        endpoints: of etcd, for controller and agent.
        seeds: signing and link seed, verify keys.
        tls: certificates of the etcd that we bring.
        own: those of the user's own etcd. Neither for plaintext http://.
    """

    options: Options
    endpoints: str
    seeds: seeds.Seeds
    tls: etcd_certificates.State | None
    own: external_etcd.ExternalEtcd | None = None

    def release(self, secrets: DockerSecrets) -> Release:
        """Return what to hand to Docker; makes the configs that list trusted authorities. Raises DockerError."""
        certificates = (
            etcd_certificates.mounted(secrets, self.tls) if self.tls else self.own.mounted() if self.own else {}
        )
        mounted = {**self.seeds.mounted(), **certificates}
        return Release(self.options, self.endpoints, mounted, self.seeds.installation)


def work_out(
    docker: Docker,
    secrets: DockerSecrets,
    swarm: queries.Manager,
    before: installation.Deployed,
    options: Options,
    *,
    given: Mapping[str, str],
    say: Callable[[str], None],
) -> Target:
    """Keep what is deployed, and make what is missing for the options.

    Raises:
        UsageError: a file of the user's will not do.
        DockerError: Docker failed, or Swarm does not know where etcd is to be reached.
    """
    in_use = before.mounts("controller")
    if options.etcd:
        over_tls = not options.in_clear
        own = external_etcd.ensure(secrets, given, in_use | before.mounts("agent"), say) if over_tls else None
        return Target(options, options.etcd, seeds.ensure(secrets, swarm.cluster, in_use, say), None, own)
    installed = seeds.ensure(secrets, swarm.cluster, in_use, say)
    address = options.etcd_address or _advertised(docker, _etcd_node(docker))
    endpoints = f"https://{f'[{address}]' if ':' in address else address}:{options.etcd_port}"
    tls = etcd_certificates.state_of(secrets, before.mounts("etcd"), before.mounts("agent"))
    if tls is None or not any(one.address == address for one in etcd_certificates.generations(secrets)):
        good = [one for one in etcd_certificates.generations(secrets) if one.address == address]
        tls = etcd_certificates.settled((good[-1] if good else etcd_certificates.make(secrets, address)).number)
    return Target(options, endpoints, installed, tls)


def ensure_etcd_node(docker: Docker, swarm: queries.Manager, say: Callable[[str], None]) -> None:
    """Let etcd run on this manager if no node has its label. Raises DockerError."""
    if not labelled(docker):
        docker.ask(["node", "update", "--label-add", f"{ETCD_LABEL}=true", swarm.node], TIMEOUT)
        say("etcd runs on this manager, which now has the label linkwire.etcd=true")


def labelled(docker: Docker, label: str = f"{ETCD_LABEL}=true") -> list[str]:
    """Return the ids of nodes with a label, by default etcd's. Raises DockerError."""
    return docker.ask(["node", "ls", "--quiet", "--filter", f"node.label={label}"], TIMEOUT).split()


def _etcd_node(docker: Docker) -> str:
    nodes = labelled(docker)
    if len(nodes) != 1:
        raise DockerError(
            f"{len(nodes)} nodes have the label {ETCD_LABEL}=true, and etcd runs on one, where its data is: "
            f"docker node update --label-rm {ETCD_LABEL} NODE"
        )
    return nodes[0]


def _advertised(docker: Docker, node: str) -> str:
    found = json.loads(docker.ask(["node", "inspect", node], TIMEOUT))[0]
    manager = str((found.get("ManagerStatus") or {}).get("Addr", "")).rpartition(":")[0].strip("[]")
    address = manager or str((found.get("Status") or {}).get("Addr", ""))
    if address in ("", "0.0.0.0", "127.0.0.1", "::1"):  # noqa: S104 - what Swarm writes when it does not know
        raise DockerError(f"Swarm does not know how other nodes reach {node}: give --etcd-address")
    return address
