"""One walk along a link: Swarm's stages here, and the agent's."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from compose_ext.diagnostics import DockerError
from compose_ext.docker_cli import Docker, printable
from compose_ext.swarm import link_states
from compose_ext.terminal import line
from compose_ext.walks import agent_log, link_facts
from mesh.diagnosis import swarm_stages
from mesh.diagnosis.steps import NODE_STAGES, STAGES, Step
from mesh.diagnosis.swarm_facts import SwarmFacts

TIMEOUT = 60.0
"""Seconds for the agent's part of a walk: connections that are not answered take some."""
OUTCOMES = ("ok", "warning", "wrong", "skipped")


def walk(docker: Docker, facts: SwarmFacts, port: str) -> Iterator[Step]:
    """Yield the steps along a link, as they are found, up to the first that is wrong. Raises DockerError."""
    for step in swarm_stages.walk(facts):
        yield _with_log(docker, facts, step)
        if step.outcome == "wrong":
            return
    try:
        answered = link_states.documents(
            docker,
            "explain",
            TIMEOUT,
            consumer=facts.consumer,
            provider=facts.provider,
            port=port,
            consumer_tasks=link_facts.for_agent(facts, facts.consumer, facts.consumer_task),
            provider_tasks=link_facts.for_agent(facts, facts.provider, facts.provider_task),
        )
    except DockerError as error:
        yield unanswered(error)
        return
    for document in answered:
        yield _with_log(docker, facts, read_step(document))


def unanswered(error: DockerError) -> Step:
    """Return the step of a walk whose agent's part nobody answers."""
    text = f"the agent on this Docker endpoint, which has to be asked, does not answer: {error}"
    return Step("agent", "wrong", line(text), command=f"docker service ps {link_states.SERVICE}")


def _with_log(docker: Docker, facts: SwarmFacts, step: Step) -> Step:
    """Add what the log of an agent says that does not answer."""
    task = facts.agents.get(step.node)
    if task is None:
        return step
    words = agent_log.last_words(docker, task)
    command = f"docker service logs --tail 20 {task.id}"
    return replace(step, text=f"{step.text}; {words}", command=command) if words else step


def read_step(document: dict[str, Any]) -> Step:
    """Read one step of the agent's, and that by which it brings links together, if any. Raises DockerError."""
    try:
        step = Step(**{name: line(str(value)) for name, value in document["step"].items()})  # type: ignore[arg-type]
        ways = tuple((line(str(one)), line(str(other))) for one, other in document.get("ways", ()))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DockerError(f"the agent's answer is incomplete ({type(error).__name__}: {error})") from None
    if step.outcome not in OUTCOMES or step.stage not in {*STAGES, *NODE_STAGES}:
        unknown = printable(f"{step.stage} {step.outcome}")
        raise DockerError(f"the agent's answer has the unknown step {unknown!r}")
    return replace(step, cause=line(str(document.get("cause", ""))), ways=ways)
