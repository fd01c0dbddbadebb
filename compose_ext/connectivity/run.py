"""Runs of the connectivity test: the short one of `install`, and the whole one of `docker linkwire test`."""

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from compose_ext.connectivity.stack import (
    ASK,
    GENERATION,
    MOST,
    PROGRAM,
    ROLLED,
    SECONDS,
    STRANGER,
    Plan,
    deploy,
    remove,
)
from compose_ext.diagnostics import DockerError
from compose_ext.docker_cli import Docker, printable
from compose_ext.swarm import listings, node_jobs
from compose_ext.swarm.listings import TIMEOUT

PROOF = "linkwire-proof"
TEST = "linkwire-test"
_OLDER = (
    "the Linkwire of this Swarm is older than this program and has no connectivity test: update it, with "
    "`docker linkwire install --image IMAGE`"
)
_STARTING = 60.0
_LOAD = 240.0
"""Seconds that an update under load may take, and all the cases before it."""
_LOOK_EVERY = 1.0


@dataclass(frozen=True, slots=True)
class Case:
    """A case, summed over all nodes.

    Attributes:
        name: of it.
        tried: how often.
        ok: how often it was as it should be.
        ms: median of the nodes' medians; None where it has no time.
    """

    name: str
    tried: int
    ok: int
    ms: float | None = None


@dataclass(frozen=True, slots=True)
class Tested:
    """The result of a whole test.

    Attributes:
        nodes: that took part, by name.
        cases: in the order in which they are tried.
        load: of the update under load: requests, lost, longest_gap_ms; empty where it was not tried.
        failures: the tries that were not as they should be: node, case, to, said.
        problems: by node, in words: those of all tasks, of ones that did not start too.
        seconds: that it took.
    """

    nodes: tuple[str, ...]
    cases: tuple[Case, ...]
    load: Mapping[str, Any] = field(default_factory=dict)
    failures: tuple[Mapping[str, str], ...] = ()
    problems: tuple[str, ...] = ()
    seconds: float = 0.0


def prove(docker: Docker, image: str, say: Callable[[str], None]) -> list[node_jobs.Outcome]:
    """Have every node ask every node over a link.

    Args:
        docker: a manager's.
        image: of the agent.
        say: prints a line of progress.

    Returns:
        An outcome a node, by name. Nothing of the stack is left.

    Raises:
        DockerError: Docker failed.
    """
    nodes = node_jobs.active(docker)
    remove(docker, PROOF)
    began = time.monotonic()
    try:
        deploy(docker, Plan(PROOF, image, sorted(nodes.values())))
        asking = _taking_part(docker, PROOF, nodes)
        return node_jobs.outcomes(docker, f"{PROOF}_{ASK}", asking, SECONDS + _STARTING, say)
    finally:
        remove(docker, PROOF)
        say(f"the test link ran for {time.monotonic() - began:.0f} s and is removed")


def test(docker: Docker, image: str, say: Callable[[str], None], *, seconds: float, load: bool, keep: bool) -> Tested:
    """Try everything that links promise, between all nodes, with a stack of its own.

    Args:
        docker: a manager's.
        image: of the agent.
        say: prints a line of progress.
        seconds: from the tasks' start until each must have had all answers.
        load: update a service while it is asked, too.
        keep: leave the stack there.

    Raises:
        DockerError: Docker failed.
    """
    nodes = node_jobs.active(docker)
    remove(docker, TEST)
    began = time.monotonic()
    try:
        say(f"deploying {TEST}: {min(len(nodes), MOST)} nodes, each with each")
        deploy(docker, Plan(TEST, image, sorted(nodes.values()), thorough=True, load=load, seconds=seconds))
        asking = _taking_part(docker, TEST, nodes)
        if load:
            _update_under_load(docker, asking, seconds, say)
        limit = seconds + _STARTING + (_LOAD if load else 0.0)
        asked = node_jobs.outcomes(docker, f"{TEST}_{ASK}", asking, limit, say)
        if asked and all(any(PROGRAM in problem for problem in one.problems) for one in asked):
            raise DockerError(_OLDER)
        strangers = node_jobs.outcomes(docker, f"{TEST}_{STRANGER}", asking, seconds, say)
        return summed([*asked, *strangers], time.monotonic() - began)
    finally:
        if not keep:
            say(f"removing {TEST}")
            remove(docker, TEST)


def summed(outcomes: Sequence[node_jobs.Outcome], seconds: float) -> Tested:
    """Sum up what the tasks printed; whatever a task may have printed instead is a problem of its node."""
    cases: dict[str, list[tuple[int, int, float | None]]] = {}
    failures: list[Mapping[str, str]] = []
    loads: list[tuple[int, int, float]] = []
    problems: list[str] = []
    for outcome in outcomes:
        report = outcome.report
        try:
            for name, case in report.get("cases", {}).items():
                took = case.get("ms")
                counted = (int(case["tried"]), int(case["ok"]), None if took is None else float(took))
                cases.setdefault(printable(str(name)), []).append(counted)
            for failed in report.get("failed", ()):
                shown = {key: printable(str(failed[key])) for key in ("case", "to", "said")}
                failures.append({"node": outcome.node, **shown})
            if asked := report.get("load"):
                loads.append((int(asked["requests"]), int(asked["lost"]), float(asked["longest_gap_ms"])))
        except (AttributeError, KeyError, TypeError, ValueError):
            problems.append(f"{outcome.node}: its task printed what this program does not understand")
        problems += [f"{outcome.node}: {problem}" for problem in outcome.problems]
    return Tested(
        tuple(dict.fromkeys(outcome.node for outcome in outcomes)),
        tuple(_case(name, of_nodes) for name, of_nodes in cases.items()),
        _load(loads),
        tuple(failures),
        tuple(problems),
        round(seconds, 1),
    )


def _case(name: str, of_nodes: Sequence[tuple[int, int, float | None]]) -> Case:
    took = [ms for _, _, ms in of_nodes if ms is not None]
    median = round(statistics.median(took), 2) if took else None
    return Case(name, sum(tried for tried, _, _ in of_nodes), sum(ok for _, ok, _ in of_nodes), median)


def _load(loads: Sequence[tuple[int, int, float]]) -> Mapping[str, Any]:
    if not loads:
        return {}
    requests, lost = sum(one[0] for one in loads), sum(one[1] for one in loads)
    return {"requests": requests, "lost": lost, "longest_gap_ms": max(one[2] for one in loads)}


def _taking_part(docker: Docker, stack: str, nodes: dict[str, str]) -> dict[str, str]:
    """Return the nodes that take part, id to name: where there are too many, those that Swarm chose."""
    if len(nodes) <= MOST:
        return nodes
    deadline = time.monotonic() + _STARTING
    chosen: set[str] = set()
    while len(chosen) < MOST and time.monotonic() < deadline:
        chosen = node_jobs.places(docker, f"{stack}_{ASK}")
        time.sleep(_LOOK_EVERY)
    return {node: name for node, name in nodes.items() if node in chosen}


def _update_under_load(docker: Docker, asking: Mapping[str, str], seconds: float, say: Callable[[str], None]) -> None:
    """Update the service with the virtual IP as soon as every node asks it, but for those whose task has ended."""
    deadline = time.monotonic() + seconds + _STARTING
    asked, begun = f"{TEST}_{ASK}", set[str]()
    while time.monotonic() < deadline:
        ended = {str(task.get("NodeID")) for task in listings.tasks(docker, asked) if _has_ended(task)}
        begun = _under_load(docker, asked) - ended
        if not asking.keys() - ended - begun:
            break
        time.sleep(_LOOK_EVERY)
    if begun:
        say("updating a service while it is asked")
        docker.ask(["service", "update", "--detach", f"--env-add={GENERATION}=2", f"{TEST}_{ROLLED}"], TIMEOUT)


def _has_ended(task: Mapping[str, Any]) -> bool:
    return task["Status"]["State"] in node_jobs.ENDED


def _under_load(docker: Docker, asked: str) -> set[str]:
    """Return the nodes whose task says that it has begun to ask for the time of an update."""
    begun: set[str] = set()
    with suppress(DockerError):
        for line in docker.ask(["service", "logs", "--raw", asked], TIMEOUT).splitlines():
            with suppress(ValueError):
                document = json.loads(line)
                if isinstance(document, dict) and "phase" in document:
                    begun.add(str(document.get("node")))
    return begun
