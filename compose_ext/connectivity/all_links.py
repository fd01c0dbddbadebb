"""Sweep over the links that there are: one packet between each two tasks, tried by their agents."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from compose_ext.diagnostics import DockerError
from compose_ext.docker_cli import Docker
from compose_ext.swarm import link_states, linked_stacks, listings
from compose_ext.swarm.link_states import NO_READY_TASK, Link
from compose_ext.terminal import line

SECONDS = 600.0
"""For all links: each node tries eight pairs at once, for some two seconds where nobody answers."""


@dataclass(frozen=True, slots=True)
class Swept:
    """One link.

    Attributes:
        consumer: its service.
        provider: likewise.
        tried: pairs of tasks.
        ok: of these, how many had an answer.
        problem: `no ready task` where no task of the provider takes new connections; else empty.
    """

    consumer: str
    provider: str
    tried: int
    ok: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Pair:
    """A pair of tasks of a link.

    Attributes:
        consumer: its service.
        consumer_task: its name, as `ps` has it.
        consumer_node: its node's name.
        provider: likewise.
        provider_task: likewise.
        provider_node: likewise.
        problem: why there was no answer, in words; empty where there was one.

    A link without a ready task of the provider is told as one pair, whose tasks and nodes are empty.
    """

    consumer: str
    consumer_task: str
    consumer_node: str
    provider: str
    provider_task: str
    provider_node: str
    problem: str

    @property
    def was_tried(self) -> bool:
        """Whether there are two tasks."""
        return bool(self.consumer_task)

    def __str__(self) -> str:
        if not self.was_tried:
            return f"{self.consumer} -> {self.provider}: {self.problem}"
        ends = f"{self.consumer_task} on {self.consumer_node} -> {self.provider_task} on {self.provider_node}"
        return f"{ends}: {self.problem}"


def sweep(docker: Docker, stack: str | None) -> tuple[tuple[Swept, ...], tuple[Pair, ...]]:
    """Try every link, or those with a side in a stack; one whose provider has no ready task fails untried.

    Raises:
        AbsentError: there is no such stack.
        DockerError: Docker or the agent does not answer, or there is no link to try.
    """
    names: dict[str, str] = {}
    with suppress(DockerError):  # a worker's Docker does not know them
        names = {str(raw["ID"]): line(str(raw["Description"]["Hostname"])) for raw in listings.nodes(docker)}
    answer = link_states.ask(docker, stack, counted=True)
    pairs = [_pair(names, one) for one in link_states.documents(docker, "sweep", SECONDS, stack=stack)]
    pairs += [_without_backend(link) for link in answer.links if link.is_without_backend]
    if not pairs:
        if stack is not None and answer.stacks is not None:
            linked_stacks.require_stack(docker, stack, answer.stacks)
        where = f"stack {stack} has" if stack else "there is"
        raise DockerError(f"{where} no link between tasks that Linkwire knows: see `docker linkwire ps`")
    links: dict[tuple[str, str], list[Pair]] = {}
    for pair in pairs:
        links.setdefault((pair.consumer, pair.provider), []).append(pair)
    swept = tuple(_summed(consumer, provider, found) for (consumer, provider), found in sorted(links.items()))
    return swept, tuple(pair for pair in pairs if pair.problem)


def _summed(consumer: str, provider: str, found: Sequence[Pair]) -> Swept:
    tried = [pair for pair in found if pair.was_tried]
    problem = "" if len(tried) == len(found) else NO_READY_TASK
    return Swept(consumer, provider, len(tried), sum(not pair.problem for pair in tried), problem)


def _without_backend(link: Link) -> Pair:
    return Pair(link.consumer, "", "", link.provider, "", "", f"{NO_READY_TASK} of {link.provider}")


def _pair(names: Mapping[str, str], raw: Mapping[str, Any]) -> Pair:
    try:
        ends = [_end(names, raw, side) for side in ("consumer", "provider")]
        return Pair(*ends[0], *ends[1], line(str(raw["problem"])))
    except KeyError as error:
        raise DockerError(f"the agent's answer has no {error}") from None


def _end(names: Mapping[str, str], raw: Mapping[str, Any], side: str) -> tuple[str, str, str]:
    """Return a side's service, its task's name, and its node's name."""
    service, task, node = (line(str(raw[f"{side}{of}"])) for of in ("", "_task", "_node"))
    host = names.get(node, node)
    return service, f"{service}.{raw[f'{side}_slot'] or host}.{task[:12]}", host
