"""`docker linkwire upgrade`: another image on every node, one node at a time, and back again where one is not good.

Agents come first, then controllers: a new agent reads what an old controller writes. etcd is last. Swarm replaces one
agent and then waits for an hour; a change of that hour makes it take the next one, when all links are good.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from compose_ext.connectivity import run as connectivity
from compose_ext.convergence import link_health
from compose_ext.diagnostics import DockerError, UsageError
from compose_ext.docker_cli import Docker, printable
from compose_ext.install import preflight, rollout
from compose_ext.install.options import choose
from compose_ext.install.stack_template import Release
from compose_ext.install.target import work_out
from compose_ext.secrets.docker_secrets import DockerSecrets
from compose_ext.swarm import installation, link_states, listings, node_jobs
from compose_ext.swarm.installation import STACK
from compose_ext.swarm.listings import TIMEOUT

AGENT = f"{STACK}_agent"
_HOUR = 3600
_NANO = 10**9
_MEASURED_WITHIN = 30.0
"""Seconds: a reading's age is by two nodes' clocks, so after these it counts whatever age it says."""
_STEADY = 6.0
"""Seconds for which a new agent must run; Swarm itself watches it for 5."""
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Change:
    """An upgrade under way.

    Attributes:
        docker: a manager's.
        secrets: of the Swarm.
        old: the stack as it was.
        new: as it is to be.
        good: pairs of tasks whose links were good.
        seconds: that each node may take.
        say: prints a line of progress.
    """

    docker: Docker
    secrets: DockerSecrets
    old: Release
    new: Release
    good: frozenset[link_health.Key]
    seconds: float
    say: Callable[[str], None]


def upgrade(docker: Docker, image: str, *, seconds: float, force: bool, say: Callable[[str], None]) -> None:
    """Upgrade to an image: pre-flight, then one node at a time; everything goes back where a node is not good.

    Args:
        docker: a manager's.
        image: of the new version.
        seconds: that each node may take until all links are good again.
        force: also where the pre-flight finds problems.
        say: prints a line of progress.

    Raises:
        UsageError: the image's name will not do.
        DockerError: Linkwire is not installed, a node is not fit, or one was not good and all is as it was.
    """
    swarm = listings.manager(docker)
    before = installation.deployed(docker)
    if not before.services or not before.options:
        raise DockerError("Linkwire is not installed in this Swarm: `docker linkwire install` does it")
    old = choose({}, before.options)
    new = choose({"image": image}, before.options)
    say(f"testing the image {image}, and whether it can work, on every node")
    outcomes, findings = preflight.look(docker, swarm, before, new, seconds=seconds, say=say)
    preflight.require(findings, image, say, force=force)
    if any(outcome.report.get("misplaced") for outcome in outcomes):
        raise UsageError("volumes of a node have to be made anew, which `docker linkwire install` does: run it first")
    secrets = DockerSecrets(docker, before)
    target = work_out(docker, secrets, swarm, before, old, given={}, say=say)
    good = link_health.good(link_states.ask(docker, None).raw)
    say(f"connections of links that are good now, and have to be after each step: {len(good)}")
    # The image that runs, by its digest: its tag may stand for another one by now. The agents may be of the new one,
    # if an upgrade was broken off; controllers come after them.
    controller = before.services["controller"]["Spec"]["TaskTemplate"]["ContainerSpec"]
    running = replace(target, options=replace(old, image=str(controller["Image"]))).release(secrets)
    made = replace(target, options=new).release(secrets)
    change = Change(docker, secrets, running, made, good, seconds, say)
    try:
        _forward(change)
    except DockerError as error:
        _back(change, error)
    except KeyboardInterrupt:
        say(f"broken off: run it again to go on, or go back by docker linkwire install --image {old.image}")
        raise
    say(f"upgraded: every node runs {image}, every link that was good is, and a new one has carried traffic")


def _forward(change: Change) -> None:
    _agents(change)
    for role, words in (("controller", "the controllers are"), ("etcd", "etcd is")):
        if role in change.new.services:
            _deploy(change, role, {}, "always")
            rollout.wait(change.docker, change.seconds, change.say, settle=True)
            change.say(f"{words} replaced")
            _wait_links(change, {})
    rollout.deploy(change.docker, change.new, change.secrets, "changed")
    rollout.wait(change.docker, change.seconds, change.say, settle=True)
    if wrong := node_jobs.table(connectivity.prove(change.docker, change.new.options.image, change.say)):
        raise DockerError(f"a new link carries no traffic:\n  {wrong}")


def _back(change: Change, error: DockerError) -> None:
    """Put everything back, and raise the error, with what became of it."""
    change.say(f"not good, so everything goes back to {change.old.options.image}: {error}")
    rollout.deploy(change.docker, change.old, change.secrets)
    try:
        rollout.wait(change.docker, change.seconds, change.say)
        _wait_links(change, {})
    except DockerError as second:
        raise DockerError(f"the upgrade failed: {error}\nIt was put back, and not all is well: {second}") from None
    raise DockerError(f"the upgrade failed, and everything runs as before: {error}")


def _deploy(change: Change, role: str, update: Mapping[str, str], resolve: str = "changed") -> None:
    """Deploy one service of the new stack; the others stay as they are."""
    rollout.deploy(change.docker, change.new, change.secrets, resolve, services=[role], update=update)


def _agents(change: Change) -> None:
    """Replace the agents, one node at a time. Raises DockerError: one is not good."""
    nodes = node_jobs.active(change.docker)
    _deploy(change, "agent", _next_step(change), "always")
    done = set(_running(change.docker))  # by an upgrade that was broken off, or nothing is new
    since: dict[str, float] = {}
    while nodes.keys() - done:
        fresh = _wait_replaced(change, nodes, done)
        began = time.monotonic()
        done |= fresh.keys()
        since |= {nodes[node]: began for node in fresh if node in nodes}
        names = ", ".join(sorted(nodes.get(node, node) for node in fresh))
        change.say(f"{names}: the agent is replaced, on {len(done & nodes.keys())} of {len(nodes)} nodes now")
        _wait_links(change, since)
        time.sleep(max(0.0, began + _STEADY - time.monotonic()))
        _require_steady(change, names, fresh)
        if nodes.keys() - done:
            # Not `docker service update`: it writes the same mounts in another order, and all tasks are replaced.
            _deploy(change, "agent", _next_step(change))
    _deploy(change, "agent", {})  # Swarm would call it updating for another hour


def _next_step(change: Change) -> dict[str, str]:
    """Return how to update: one node, and the next one later than this one may take. Raises DockerError."""
    config = installation.deployed(change.docker).services["agent"]["Spec"].get("UpdateConfig") or {}
    return {"failure_action": "pause", "delay": f"{delay(int(config.get('Delay', 0)) // _NANO, change.seconds)}s"}


def delay(before: int, seconds: float) -> int:
    """Return the seconds after which Swarm goes on by itself; a number as before would not make it go on now."""
    return max(_HOUR, 2 * int(seconds), before + 1)


def _running(docker: Docker) -> dict[str, str]:
    """Return the tasks of agents of the newest specification that run: node's id to task's. Raises DockerError."""
    service = installation.deployed(docker).services["agent"]
    tasks = listings.tasks(docker, AGENT, wanted="desired-state=running")
    return {
        str(task.get("NodeID")): str(task["ID"])
        for task in tasks
        if task["Status"]["State"] == "running" and listings.is_current(task, service)
    }


def _wait_replaced(change: Change, nodes: Mapping[str, str], done: set[str]) -> dict[str, str]:
    """Wait until Swarm has replaced one more agent; returns the new tasks, by node. Raises DockerError."""
    deadline = time.monotonic() + change.seconds
    while True:
        _require_not_stopped(change)
        running = _running(change.docker)
        if fresh := {node: task for node, task in running.items() if node not in done}:
            return fresh
        if time.monotonic() > deadline:
            left = ", ".join(sorted(nodes[node] for node in nodes.keys() - done))
            raise _failed(change, f"no new agent runs after {change.seconds:g} s; left are {left}")
        time.sleep(rollout.LOOK_EVERY)


def _require_not_stopped(change: Change) -> None:
    """Raise DockerError where Swarm has stopped replacing a service's tasks, since a new one has failed."""
    for name, service in sorted(installation.deployed(change.docker).services.items()):
        status = service.get("UpdateStatus") or {}
        if rollout.is_back(status):
            raise _failed(change, f"{name}: {status.get('Message', '')}")


def _require_steady(change: Change, names: str, fresh: Mapping[str, str]) -> None:
    """Raise DockerError where a new agent has ended: Swarm starts another, and says no more of it."""
    _require_not_stopped(change)
    running = _running(change.docker)
    if any(running.get(node) != task for node, task in fresh.items()):
        raise _failed(change, f"{names}: the new agent ended within {_STEADY:g} s")


def _failed(change: Change, why: str) -> DockerError:
    return DockerError(printable("\n  ".join([why, *rollout.failures(change.docker)])))


def _wait_links(change: Change, since: Mapping[str, float]) -> None:
    """Wait until every link that was good is good again.

    Args:
        change: under way.
        since: name of a node with a new agent -> when that was seen to run.

    Raises:
        DockerError: it took too long, with what is not good; or Swarm has stopped.
    """
    began, last = time.monotonic(), ""
    while problems := _not_good(change, since):
        _require_not_stopped(change)
        if time.monotonic() > began + change.seconds:
            more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
            raise DockerError(f"after {change.seconds:g} s:\n  " + "\n  ".join(problems[:_SHOWN]) + more)
        if last != (last := f"waiting: {len(problems)} not good yet, {problems[0]}"):
            change.say(last)
        time.sleep(rollout.LOOK_EVERY)


def _not_good(change: Change, since: Mapping[str, float]) -> tuple[str, ...]:
    try:
        answer = link_states.ask(change.docker, None).raw
    except DockerError as error:  # this node's own agent is being replaced
        return (str(error),)
    now = time.monotonic()
    ages = {node: now - at for node, at in since.items() if now - at < _MEASURED_WITHIN}
    lost = (f"the link between tasks {one} and {other} is gone" for one, other in _lost(change, answer))
    return tuple(map(printable, (*lost, *link_health.wrong(change.good, answer, ages))))


def _lost(change: Change, answer: Mapping[str, Any]) -> list[link_health.Key]:
    """Return pairs that are gone although both tasks still run, those that are looked at."""
    gone = sorted(link_health.missing(change.good, answer))[:_SHOWN]
    return [pair for pair in gone if all(_runs(change.docker, task) for task in pair)]


def _runs(docker: Docker, task: str) -> bool:
    try:
        form = "{{.DesiredState}} {{.Status.State}}"
        return docker.ask(["inspect", "--type", "task", "--format", form, task], TIMEOUT).split() == ["running"] * 2
    except DockerError:  # Swarm has forgotten it
        return False
