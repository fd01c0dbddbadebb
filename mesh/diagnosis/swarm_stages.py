"""Stages that Swarm alone can answer: label, consent, placement, agent. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from mesh.diagnosis.steps import Outcome, Step, ago, ok, until_wrong
from mesh.diagnosis.swarm_facts import RUNNING, STARTING, SwarmFacts, SwarmTask
from mesh.model.labels.absent_services import near_service
from mesh.model.labels.link_labels import suggestion

_SHOWN = 5
AGENT = "linkwire_agent"


def walk(facts: SwarmFacts) -> Iterator[Step]:
    """Yield the steps up to the first that is wrong."""
    return until_wrong(step for stage in (_label, _consent, _placement, agents) for step in stage(facts))


def _label(facts: SwarmFacts) -> Iterator[Step]:
    consumer, provider = facts.services.get(facts.consumer), facts.provider
    for name in (facts.consumer, provider):
        if name not in facts.services:
            near = suggestion(name, facts.services)
            yield Step("label", "wrong", f"this Swarm has no service {name!r}{near}", command="docker service ls")
            return
    if consumer is None:
        return
    if provider in consumer.links:
        yield ok("label", f"{consumer.name} links to {provider}")
        return
    stack = consumer.name.partition("_")[0]
    command = f"docker linkwire deploy -c FILE {stack}"
    absent = [name for name in consumer.links if name not in facts.services]
    place = f"service {consumer.name}"
    if consumer.label_errors:
        text = f"{consumer.name} has no link to {provider}: {consumer.label_errors[0]}"
    elif absent:
        near = near_service(consumer.name, absent[0], facts.services)
        text = f"{consumer.name} has no link to {provider}, but one to {absent[0]}, which does not exist{near}"
    else:
        others = ", ".join(sorted(consumer.links)[:_SHOWN]) or "nothing"
        text = f"{consumer.name} has no link to {provider}: it links to {others}"
        if consumer.name in facts.services[provider].links:
            text += f"; {provider} links to {consumer.name}, and a link has one direction"
    yield Step("label", "wrong", text, place, command=command)


def _consent(facts: SwarmFacts) -> Iterator[Step]:
    if facts.refusal:
        yield Step("consent", "wrong", facts.refusal, f"service {facts.provider}")
    else:
        yield ok("consent", "both sides want it")


def _placement(facts: SwarmFacts) -> Iterator[Step]:
    found = [
        not_placed(facts, service, task)
        for service, task in ((facts.consumer, facts.consumer_task), (facts.provider, facts.provider_task))
    ]
    missing = [step for step in found if step is not None]
    yield from until_wrong(missing)
    if missing:
        return
    places = []
    for service in (facts.consumer, facts.provider):
        running = facts.running(service)
        nodes = sorted({facts.node_name(task.node) for task in running})
        tasks = "task" if len(running) == 1 else "tasks"
        places.append(f"{service} has {len(running)} running {tasks}, on {', '.join(nodes[:_SHOWN])}")
    yield ok("placement", "; ".join(places))


def not_placed(facts: SwarmFacts, service: str, wanted: str) -> Step | None:
    """Return what keeps a service, or one of its tasks, from running; None for nothing.

    Args:
        facts: of any link; of the service itself only its tasks and its specification count.
        service: its name.
        wanted: the task's id; empty for any.
    """
    tasks = facts.tasks.get(service, ())
    chosen = [task for task in tasks if not wanted or task.id == wanted]
    if any(task.is_running for task in chosen):
        return None
    drained = sorted(node.name for node in facts.nodes.values() if node.availability == "drain")
    down = sorted(node.name for node in facts.nodes.values() if node.state != "ready")
    known = facts.services.get(service)
    command = f"docker service ps --no-trunc {service}"
    if not chosen and known is not None and known.replicas == 0:
        text, command = f"{service} is scaled to 0", f"docker service scale {service}=1"
        return Step("placement", "wrong", text, f"service {service}", command=command)
    text, since, is_starting, cause, reason = f"{service} has no task", "", False, "", ""
    if chosen:
        newest = next((task for task in chosen if task.wanted == "running"), chosen[0])
        before = next((task for task in chosen[1:] if task.state == "failed" and task.error), None)
        reason = f": {newest.error}" if newest.error else f", after one that failed: {before.error}" if before else ""
        where = f" on {facts.node_name(newest.node)}" if newest.node else ""
        text, since = f"{newest.name} does not run{where}: it is {newest.state}{reason}", ago(newest.age)
        if newest.state == STARTING:
            is_starting = newest.wanted == RUNNING
            text += ": its health check has not passed yet, or it waits for its links"
        if newest.node and facts.nodes.get(newest.node) and facts.nodes[newest.node].name in down:
            down_node = f"node {facts.node_name(newest.node)} is down"
            text, is_starting = f"{newest.name} does not run: {down_node}", False
            cause = f"tasks do not run: {down_node}"
    without = sorted(node.name for node in facts.nodes.values() if not node.has_gate)
    if known is not None and known.needs_gate and without and not any(task.node for task in chosen):
        cause = f"`gate: true` places it on nodes with the start gate alone, and {_some(without)} without it"
        text, command = f"{text}; {cause}", f"docker linkwire gate install {' '.join(without[:_SHOWN])}"
    elif drained and (not chosen or not any(task.node and task.error for task in chosen)):
        text += f"; drained: {', '.join(drained)}"
        command = f"docker node update --availability active {drained[0]}"
        if not any(task.node for task in chosen):
            cause = f"tasks do not run{reason}; drained: {', '.join(drained)}"
    # A task that waits for its links is looked at further: why it is not wired is the cause.
    outcome: Outcome = "warning" if is_starting else "wrong"
    return Step("placement", outcome, text, f"service {service}", since, command, cause=cause)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more} {'is' if len(names) == 1 else 'are'}"


def agents(facts: SwarmFacts) -> Iterator[Step]:
    """Yield what Swarm says of the agents of the link's nodes: a warning for each that does not run.

    A link that works does without its agents, so the walk goes on; but nobody can look there.
    """
    nodes = sorted({task.node for service in (facts.consumer, facts.provider) for task in facts.running(service)})
    bad = [step for node in nodes for step in (_agent(facts, node),) if step is not None]
    if bad:
        yield from bad[:_SHOWN]
    else:
        yield ok("agent", f"an agent runs on {', '.join(sorted(map(facts.node_name, nodes))[:_SHOWN])}")


def _agent(facts: SwarmFacts, node: str) -> Step | None:
    name, task = facts.node_name(node), facts.agents.get(node)
    known = facts.nodes.get(node)
    if known is not None and known.state != "ready":
        return Step("agent", "warning", f"node {name} is down", f"node {name}", command=f"docker node inspect {name}")
    if task is not None and task.is_running:
        return None
    return Step(
        "agent",
        "warning",
        f"no agent runs on {name}: {_why(task)}",
        f"node {name}",
        ago(task.age) if task is not None else "",
        f"docker service ps --no-trunc --filter node={name} {AGENT}",
        node,
    )


def _why(task: SwarmTask | None) -> str:
    if task is None:
        return "Swarm has started none there"
    return f"its task is {task.state}{f' ({task.error})' if task.error else ''}"
