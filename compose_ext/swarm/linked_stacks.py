"""Stacks deployed with links, noted in Docker configs; and whether the Swarm has a Linkwire.

`docker stack deploy` on files that were deployed with links silently removes their labels, and so their links.
So `deploy` notes each stack's linked services in a Docker config, which `docker stack rm` removes with the
stack, and `check` compares.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping

from compose_ext.diagnostics import DockerError, UnknownNameError, absent
from compose_ext.docker_cli import Docker, printable
from compose_ext.language.validation import Links
from compose_ext.swarm import link_states, listings
from compose_ext.swarm.installation import STACK
from mesh.model.labels.link_labels import suggestion

WITHOUT = "without-linkwire"
"""The flag of `deploy` for a Swarm that has no Linkwire (yet)."""

_TIMEOUT = 20.0
"""Seconds; an endpoint over ssh takes some to answer."""
_NEEDED = ("agent", "controller")
_NAMESPACE = "com.docker.stack.namespace"
"""Docker's own label: `docker stack rm` removes what has it."""
_STACK = "linkwire.stack"
_CONSUMERS = "linkwire.consumers"
_NOTE = b"docker linkwire deploy notes here which services of a stack have links; see docker linkwire check\n"


def require_linkwire(docker: Docker) -> None:
    """Require that the Swarm has a Linkwire agent and controller.

    Where it cannot be asked, it passes: the deployment then fails as well, with Docker's error.

    Raises:
        DockerError: it has not.
    """
    try:
        services = docker.ask(["service", "ls", "--format", "{{.Name}}"], _TIMEOUT).split()
    except DockerError:
        return
    missing = [role for role in _NEEDED if f"{STACK}_{role}" not in services]
    if missing:
        raise DockerError(
            f"nothing was deployed: this Swarm has no Linkwire {' and no '.join(missing)}, so nobody would wire these"
            f" links.\nInstall it first: docker linkwire install --image IMAGE\nTo deploy all the same: --{WITHOUT}"
        )


def require_stack(docker: Docker, stack: str, linked: Iterable[str]) -> None:
    """Require that there is such a stack.

    Args:
        docker: asked for the stacks that have no links.
        stack: its name.
        linked: the stacks with linked services, as the agent knows them.

    Raises:
        AbsentError: there is none.
        DockerError: none with links, and a worker's Docker does not know whether there is one without.
    """
    linked = sorted(linked)
    if stack in linked:
        return
    try:
        names = listings.names(docker, "stack")
    except DockerError:
        near = suggestion(stack, linked)
        raise UnknownNameError(
            f"no stack {stack!r} has linked services{near}, and this Docker knows no other stacks: ask a manager"
        ) from None
    if stack not in names:
        raise absent("stack", stack, names.union(linked))


def require_name(docker: Docker, name: str, *kinds: str) -> None:
    """Require that the Swarm has something of a name, as far as Docker or the agent there knows.

    Args:
        docker: a worker's knows nothing; then the agent is asked for what takes part in links.
        name: as for `listings.require`.
        kinds: of these.

    Raises:
        AbsentError: it has not.
        UnknownNameError: nothing linked has it, and a worker's Docker does not know of anything else.
        DockerError: neither answers.
    """
    try:
        listings.require(docker, name, *kinds)
    except DockerError:
        known = _linked(link_states.ask(docker, None, counted=True))
        if name.partition(".")[0] in known or any(one.startswith(f"{name}_") for one in known):
            return  # an older agent names no stacks
        those = f"{', '.join(kinds[:-1])} or {kinds[-1]}"
        near = suggestion(name, known)
        raise UnknownNameError(
            f"no {those} {name!r} takes part in links{near}, and this Docker knows no others: ask a manager"
        ) from None


def _linked(answer: link_states.Answer) -> set[str]:
    """Return the names of stacks and services with links, and of the nodes whose agents are heard."""
    known = {*(answer.stacks or ()), *(name for link in answer.links for name in (link.consumer, link.provider))}
    agents = (answer.raw.get("control") or {}).get("agents") or {}
    return known | {str(agent.get("hostname")) for agent in agents.values()} | agents.keys()


def remember(docker: Docker, stack: str, links: Links | None, say: Callable[[str], None]) -> None:
    """Record which services of a stack are deployed with links; without any, remove the record.

    The deployment is done: a failure here is only reported.
    """
    consumers = ",".join(sorted({*links.entries, *links.declared})) if links else ""
    try:
        form = f'{{{{.ID}}}} {{{{.Label "{_CONSUMERS}"}}}}'
        listed = docker.ask(["config", "ls", "--filter", f"label={_STACK}={stack}", "--format", form], _TIMEOUT)
        noted = [line.partition(" ") for line in listed.splitlines()]
        if [consumers for _, _, consumers in noted] == ([consumers] if consumers else []):
            return
        if noted:
            docker.ask(["config", "rm", *(identity for identity, _, _ in noted)], _TIMEOUT)
        if consumers:
            # Its own name may be too long: a config's has at most 64 characters.
            name = f"linkwire-{hashlib.sha256(stack.encode()).hexdigest()[:24]}"
            labels = {_NAMESPACE: stack, _STACK: stack, _CONSUMERS: consumers}
            flags = [f"--label={label}={value}" for label, value in labels.items()]
            docker.ask(["config", "create", *flags, name, "-"], _TIMEOUT, stdin=_NOTE)
    except DockerError as error:
        say(f"could not record that {stack} has links, so `check` cannot report it if they are dropped: {error}")


def forget_all(docker: Docker) -> None:
    """Remove the notes about all stacks, for when there is no Linkwire any more. Raises DockerError."""
    listed = docker.ask(["config", "ls", "--quiet", "--filter", f"label={_STACK}"], _TIMEOUT).split()
    if listed:
        docker.ask(["config", "rm", *listed], _TIMEOUT)


def dropped(docker: Docker, linked: Mapping[str, bool], stack: str | None) -> list[str]:
    """Return a problem for each stack whose services have lost the links that they were deployed with.

    Args:
        docker: asked for what `remember` noted.
        linked: full name of a service -> whether its labels have links now.
        stack: of this stack alone; None: of all.

    Raises:
        DockerError: it cannot be asked.
    """
    form = f'{{{{.Label "{_STACK}"}}}} {{{{.Label "{_CONSUMERS}"}}}}'
    listed = docker.ask(["config", "ls", "--filter", f"label={_STACK}", "--format", form], _TIMEOUT)
    found = []
    for line in sorted(listed.splitlines()):
        name, _, consumers = line.partition(" ")
        if stack is not None and name != stack:
            continue
        lost = [service for service in consumers.split(",") if linked.get(f"{name}_{service}") is False]
        if lost:
            found.append(
                printable(
                    f"stack {name}: {', '.join(lost)} had links and have none now: `docker stack deploy` drops them. "
                    f"Deploy it by `docker linkwire deploy -c FILE {name}`"
                )
            )
    return found
