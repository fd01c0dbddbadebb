"""Consent between stacks as the services' labels in the Swarm have it: links that are refused, or will be."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from compose_ext.diagnostics import DockerError
from compose_ext.docker_cli import Docker, printable
from compose_ext.swarm import listings
from compose_ext.swarm.link_states import TIMEOUT
from mesh.diagnosis.steps import is_lasting
from mesh.model.labels.consent import NAMESPACE, stack_of
from mesh.model.labels.link_labels import PREFIX, LabelError, ServiceLabels, decode
from mesh.topology.agreed_links import Recorded, Refusal, agree, allows, known_hosts, network_aliases


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
    updated: str = ""
    """When it was changed last, as Docker writes it."""


def listed(docker: Docker) -> list[Labelled]:
    """List all services, by name.

    Raises:
        DockerError: they cannot be asked, or the answer cannot be understood.
    """
    return _understood(listings.services(docker))


def _understood(services: Sequence[dict[str, Any]]) -> list[Labelled]:
    try:
        return labelled(services)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DockerError(f"unexpected answer of docker ({type(error).__name__}: {error})") from None


def labelled(services: Sequence[dict[str, Any]]) -> list[Labelled]:
    """Read services as Docker shows them, by name. Raises AttributeError, KeyError, TypeError, ValueError."""
    return sorted(map(_labelled, services), key=lambda one: one.name)


def _labelled(raw: dict[str, Any]) -> Labelled:
    identity, spec = str(raw.get("ID", "")), raw["Spec"]
    name, labels = str(spec["Name"]), spec.get("Labels") or {}
    if not isinstance(labels, dict):
        raise TypeError("labels are no mapping")
    ours = {label: str(text) for label, text in labels.items() if label.lower().startswith(PREFIX)}
    stack = stack_of(name, labels.get(NAMESPACE))
    said, errors = decode(ours)
    hosts, aliases, updated = known_hosts(spec), network_aliases(spec), str(raw.get("UpdatedAt") or "")
    return Labelled(identity or name, name, stack, said, errors, hosts, aliases, updated)


def unwilling(docker: Docker, providers: Sequence[str], consumer: str, stack: str) -> list[str]:
    """Return those of some services that do not allow a link from a service of a stack.

    Raises:
        DockerError: they cannot be asked.
    """
    asking = Labelled(consumer, consumer, stack, ServiceLabels(), (), frozenset(), ())
    found = listings.read(docker.ask(["service", "inspect", *providers], TIMEOUT)) if providers else []
    return [one.name for one in _understood(found) if not allows(one, asking)]


def linked(services: Iterable[Labelled]) -> dict[str, bool]:
    """Tell of each service, by its full name, whether its labels have links."""
    return {one.name: bool(one.labels.links or one.labels.consent.sources) for one in services}


def refused(docker: Docker, services: Sequence[Labelled], stack: str | None) -> list[str]:
    """Say which links the labels themselves refuse.

    Not those to a provider that says nothing: only the store knows which of them go on, so the agent says that. Nor,
    for a moment, those from a service that has yet to accept them: it may be deployed after the provider.

    Args:
        docker: a manager's.
        services: all of them.
        stack: only links with a side in this stack; None: all.

    Raises:
        DockerError: Docker does not say what time it is.
    """
    found = [one for one in _refusals(services, stack) if one.reason != "silent"]
    if any(one.reason == "not accepted" for one in found):
        now = listings.clock(docker)
        lasting = {one.name for one in services if is_lasting(listings.age(one.updated, now))}
        found = [one for one in found if one.reason != "not accepted" or one.provider in lasting]
    return [printable(one.text) for one in found]


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
