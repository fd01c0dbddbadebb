"""Record of the secrets and configs that `docker linkwire install` made: their Docker ids, in a node label.

Whoever may create secrets may create some with our names and labels. So work that was broken off is gone on with by
this record alone: a node's label is set by managers, a service's by nobody who may only create secrets, and an id is
Docker's own choice, so it cannot be taken beforehand.
"""

from collections.abc import Iterable

from compose_ext.docker_cli import Docker
from compose_ext.swarm import listings
from compose_ext.swarm.listings import TIMEOUT

LABEL = "linkwire.made"
"""Label of one node, which one does not matter: the ids, with commas between them."""


def recorded(docker: Docker) -> frozenset[str]:
    """Return the recorded ids. Raises DockerError."""
    nodes = _nodes(docker)
    if not nodes:
        return frozenset()
    found = listings.read(docker.ask(["node", "inspect", *nodes], TIMEOUT))
    labels = [(node["Spec"].get("Labels") or {}).get(LABEL, "") for node in found]
    return frozenset(filter(None, ",".join(map(str, labels)).split(",")))


def record(docker: Docker, ids: Iterable[str]) -> None:
    """Record these ids and no others. Raises DockerError."""
    first, *more = _nodes(docker) or [listings.manager(docker).node]
    docker.ask(["node", "update", f"--label-add={LABEL}={','.join(sorted(ids))}", first], TIMEOUT)
    for node in more:
        docker.ask(["node", "update", "--label-rm", LABEL, node], TIMEOUT)


def _nodes(docker: Docker) -> list[str]:
    return docker.ask(["node", "ls", "--quiet", "--filter", f"node.label={LABEL}"], TIMEOUT).split()
