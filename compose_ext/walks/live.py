"""Walks along all links, for `docker linkwire check --live`: each cause once, with the links that it concerns."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from compose_ext.diagnostics import DockerError
from compose_ext.docker_cli import Docker
from compose_ext.swarm import link_states, listings
from compose_ext.walks import agent_log, link_facts
from compose_ext.walks.batches import Batch, batches
from compose_ext.walks.causes import Cause, Concerned, causes
from compose_ext.walks.link_facts import Side, Swarm, Tasks
from compose_ext.walks.walk import read_step, unanswered
from mesh.diagnosis import swarm_stages
from mesh.diagnosis.steps import Step, is_lasting, worst
from mesh.diagnosis.swarm_facts import SwarmFacts, SwarmTask

QUIET_S = 150.0
"""Seconds without a word of the agent's: it tells of a batch when all of its links were tried."""
SAID_AFTER_S = 3.0
"""Seconds after which progress is said, once in a while."""
_SAID_EVERY_S = 0.5
_LOGS_AT_ONCE = 8

_Found = tuple[int, Step]
"""A link's number, and what is wrong with it."""


def problems(
    docker: Docker, stack: str | None, say: Callable[[str], None], named: Collection[str] = ()
) -> tuple[Cause, ...]:
    """Walk along every link; return each cause of one that does not work, the worst first.

    Args:
        docker: a manager's.
        stack: only links with a side in this stack.
        say: shows how far it is, once that takes a while.
        named: problems that are told already, in words: a cause that one of them names is not told again.

    Raises:
        DockerError: Docker does not answer.
    """
    now = listings.clock(docker)
    swarm = link_facts.read(docker, now)
    links = [link for link in link_facts.links(swarm, stack) if not _is_settling(swarm, *link)]
    if not links:
        return ()
    tasks = link_facts.tasks_for_walks(docker, swarm, {name for pair in links for name in pair}, now)
    of_link = link_facts.every(swarm, tasks)
    walked = _walked(docker, [of_link(Side(one), Side(other)) for one, other in links], _Progress(say, len(links)))
    found = [cause for cause in causes(walked) if not any(cause.text in text for text in named)]
    return _with_logs(docker, tasks, found)


def _is_settling(swarm: Swarm, consumer: str, provider: str) -> bool:
    """Tell whether a provider that is not there may be deployed in a moment, as its consumer just was."""
    ago = swarm.changes[consumer].ago
    return provider not in swarm.services and not is_lasting(ago)


class _Progress:
    """Progress of the walks: said when it takes a while, and not for each link."""

    def __init__(self, say: Callable[[str], None], total: int) -> None:
        self._say, self._total, self._done = say, total, 0
        self._next = time.monotonic() + SAID_AFTER_S

    def __call__(self, links: int) -> None:
        """Count links that are walked along."""
        self._done += links
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _SAID_EVERY_S
            self._say(f"waiting for links: {self._done} of {self._total} tried")


def _walked(docker: Docker, links: Sequence[SwarmFacts], progress: Callable[[int], None]) -> list[Concerned]:
    """Return the links that have a cause not to work, each with the step that names it."""
    said = {number: tuple(swarm_stages.walk(facts)) for number, facts in enumerate(links)}
    asked = [number for number, steps in said.items() if not any(step.outcome == "wrong" for step in steps)]
    progress(len(links) - len(asked))
    for at, step in _asked(docker, [links[number] for number in asked], progress):
        said[asked[at]] += (step,)
    found = ((links[number], worst(steps)) for number, steps in said.items())
    return [(f"{facts.consumer} -> {facts.provider}", step) for facts, step in found if step is not None]


def _asked(docker: Docker, links: Sequence[SwarmFacts], progress: Callable[[int], None]) -> Iterator[_Found]:
    """Ask the agent for all of some links; yields a link's number with what is wrong, where anything is."""
    left, unheard, why = set(range(len(links))), dict[str, str](), DockerError("its answer is incomplete")
    try:
        agent = link_states.container(docker) if links else ""
        for batch in batches(links):
            for number, step in _answered(docker, agent, batch, unheard, progress):
                left.discard(number)
                if step is not None:
                    yield number, step
    except DockerError as error:
        why = error
    yield from ((number, unanswered(why)) for number in sorted(left))


def _answered(
    docker: Docker, agent: str, batch: Batch, unheard: dict[str, str], progress: Callable[[int], None]
) -> Iterator[tuple[int, Step | None]]:
    """Ask for one batch; adds to `unheard` the nodes that did not answer, which the next batch does not ask again."""
    query = batch.without(unheard)
    told = link_states.stream(docker, agent, "walks", query, quiet_s=QUIET_S, waits=lambda: progress(0))
    for document in told:
        try:
            if "unheard" in document:
                unheard |= {str(node): str(why) for node, why in document["unheard"].items()}
                continue
            number = batch.numbers[int(document["link"])]
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise DockerError(f"its answer is incomplete ({type(error).__name__}: {error})") from None
        progress(1)
        yield number, read_step(document) if document.get("step") else None


def _with_logs(docker: Docker, tasks: Tasks, found: Sequence[Cause]) -> tuple[Cause, ...]:
    """Add what the logs of agents say that do not answer, each asked for once."""
    agents = link_facts.newest_agents(tasks)
    nodes = [node for node in dict.fromkeys(cause.node for cause in found) if node in agents]
    with ThreadPoolExecutor(max_workers=_LOGS_AT_ONCE) as pool:
        asked = {node: pool.submit(agent_log.last_words, docker, agents[node]) for node in nodes}
    words = {node: job.result() for node, job in asked.items()}
    return tuple(_with_log(cause, words, agents) for cause in found)


def _with_log(cause: Cause, words: Mapping[str, str], agents: Mapping[str, SwarmTask]) -> Cause:
    if not words.get(cause.node):
        return cause
    command = f"docker service logs --tail 20 {agents[cause.node].id}"
    return replace(cause, text=f"{cause.text}; {words[cause.node]}", command=command)
