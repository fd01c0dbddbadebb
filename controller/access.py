"""Who is a user of etcd besides ours, as the controller says it and `linkwire-etcd` reads it. Pure.

Every node of the Swarm is one, by its Swarm certificate, and writes what is its own. The agents' shared user writes
for those alone whose agent does not show that certificate: a manager of a locked Swarm cannot, since its key is
encrypted, and an agent of before does not know how. So that nobody is cut off whatever is replaced first, an agent
says which of the two it is, and one that has not spoken is of the latter while Swarm says that its node is up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from controller.observed import Swarm
from controller.steps import Change
from mesh import keyspace
from mesh.records import Access, Node
from mesh.snapshot import Put, Snapshot

SWARM_CA = "swarm-ca"
"""The name of a root that Swarm has made (swarmkit, ca/certificates.go)."""


def access(swarm: Swarm, stored: Snapshot) -> Access:
    """What the record should say.

    Args:
        swarm: complete lists.
        stored: as `members` judged it: what a node has not signed itself is in `invalid`.
    """
    own = {node.id for node in stored.all(Node) if node.own_user}
    heard = {node for node in swarm.nodes if not _absent(stored, keyspace.node(node))}
    shared = {node.id for node in swarm.nodes.values() if node.id in heard or not node.down} - own
    return Access(tuple(sorted(swarm.nodes)), tuple(sorted(shared)), tuple(sorted(made_by_swarm(swarm.roots))))


def _absent(stored: Snapshot, key: str) -> bool:
    return key not in stored.records and key not in stored.invalid


def steps(swarm: Swarm, stored: Snapshot) -> Iterator[Change]:
    """What makes the record say it."""
    wanted = access(swarm, stored)
    if stored.get(keyspace.ACCESS, Access) != wanted:
        reason = f"{len(wanted.nodes)} nodes are users of etcd; the shared one writes for {len(wanted.shared)}"
        yield Change((Put(wanted, stored.revision_of(keyspace.ACCESS)),), reason)


def problems(swarm: Swarm) -> Iterator[str]:
    """Why no node is a user of its own, in words."""
    if swarm.roots and not list(made_by_swarm(swarm.roots)):
        yield (
            "this Swarm's root certificate is one of your own, which may have signed names that are users of etcd: "
            "etcd does not trust it, and agents share one user"
        )


def made_by_swarm(roots: Sequence[bytes]) -> Iterator[str]:
    """Those of some roots that Swarm has made itself, in PEM.

    etcd takes any common name that a trusted authority has signed for a user: `root` too. Who has the key of a root
    that Swarm made is a manager, and owns all of it anyway; and Swarm gives nodes no names but ids. A company's root
    (`docker swarm ca --rotate --ca-cert`) has perhaps signed other names, for others.
    """
    for pem in roots:
        try:
            found = x509.load_pem_x509_certificates(pem)
        except ValueError:
            continue
        for root in found:
            names = [(each.oid, each.value) for each in root.subject]
            if names == [(NameOID.COMMON_NAME, SWARM_CA)] and root.issuer == root.subject:
                yield root.public_bytes(Encoding.PEM).decode()
