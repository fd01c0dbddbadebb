"""What is wrong in a running Swarm: service labels that cannot be read, and what the agent reports."""

import json
from collections.abc import Iterator

from compose_ext import deployed, ps
from compose_ext.engine import Docker, printable
from compose_ext.errors import DockerError
from mesh.labels import PREFIX, decode

_NO_MANAGER = "not a swarm manager"
"""In what every version of Docker says of it."""


def problems(docker: Docker, stack: str | None) -> list[str]:
    """Return all that is wrong, of one stack or of all.

    Raises:
        DockerError: neither the Swarm's services nor an agent can be asked.
    """
    found: list[str] = []
    unanswered: list[str] = []
    try:
        found += _label_problems(docker, stack)
    except DockerError as error:
        unanswered.append(f"the labels of services cannot be read: {explained(docker, error)}")
    try:
        found += ps.ask(docker, stack).problems
    except DockerError as error:
        unanswered.append(str(error))
    if len(unanswered) > 1:
        raise DockerError("\n".join(unanswered))
    return [*found, *unanswered]


def need_manager(docker: Docker) -> None:
    """See that the endpoint is a manager.

    Raises:
        DockerError: it is none; with the managers' addresses.
    """
    from compose_ext import rollout  # noqa: PLC0415 - where all is well it is not needed

    rollout.swarm(docker)


def explained(docker: Docker, error: DockerError) -> DockerError:
    """The same error; where a worker was asked what a manager answers, in words, and which managers there are."""
    if _NO_MANAGER not in str(error):
        return error
    try:
        need_manager(docker)
    except DockerError as better:
        return better
    return error


def _label_problems(docker: Docker, stack: str | None) -> Iterator[str]:
    ids = docker.ask(["service", "ls", "--quiet"], ps.TIMEOUT).split()
    if not ids:
        return
    linked: dict[str, bool] = {}
    try:
        services = json.loads(docker.ask(["service", "inspect", *ids], ps.TIMEOUT))
        for spec in sorted((service["Spec"] for service in services), key=lambda spec: str(spec["Name"])):
            name, labels = str(spec["Name"]), spec.get("Labels") or {}
            ours = {label: str(text) for label, text in labels.items() if label.lower().startswith(PREFIX)}
            read, errors = decode(ours)
            linked[name] = bool(read.links)
            if stack is None or name.startswith(f"{stack}_"):
                yield from (printable(f"service {name}: {error}") for error in errors)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DockerError(f"docker's answer is not understood ({type(error).__name__}: {error})") from None
    yield from deployed.dropped(docker, linked, stack)
