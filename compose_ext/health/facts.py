"""Facts about a Swarm's links, from its Docker and from the agent there."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from compose_ext.diagnostics import DockerError
from compose_ext.docker_cli import Docker, printable
from compose_ext.health import missing_tasks, node_encryption, node_keys
from compose_ext.health.judgement import Expiry, Facts, Finding, Node
from compose_ext.health.node_encryption import Encryption
from compose_ext.install import renew
from compose_ext.install.options import read_label
from compose_ext.swarm import consents, gate, installation, link_states, linked_stacks, listings, revoked_nodes
from compose_ext.swarm.link_states import Answer


def gather(docker: Docker) -> Facts:
    """Ask for everything; what is not answered is left out.

    Raises:
        DockerError: neither the Swarm nor an agent can be asked.
    """
    answer: Answer | None = None
    unanswered = ""
    try:
        answer = link_states.ask(docker, None, counted=True)
    except DockerError as error:
        unanswered = str(error)
    try:
        return about(docker, answer, unanswered)
    except DockerError:  # a worker's Docker does not know
        if answer is None:
            raise DockerError(unanswered) from None
        return Facts(answer)


def about(docker: Docker, answer: Answer | None, unanswered: str = "") -> Facts:
    """Add what a manager's Docker knows to the agent's answer.

    Raises:
        DockerError: the endpoint is no manager, or does not answer.
    """
    try:
        nodes = tuple(map(_node, listings.nodes(docker)))
        names = {node.id: node.hostname for node in nodes}
        deployed = installation.deployed(docker)
        services = deployed.services
        running = {role: _running(docker, role, names) for role in installation.SERVICES if role in services}
    except (AttributeError, KeyError, TypeError) as error:
        raise DockerError(f"unexpected answer of docker ({type(error).__name__}: {error})") from None
    certificates: list[Expiry] = []
    with suppress(DockerError):
        stored, _ = renew.check(docker)
        certificates = [
            Expiry(each.name, each.days, each.remedy) for each in stored if each.in_use and each.days is not None
        ]
    up = tuple(sorted(nodes, key=lambda node: node.hostname))
    others = revoked_nodes.problems(docker)
    found: tuple[Finding, ...] = ()
    encrypted: Encryption | None = None
    if answer is not None:
        encrypted = node_encryption.read(Facts(answer).control, _up(nodes), read_label(deployed.options or ""))
        if encrypted is not None and encrypted.wanted != "off":
            others += node_encryption.overlays(docker).problems()
        others += node_keys.unproven(docker, answer)
        with suppress(DockerError):
            others += _dropped(docker, answer)
        with suppress(DockerError):  # a service was removed meanwhile
            found = missing_tasks.missing(docker, answer)
    return Facts(answer, unanswered, up, running, tuple(certificates), tuple(others), found, encrypted)


def _dropped(docker: Docker, answer: Answer) -> list[str]:
    """Return a problem for each stack whose links `docker stack deploy` has dropped. Raises DockerError.

    The agent hears of a new stack a little later, so that the labels, which cost more to ask for, decide.
    """
    consumers = {link.consumer for link in answer.links}
    names = docker.ask(["service", "ls", "--format", "{{.Name}}"], listings.TIMEOUT).split()
    if not linked_stacks.dropped(docker, {name: name in consumers for name in names}, None):
        return []
    return linked_stacks.dropped(docker, consents.linked(consents.listed(docker)), None)


def _up(nodes: Iterable[Node]) -> dict[str, str]:
    return {node.id: node.hostname for node in sorted(nodes, key=lambda node: node.hostname) if node.is_up}


def _node(raw: Mapping[str, Any]) -> Node:
    labels = raw["Spec"].get("Labels") or {}
    return Node(
        str(raw["ID"]),
        printable(str(raw["Description"]["Hostname"])),
        raw["Status"]["State"] == "ready",
        labels.get(gate.LABEL) == "true",
        raw["Spec"].get("Availability") == "drain",
    )


def _running(docker: Docker, role: str, names: Mapping[str, str]) -> tuple[str, ...]:
    tasks: Iterable[Mapping[str, Any]] = listings.tasks(
        docker, f"{installation.STACK}_{role}", wanted="desired-state=running"
    )
    nodes = (str(task.get("NodeID", "")) for task in tasks if task["Status"]["State"] == "running")
    return tuple(sorted(names.get(node, node) for node in nodes))
