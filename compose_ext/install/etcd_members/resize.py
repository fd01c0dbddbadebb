"""Another number of etcd's members, or other nodes of it, in small steps while everything runs.

Certificates come first, as in a renewal: every client knows the new ones, and the new endpoints, before etcd shows
them. Then the new members come, or those that are too many leave, before their nodes lose the label. The services and
labels tell how far it has come, so an interrupted run continues when it is run again.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from compose_ext.docker_cli import Docker
from compose_ext.install import rollout
from compose_ext.install.etcd_members import nodes
from compose_ext.install.target import Target
from compose_ext.secrets import etcd_certificates
from compose_ext.secrets.docker_secrets import DockerSecrets
from compose_ext.swarm import installation

_CLIENTS = ("controller", "agent")


@dataclass(frozen=True, slots=True)
class Resize:
    """A change of etcd's nodes.

    Attributes:
        docker: a manager's.
        secrets: of the Swarm.
        before: what is deployed.
        places: nodes that etcd is to run on.
        target: to be deployed at the end, by the caller.
        seconds: that each step may take.
        say: prints a line of progress.
    """

    docker: Docker
    secrets: DockerSecrets
    before: installation.Deployed
    places: nodes.Places
    target: Target
    seconds: float
    say: Callable[[str], None]

    def prepare(self) -> Target:
        """Do all steps before the last one; return what to deploy in that one. Raises DockerError."""
        target = self._certificates()
        surplus = self.places.labelled - self.places.ids
        if surplus and nodes.deployed_members(self.before):
            self.say("members of etcd that are too many leave it")
            labelled = len(self.places.labelled | self.places.ids)
            members = ",".join(
                part for part in self._all_members(target).split(",") if part.partition("=")[0] in self.places.ids
            )
            nodes.add_labels(self.docker, self.places, self.say)
            self._deploy(replace(target, members=members, replicas=labelled), ["etcd"])
        nodes.add_labels(self.docker, self.places, self.say)
        nodes.drop_labels(self.docker, self.places, self.say)
        return target

    def finish(self, target: Target) -> None:
        """End etcd's trust in certificates that nobody shows any more. Raises DockerError."""
        if target.tls is None or (settled := etcd_certificates.without_surplus(target.tls)) is None:
            return
        rollout.wait(self.docker, self.seconds, self.say, settle=True)
        self._deploy(replace(target, tls=settled), ["etcd"])

    def _certificates(self) -> Target:
        """Have clients and etcd trust the certificates of the target; return it as it can be deployed then."""
        if not self.places.labelled:  # no etcd runs that could go on: it begins anew with the target's
            return self.target
        before, wanted = self.before, self.target.tls
        state = etcd_certificates.state_of(self.secrets, before.mounts("etcd"), before.mounts("agent"))
        if state is None or wanted is None or state.server == wanted.server:
            return self.target
        several = bool(nodes.deployed_members(before))
        while step := etcd_certificates.following(state, wanted.server, several=several):
            if step.server != state.server:
                return replace(self.target, tls=step)
            if step.clients != state.clients or step.clients_trust != state.clients_trust:
                self.say("controllers and agents show new certificates, and know etcd's nodes")
                self._deploy(replace(self.target, tls=step), _CLIENTS)
            else:
                self.say("etcd accepts new certificates too")
                self._deploy(self._as_deployed(replace(self.target, tls=step)), ["etcd"])
            state = step
        return self.target

    def _as_deployed(self, target: Target) -> Target:
        """Return a target with the members that run now."""
        endpoints = nodes.deployed_variable(self.before, "LINKWIRE_ETCD=")
        members = nodes.deployed_members(self.before)
        return replace(target, endpoints=endpoints, members=members, replicas=max(1, len(self.places.labelled)))

    def _all_members(self, target: Target) -> str:
        """Return the members to be; for one alone as for several, since it has to let others go."""
        if target.members:
            return target.members
        return nodes.deployed_members(self.before)

    def _deploy(self, target: Target, services: Collection[str]) -> None:
        rollout.deploy(self.docker, target.release(self.secrets), self.secrets, "changed", services=services)
        rollout.wait(self.docker, self.seconds, self.say)
