"""Consent between stacks as the services' labels in the Swarm have it: links that are refused, or will be."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from compose_ext.diagnostics import DockerError
from compose_ext.docker_cli import Docker, printable
from compose_ext.swarm.agent_answer import TIMEOUT
from mesh.model.consent import NAMESPACE, stack_of
from mesh.model.labels import PREFIX, LabelError, ServiceLabels, decode
from mesh.topology.agreement import Recorded, Refusal, agree, allows, known_hosts, network_aliases


@dataclass(frozen=True, slots=True)
class Labelled:
    """A service of the Swarm, with what its labels say."""

    id: str
    name: str
    stack: str | None
    labels: ServiceLabels
    errors: tuple[LabelError, ...]
    hosts: frozenset[str]
    aliases: tuple[tuple[str, str], ...]


def listed(docker: Docker) -> list[Labelled]:
    """List all services, by name.

    Raises:
        DockerError: they cannot be asked, or the answer cannot be understood.
    """
    return _inspected(docker, docker.ask(["service", "ls", "--quiet"], TIMEOUT).split())


def _inspected(docker: Docker, names: Sequence[str]) -> list[Labelled]:
    if not names:
        return []
    try:
        return labelled(json.loads(docker.ask(["service", "inspect", *names], TIMEOUT)))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DockerError(f"unexpected answer of docker ({type(error).__name__}: {error})") from None


def labelled(services: Sequence[dict[str, Any]]) -> list[Labelled]:
    """Read services as Docker shows them, by name. Raises AttributeError, KeyError, TypeError, ValueError."""
    return sorted((_labelled(str(one.get("ID", "")), one["Spec"]) for one in services), key=lambda one: one.name)


def _labelled(identity: str, spec: dict[str, object]) -> Labelled:
    name, labels = str(spec["Name"]), spec.get("Labels") or {}
    if not isinstance(labels, dict):
        raise TypeError("labels are no mapping")
    ours = {label: str(text) for label, text in labels.items() if label.lower().startswith(PREFIX)}
    stack = stack_of(name, labels.get(NAMESPACE))
    return Labelled(identity or name, name, stack, *decode(ours), known_hosts(spec), network_aliases(spec))


def unwilling(docker: Docker, providers: Sequence[str], consumer: str, stack: str) -> list[str]:
    """Return those of some services that do not allow a link from a service of a stack.

    Raises:
        DockerError: they cannot be asked.
    """
    asking = Labelled(consumer, consumer, stack, ServiceLabels(), (), frozenset(), ())
    return [one.name for one in _inspected(docker, providers) if not allows(one, asking)]


def refused(services: Sequence[Labelled], stack: str | None) -> list[str]:
    """Say which links the labels themselves refuse.

    Not those to a provider that says nothing: only the store knows which of them go on, so the agent says that.

    Args:
        services: all of them.
        stack: only links with a side in this stack; None: all.
    """
    return [printable(one.text) for one in _refusals(services, stack) if one.reason != "silent"]


def silent(services: Sequence[Labelled], stack: str | None) -> list[str]:
    """Return a line for each provider that does not say whether it allows other stacks' links; see `refused`."""
    consumers: defaultdict[str, set[str]] = defaultdict(set)
    for one in _refusals(services, stack):
        if one.reason == "silent":
            consumers[one.provider].add(one.consumer)
    return [_to_add(provider, ", ".join(sorted(names)), len(names)) for provider, names in sorted(consumers.items())]


def _to_add(provider: str, consumers: str, count: int) -> str:
    return printable(
        f"service {provider}: {consumers} {'links' if count == 1 else 'link'} to it from outside its stack. To go on "
        f"with that, write in {provider}: `x-wireguard: {{allow: [{consumers}]}}`, before it is deployed again"
    )


def _refusals(services: Sequence[Labelled], stack: str | None) -> list[Refusal]:
    found = agree({service.id: service for service in services}, Recorded()).refusals
    return [one for one in found if stack is None or one.concerns(stack)]
