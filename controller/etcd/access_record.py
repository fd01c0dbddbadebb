"""Access record: the nodes that are users of etcd, written by the controller and read by `linkwire-etcd`. Pure.

Every node of the Swarm is a user of etcd, by its Swarm certificate, and writes its own records. The agents' shared
user writes only for nodes whose agents do not show that certificate: a manager of a locked Swarm cannot, since its
key is encrypted, and an older agent does not know how. An agent reports which user it is. Until it reports, it counts
as the shared user while Swarm calls its node up, so that no agent is cut off, whatever is upgraded first.

A revoked node is no user, and the shared one writes nothing for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from controller.steps import PlanStep
from controller.swarm.model import Swarm
from mesh.model import keyspace
from mesh.model.records import Access, Node
from mesh.model.snapshot import Put, Snapshot

SWARM_CA = "swarm-ca"
"""Common name of a root certificate made by Swarm (swarmkit, ca/certificates.go)."""


def access(swarm: Swarm, stored: Snapshot) -> Access:
    """Make the access record for these nodes.

    Args:
        swarm: complete lists.
        stored: as judged by `controller.trust.node_judgement`: records that a node has not signed are in `invalid`.
    """
    own = {node.id for node in stored.all(Node) if node.own_user}
    users = {node.id: node for node in swarm.nodes.values() if node.revoked is None}
    heard = {node for node in users if not _absent(stored, keyspace.node(node))}
    shared = {node.id for node in users.values() if node.id in heard or not node.down} - own
    roots = tuple(sorted(made_by_swarm(swarm.roots)))
    return Access(tuple(sorted(users)), tuple(sorted(shared)), roots, tuple(sorted(swarm.revocations())))


def _absent(stored: Snapshot, key: str) -> bool:
    return key not in stored.records and key not in stored.invalid


def steps(swarm: Swarm, stored: Snapshot) -> Iterator[PlanStep]:
    """Write the access record where it differs."""
    wanted = access(swarm, stored)
    if stored.get(keyspace.ACCESS, Access) != wanted:
        reason = f"{len(wanted.nodes)} nodes are users of etcd; the shared one writes for {len(wanted.shared)}"
        yield PlanStep((Put(wanted, stored.revision_of(keyspace.ACCESS)),), reason)


def problems(swarm: Swarm) -> Iterator[str]:
    """Explain why no node is a user of its own."""
    if swarm.roots and not list(made_by_swarm(swarm.roots)):
        yield (
            "this Swarm's root certificate was not made by Swarm and may have signed names that are users of etcd: "
            "etcd does not trust it, and all agents share one user"
        )


def made_by_swarm(roots: Sequence[bytes]) -> Iterator[str]:
    """Return the roots that Swarm has made itself, in PEM.

    etcd takes any common name that a trusted authority has signed for a user, even `root`. The key of a root that
    Swarm made is on managers only, which own the Swarm anyway, and Swarm signs no names but node ids. A company's
    root (`docker swarm ca --rotate --ca-cert`) may have signed other names for other uses.
    """
    for pem in roots:
        try:
            certificates = x509.load_pem_x509_certificates(pem)
        except ValueError:
            continue
        for root in certificates:
            names = [(name.oid, name.value) for name in root.subject]
            if names == [(NameOID.COMMON_NAME, SWARM_CA)] and root.issuer == root.subject:
                yield root.public_bytes(Encoding.PEM).decode()
