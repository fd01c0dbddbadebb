"""Walks along all links, for `docker linkwire check --live`: each cause once, with the links that it concerns."""

from collections.abc import Callable

from compose_ext.docker_cli import Docker
from compose_ext.walks import link_facts
from compose_ext.walks.link_facts import Side
from compose_ext.walks.walk import walk
from mesh.diagnosis.steps import Step, worst

_SHOWN = 3


def problems(docker: Docker, stack: str | None, say: Callable[[str], None]) -> list[str]:
    """Walk along every link; return what is wrong, in words.

    Args:
        docker: a manager's.
        stack: only links with a side in this stack.
        say: prints a line of progress.

    Raises:
        DockerError: Docker does not answer.
    """
    swarm = link_facts.read(docker)
    links = link_facts.links(swarm, stack)
    tasks = link_facts.tasks_of(docker, swarm, {name for pair in links for name in pair})
    causes: dict[tuple[str, str], tuple[Step, list[str]]] = {}
    for number, (consumer, provider) in enumerate(links, 1):
        say(f"waiting for link {number} of {len(links)}: {consumer} -> {provider}")
        cause = worst(walk(docker, link_facts.facts(swarm, tasks, Side(consumer), Side(provider)), ""))
        if cause is not None:
            # A silent agent, an absent controller and the like are one cause for all links.
            _, concerned = causes.setdefault((cause.stage, cause.text), (cause, []))
            concerned.append(f"{consumer} -> {provider}")
    return [_text(cause, concerned) for cause, concerned in causes.values()]


def _text(cause: Step, concerned: list[str]) -> str:
    more = f" and {len(concerned) - _SHOWN} more links" if len(concerned) > _SHOWN else ""
    since = f" (for {cause.since})" if cause.since else ""
    mend = f"; {cause.command}" if cause.command else ""
    return f"{', '.join(concerned[:_SHOWN])}{more}: {cause.text}{since}{mend}"
