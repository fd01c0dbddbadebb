"""Nodes of the etcd that we bring: those with its label, and the ones that get it, or lose it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compose_ext.diagnostics import DockerError
from compose_ext.docker_cli import Docker, printable
from compose_ext.swarm import installation, listings
from compose_ext.swarm.listings import TIMEOUT

ETCD_LABEL = "linkwire.etcd"
"""Label of the nodes that etcd runs on."""
_MEMBERS = "LINKWIRE_ETCD_MEMBERS="


@dataclass(frozen=True, slots=True)
class Place:
    """One node of etcd.

    Attributes:
        node: its id.
        name: for people.
        address: at which others reach it.
    """

    node: str
    name: str
    address: str


@dataclass(frozen=True, slots=True)
class Places:
    """Nodes of etcd.

    Attributes:
        chosen: those that it is to run on, the ones with its data first.
        labelled: ids of those that have the label now.
        running: ids of those that it runs on now.
    """

    chosen: tuple[Place, ...]
    labelled: frozenset[str]
    running: frozenset[str]

    @property
    def ids(self) -> frozenset[str]:
        """Return the ids of the chosen ones."""
        return frozenset(place.node for place in self.chosen)


def choose(
    docker: Docker, swarm: listings.Manager, before: installation.Deployed, number: int, *, grow: bool = True
) -> Places:
    """Choose the nodes of etcd: those that it runs on, else labelled ones, else this manager and then others.

    Args:
        docker: a manager's.
        swarm: it.
        before: what is deployed.
        number: of nodes.
        grow: take nodes without the label where there are too few with it.

    Raises:
        DockerError: Docker failed, there are too few nodes, or Swarm does not know how others reach one.
    """
    nodes = {str(node["ID"]): node for node in listings.nodes(docker)}
    labelled = frozenset(node for node in nodes if _labels(nodes[node]).get(ETCD_LABEL) == "true")
    running = _data_first(docker, before)
    ordered = order(nodes, labelled, running, swarm.node)
    chosen = ordered[:number] if grow else [node for node in ordered if node in labelled]
    if len(chosen) != number:
        if grow:
            raise DockerError(
                f"etcd is to run on {number} nodes, and only {len(chosen)} managers are up: give the label to "
                f"others, docker node update --label-add {ETCD_LABEL}=true NODE, or ask for fewer, --etcd-nodes"
            )
        raise DockerError(
            f"{len(chosen)} nodes have the label {ETCD_LABEL}=true, and etcd is to run on {number} (--etcd-nodes): "
            "run `docker linkwire install` first"
        )
    return Places(tuple(_place(nodes[node]) for node in chosen), labelled, frozenset(running))


def order(
    nodes: Mapping[str, Mapping[str, Any]], labelled: Collection[str], data: Sequence[str], here: str
) -> list[str]:
    """Return the nodes that may run etcd, the best first.

    Args:
        nodes: all, by id, as Docker shows them.
        labelled: ids of those with the label.
        data: ids of those that run etcd now, in their order.
        here: id of the manager that is asked.
    """

    def rank(node: str) -> tuple[Any, ...]:
        at = data.index(node) if node in data else len(data)
        return node not in labelled, not _is_up(nodes[node]), at, node != here, _name(nodes[node]), node

    return sorted((node for node in nodes if node in labelled or _is_able(nodes[node])), key=rank)


def _data_first(docker: Docker, before: installation.Deployed) -> list[str]:
    """Return the ids of the nodes that etcd runs on, in the order in which its members know each other."""
    if members := deployed_members(before):
        return [part.partition("=")[0] for part in members.split(",")]
    if "etcd" not in before.services:
        return []
    tasks = listings.tasks(docker, str(before.services["etcd"]["ID"]), wanted="desired-state=running")
    return sorted(str(task["NodeID"]) for task in tasks if task.get("NodeID"))


def deployed_members(before: installation.Deployed) -> str:
    """Return the members that the deployed etcd has been given; empty where it is one, or none."""
    return deployed_variable(before, _MEMBERS)


def deployed_variable(before: installation.Deployed, name: str) -> str:
    """Return a variable of the deployed etcd, by its name with `=`; empty where it has none."""
    spec = before.services.get("etcd", {}).get("Spec", {}).get("TaskTemplate", {}).get("ContainerSpec", {})
    return next((str(one).removeprefix(name) for one in spec.get("Env") or [] if str(one).startswith(name)), "")


def add_labels(docker: Docker, places: Places, say: Callable[[str], None]) -> None:
    """Give the label to chosen nodes that do not have it. Raises DockerError."""
    for place in places.chosen:
        if place.node not in places.labelled:
            docker.ask(["node", "update", "--label-add", f"{ETCD_LABEL}=true", place.node], TIMEOUT)
            say(f"etcd runs on {place.name}, which now has the label {ETCD_LABEL}=true")


def drop_labels(docker: Docker, places: Places, say: Callable[[str], None]) -> None:
    """Take the label from nodes that are not chosen. Raises DockerError."""
    for node in sorted(places.labelled - places.ids):
        docker.ask(["node", "update", "--label-rm", ETCD_LABEL, node], TIMEOUT)
        say(f"etcd runs no more on node {node}, which has lost the label {ETCD_LABEL}")


def _place(node: Mapping[str, Any]) -> Place:
    manager = str((node.get("ManagerStatus") or {}).get("Addr", "")).rpartition(":")[0].strip("[]")
    address = manager or str((node.get("Status") or {}).get("Addr", ""))
    if address in ("", "0.0.0.0", "127.0.0.1", "::1"):  # noqa: S104 - what Swarm writes when it does not know
        raise DockerError(f"Swarm does not know how other nodes reach {_name(node)}: give --etcd-address")
    return Place(str(node["ID"]), _name(node), address)


def _is_up(node: Mapping[str, Any]) -> bool:
    state = (node.get("Status") or {}).get("State"), (node.get("Spec") or {}).get("Availability")
    return state == ("ready", "active")


def _is_able(node: Mapping[str, Any]) -> bool:
    manager = node.get("ManagerStatus") or {}
    return _is_up(node) and manager.get("Reachability") == "reachable"


def _labels(node: Mapping[str, Any]) -> Mapping[str, str]:
    return (node.get("Spec") or {}).get("Labels") or {}


def _name(node: Mapping[str, Any]) -> str:
    return printable(str((node.get("Description") or {}).get("Hostname", node["ID"]))).replace("\n", " ")
