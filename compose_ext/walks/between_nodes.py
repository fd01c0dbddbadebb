"""Walk between two nodes, along node encryption: Swarm's stages here, and the agent's."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from compose_ext.diagnostics import DockerError
from compose_ext.docker_cli import Docker
from compose_ext.swarm import link_states, listings, revoked_nodes
from compose_ext.terminal import line
from compose_ext.walks import agent_log, link_facts
from compose_ext.walks.link_facts import Swarm
from compose_ext.walks.walk import TIMEOUT, read_step, unanswered
from mesh.diagnosis.steps import Step, ago, ok
from mesh.diagnosis.swarm_facts import SwarmNode, SwarmTask


@dataclass(frozen=True, slots=True)
class NodePair:
    """Two nodes as Swarm has them.

    Attributes:
        nodes: the two.
        wanted: mode of node encryption that was asked for; `off`.
        revoked: ids of those that are revoked.
        agents: each node's newest agent, by the node's id.
    """

    nodes: tuple[SwarmNode, SwarmNode]
    wanted: str
    revoked: frozenset[str]
    agents: dict[str, SwarmTask]


def named(swarm: Swarm, one: str, other: str) -> tuple[SwarmNode, SwarmNode] | None:
    """Return the two nodes of these names or ids; None where a service has one of the names, or no node has."""
    found = []
    for name in (one, other):
        nodes = [node for node in swarm.nodes.values() if name in (node.id, node.name)]
        if len(nodes) != 1 or name in swarm.services:
            return None
        found.append(nodes[0])
    return (found[0], found[1]) if found[0].id != found[1].id else None


def read(docker: Docker, swarm: Swarm, nodes: tuple[SwarmNode, SwarmNode], wanted: str) -> NodePair:
    """Read what Swarm knows beside the nodes; `wanted` is the mode that was asked for. Raises DockerError."""
    tasks = link_facts.tasks_of(docker, swarm, ())
    revoked = frozenset(str(raw["ID"]) for raw in listings.nodes(docker) if revoked_nodes.since(raw) is not None)
    return NodePair(nodes, wanted, revoked, link_facts.newest_agents(tasks))


def walk(docker: Docker, pair: NodePair) -> Iterator[Step]:
    """Yield the steps between two nodes, as they are found, up to the first that is wrong."""
    for step in by_swarm(pair):
        yield _with_log(docker, pair, step)
        if step.outcome == "wrong":
            return
    nodes = [{"id": node.id, "host": node.name} for node in pair.nodes]
    try:
        answered = link_states.documents(docker, "explain-nodes", TIMEOUT, nodes=nodes, wanted=pair.wanted)
    except DockerError as error:
        yield unanswered(error)
        return
    for document in answered:
        yield _with_log(docker, pair, read_step(document))


def by_swarm(pair: NodePair) -> Iterator[Step]:
    """Judge what Swarm alone can answer: whether both nodes are up, and their agents run."""
    for node in pair.nodes:
        if node.state != "ready":
            text, command = f"node {node.name} is {node.state}", f"docker node inspect {node.name}"
            yield Step("node", "wrong", text, f"node {node.name}", command=command)
            return
        if node.id in pair.revoked:
            text = f"node {node.name} is revoked: it has no part in node encryption"
            command = f"docker linkwire node approve {node.name}"
            yield Step("node", "wrong", text, f"node {node.name}", command=command)
            return
    names = " and ".join(node.name for node in pair.nodes)
    yield ok("node", f"{names} are up")
    is_well = True
    for node in pair.nodes:
        task = pair.agents.get(node.id)
        if task is None or not task.is_running:
            is_well = False
            text = f"no agent runs on {node.name}; its kernel goes on with what is there"
            since = ago(task.age) if task is not None else ""
            command = f"docker service ps --no-trunc --filter node={node.name} {link_states.SERVICE}"
            yield Step("agent", "warning", text, f"node {node.name}", since, command, node.id)
    if is_well:
        yield ok("agent", f"an agent runs on {names}")


def _with_log(docker: Docker, pair: NodePair, step: Step) -> Step:
    """Add what the log of an agent says that does not answer, and the command that shows that agent's own log."""
    task = pair.agents.get(step.node)
    if task is None or step.outcome == "ok":
        return step
    command = f"docker service logs --tail 20 {task.id}"
    if step.stage != "agent":
        return replace(step, command=step.command or command)
    words = agent_log.last_words(docker, task)
    return replace(step, text=f"{step.text}; {line(words)}", command=command) if words else step
