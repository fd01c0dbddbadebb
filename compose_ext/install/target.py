"""The target of an install: options, seeds and certificates, taken from the Swarm or made."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from compose_ext.docker_cli import Docker
from compose_ext.install.etcd_members import nodes
from compose_ext.install.options import Options
from compose_ext.install.stack_template import Release
from compose_ext.secrets import etcd_certificates, external_etcd, seeds
from compose_ext.secrets.docker_secrets import DockerSecrets
from compose_ext.swarm import installation, listings
from compose_ext.swarm.listings import TIMEOUT

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
        members: of etcd, where it has several; else empty.
        replicas: of etcd.
    """

    options: Options
    endpoints: str
    seeds: seeds.Seeds
    tls: etcd_certificates.State | None
    own: external_etcd.ExternalEtcd | None = None
    members: str = ""
    replicas: int = 1

    def release(self, secrets: DockerSecrets) -> Release:
        """Return what to hand to Docker; makes the configs that list trusted authorities. Raises DockerError."""
        certificates = (
            etcd_certificates.mounted(secrets, self.tls) if self.tls else self.own.mounted() if self.own else {}
        )
        mounted = {**self.seeds.mounted(), **certificates}
        options, installed = self.options, self.seeds.installation
        return Release(options, self.endpoints, mounted, installed, self.members, self.replicas)


def work_out(
    docker: Docker,
    secrets: DockerSecrets,
    swarm: listings.Manager,
    before: installation.Deployed,
    options: Options,
    *,
    given: Mapping[str, str],
    say: Callable[[str], None],
    places: nodes.Places | None = None,
) -> Target:
    """Keep what is deployed, and make what is missing for the options.

    Args:
        docker: a manager's.
        secrets: of the Swarm.
        swarm: it.
        before: what is deployed.
        options: of the target.
        given: files for etcds of the user's own.
        say: prints a line of progress.
        places: nodes of the etcd that we bring; None: those that have its label.

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
    number = int(options.etcd_nodes)
    chosen = (places or nodes.choose(docker, swarm, before, number, grow=False)).chosen
    addresses = [options.etcd_address or place.address for place in chosen]
    endpoints = ",".join(_url(address, int(options.etcd_port)) for address in addresses)
    tls = etcd_certificates.state_of(secrets, before.mounts("etcd"), before.mounts("agent"))
    good = [one for one in etcd_certificates.generations(secrets) if one.covers(addresses)]
    if tls is None or tls.server not in {one.number for one in good}:
        tls = etcd_certificates.settled((good[-1] if good else etcd_certificates.make(secrets, addresses)).number)
    members = [f"{place.node}={_url(place.address, int(options.etcd_port) + 1)}" for place in chosen]
    return Target(options, endpoints, installed, tls, None, ",".join(members) if number > 1 else "", number)


def _url(address: str, port: int) -> str:
    return f"https://{f'[{address}]' if ':' in address else address}:{port}"


def labelled(docker: Docker, label: str = f"{nodes.ETCD_LABEL}=true") -> list[str]:
    """Return the ids of nodes with a label, by default etcd's. Raises DockerError."""
    return docker.ask(["node", "ls", "--quiet", "--filter", f"node.label={label}"], TIMEOUT).split()
