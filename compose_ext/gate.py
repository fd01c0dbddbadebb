"""`docker linkwire gate`: the start gate on nodes, put in, taken out or looked at from a manager.

A short Swarm service runs the image's `linkwire-gate` once on each of the nodes and is removed again: whoever manages
a Swarm can do so already, and nothing that listens on a node has to have such rights (decision 34).
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from compose_ext import completion, rollout
from compose_ext.engine import Docker, printable
from compose_ext.errors import DockerError, UsageError
from compose_ext.pflag import Group, pass_docker
from compose_ext.progress import say
from compose_ext.stackfile import STACK
from compose_ext.vault import TIMEOUT
from mesh.labels import GATE, suggestion

LABEL = "linkwire.gate"
"""The node label by which services with `gate: true` are placed."""
_SERVICE = "linkwire_gate"
_MARK = "linkwire.role=gate"
_WAIT = 300.0
"""Seconds until every node must have answered: it may have to pull the image."""
_LOG_TRIES, _LOG_TIMEOUT = 5, 10.0
_LOOK_EVERY = 0.3
_ENDED = ("complete", "failed", "rejected", "shutdown", "orphaned", "remove")
_SOCKET = "/var/run/docker.sock"
_MAX_WAIT = 86400
NOT_THERE = "the gate was not there"
"""As `linkwire-gate remove` says it."""
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the Swarm, as far as the gate is concerned."""

    id: str
    name: str
    obstacle: str | None
    """Why nothing can be run there now, with what to do."""
    labelled: bool


def run(
    docker: Docker, action: str, names: Sequence[str], say: Callable[[str], None], options: Sequence[str] = ()
) -> bool:
    """Do something about the gate on nodes; returns whether all of them did it.

    Args:
        docker: a manager's.
        action: `install`, `remove` or `status`.
        names: of nodes, as for `docker node`; none: all.
        say: is told what was done on each.
        options: of linkwire-gate.

    Raises:
        UsageError: there is no such node.
        DockerError: nothing could be asked of any node.
    """
    rollout.swarm(docker)
    agent = rollout.deployed(docker).services.get("agent")
    if agent is None:
        raise DockerError(
            "Linkwire is not installed in this Swarm, and its image does this: "
            "`docker linkwire install --gate` does both, `docker linkwire uninstall --image IMAGE` takes it out"
        )
    nodes = _nodes(docker, str(agent["ID"]))
    image = str(agent["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"])
    return _Run(docker, nodes, image, say).on(_chosen(nodes, names), action, options)


def take_out(docker: Docker, image: str, say: Callable[[str], None]) -> None:
    """Take the gate out of every node, for `docker linkwire uninstall`. Raises DockerError."""
    nodes = _nodes(docker, None)
    left = False

    def say_if_there(text: str) -> None:
        nonlocal left
        left = left or ": gate leaving: " in text
        if NOT_THERE not in text:
            say(text)

    # Of a node that is away the label is all that is known.
    asked = [node for node in nodes if node.labelled or not node.obstacle]
    if not _Run(docker, nodes, image, say_if_there).on(asked, "remove") or left:
        say(f"the gate is not out of every node: later run `docker linkwire uninstall --image={image}` again")


@dataclass(frozen=True, slots=True)
class _Run:
    """One run, over some of a Swarm's nodes."""

    docker: Docker
    nodes: Sequence[Node]
    """All of them."""
    image: str
    say: Callable[[str], None]

    def on(self, asked: Sequence[Node], action: str, options: Sequence[str] = ()) -> bool:
        """Do it on nodes; returns whether all did it. Raises DockerError."""
        for node in asked:
            if node.obstacle:
                self.say(f"{node.name}: nothing done: {node.obstacle}")
        able = [node for node in asked if not node.obstacle]
        if not able:
            return not asked
        if action == "remove":  # nothing new is placed there meanwhile
            _label(self.docker, [node for node in able if node.labelled], here=False)
        done = [self._finish(node, action, answer) for node, answer in self._answers(able, [action, *options])]
        return all(done) and len(able) == len(asked)

    def _answers(self, able: Sequence[Node], argv: Sequence[str]) -> list[tuple[Node, Mapping[str, Any]]]:
        answers = _ask(self.docker, self.nodes, able, self.image, argv)
        again = [node for node, answer in answers if answer.get("again")]
        if not again:
            return answers
        # The tasks that took the gate out as the default were made with it themselves.
        more = dict(_ask(self.docker, self.nodes, again, self.image, argv))
        return [(node, _both(answer, more[node]) if node in more else answer) for node, answer in answers]

    def _finish(self, node: Node, action: str, answer: Mapping[str, Any]) -> bool:
        refused = answer.get("refused") is not None
        newly_in = action == "install" and answer.get("gate") == "in" and not node.labelled
        if newly_in or (action == "remove" and refused and node.labelled):
            _label(self.docker, [node], here=True)
        self.say(printable(f"{node.name}: {_told(answer, action, labelled=node.labelled)}"))
        return not refused


def notes(docker: Docker, stack: str | None) -> list[str]:
    """Say on which nodes linked tasks run that started without the gate, though they may wait for it.

    Raises:
        DockerError: this is no manager, or it does not answer.
    """
    ids = docker.ask(["service", "ls", "--quiet"], TIMEOUT).split()
    services = _read(docker.ask(["service", "inspect", *ids], TIMEOUT)) if ids else []
    held = {str(one["ID"]): str(one["Spec"]["Name"]) for one in services if _waits(one, stack)}
    if not held:
        return []
    raw = _read(docker.ask(["node", "inspect", *docker.ask(["node", "ls", "--quiet"], TIMEOUT).split()], TIMEOUT))
    open_nodes = {
        str(one["ID"]): printable(str(one["Description"]["Hostname"]))
        for one in raw
        if (one["Spec"].get("Labels") or {}).get(LABEL) != "true"
    }
    found: dict[str, set[str]] = {}
    for task in _tasks(docker, *held):
        if str(task.get("NodeID")) in open_nodes and task["Status"]["State"] == "running":
            found.setdefault(str(task["NodeID"]), set()).add(held[str(task["ServiceID"])])
    if not found:
        return []
    nodes = sorted(open_nodes[node] for node in found)
    names = sorted(set().union(*found.values()))
    shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    return [
        printable(
            f"on {', '.join(nodes)} linked tasks start before they are wired, since these nodes have no gate "
            f"({shown}): `docker linkwire gate install {' '.join(nodes)}`"
        )
    ]


def _waits(service: Mapping[str, Any], stack: str | None) -> bool:
    labels = service["Spec"].get("TaskTemplate", {}).get("ContainerSpec", {}).get("Labels") or {}
    ours = stack is None or str(service["Spec"]["Name"]).startswith(f"{stack}_")
    return ours and labels.get(GATE, "false") != "false"


def _both(first: Mapping[str, Any], second: Mapping[str, Any]) -> Mapping[str, Any]:
    """What two runs on one node come to."""
    if "refused" in second:
        return second
    return {**second, "said": [*first.get("said", ()), *list(second.get("said", ()))[1:]]}


def _told(answer: Mapping[str, Any], action: str, *, labelled: bool) -> str:
    if (refused := answer.get("refused")) is not None:
        return f"nothing done: {refused}"
    said = [str(text) for text in answer.get("said", ())]
    if action == "status":
        said.append(f"label {LABEL}: {'yes' if labelled else 'no'}")
    return f"gate {answer.get('gate')}: {'; '.join(said)}"


def _ask(
    docker: Docker, nodes: Sequence[Node], able: Sequence[Node], image: str, argv: Sequence[str]
) -> list[tuple[Node, Mapping[str, Any]]]:
    """Run linkwire-gate on nodes at once; what each said, by its name."""
    _remove(docker)  # what a run that was broken off has left
    # There is no "one of": every other node is excluded.
    spared = [f"--constraint=node.id!={node.id}" for node in nodes if node not in able]
    try:
        docker.ask(
            [
                *("service", "create", "--quiet", "--detach", f"--name={_SERVICE}", f"--label={_MARK}"),
                *("--container-label", _MARK, "--mode=global", "--restart-condition=none", "--network=host"),
                *("--cap-drop=ALL", "--read-only", "--log-driver=json-file", "--with-registry-auth"),
                *("--no-resolve-image", "--entrypoint=linkwire-gate", "--env=LINKWIRE_TASK={{.Task.ID}}"),
                f"--mount=type=bind,source={_SOCKET},target={_SOCKET}",
                *spared,
                image,
                *argv,
            ],
            TIMEOUT,
        )
        ended = _wait(docker, {node.id for node in able})
        return [(node, _answer(docker, ended.get(node.id))) for node in able]
    finally:
        _remove(docker)


def _wait(docker: Docker, ids: set[str]) -> Mapping[str, Mapping[str, Any]]:
    """The tasks that have ended, by node; what has not after a while is left out."""
    deadline = time.monotonic() + _WAIT
    while True:
        ended: dict[str, Mapping[str, Any]] = {
            str(task["NodeID"]): task for task in _tasks(docker, _SERVICE) if task["Status"]["State"] in _ENDED
        }
        if ids <= ended.keys() or time.monotonic() > deadline:
            return ended
        time.sleep(_LOOK_EVERY)


def _answer(docker: Docker, task: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if task is None:
        return {"refused": f"it did not answer in {_WAIT:g} s: see `docker node ps` there, and run this again"}
    status = task["Status"]
    if status["State"] != "complete":
        return {"refused": f"Swarm could not run it there: {status.get('Err') or status['State']}"}
    # Whatever a manager says of a task's log, it says it only after the node has: now and then not at once.
    for attempt in range(_LOG_TRIES):
        try:
            lines = docker.ask(["service", "logs", "--raw", str(task["ID"])], _LOG_TIMEOUT).splitlines()
            found = next((line for line in reversed(lines) if line.startswith("{")), None)
            if found is not None:
                answer: Mapping[str, Any] = json.loads(found)
                return answer
        except (DockerError, ValueError):
            pass
        time.sleep(_LOOK_EVERY * (attempt + 1))
    return {"refused": "its answer did not come through: `docker linkwire gate status` says how it is there"}


def _nodes(docker: Docker, agent: str | None) -> list[Node]:
    """Every node, by name; `agent`: the service of which a task must run there."""
    raw = _read(docker.ask(["node", "inspect", *docker.ask(["node", "ls", "--quiet"], TIMEOUT).split()], TIMEOUT))
    tasks = _tasks(docker, agent) if agent is not None else []
    running = {str(task["NodeID"]) for task in tasks if task["Status"]["State"] == "running"}
    found = []
    for one in raw:
        name = printable(str(one["Description"]["Hostname"]))
        labels = one["Spec"].get("Labels") or {}
        obstacle = _obstacle(one, name, has_agent=agent is None or str(one["ID"]) in running)
        found.append(Node(str(one["ID"]), name, obstacle, labels.get(LABEL) == "true"))
    return sorted(found, key=lambda node: (node.name, node.id))


def _obstacle(raw: Mapping[str, Any], name: str, *, has_agent: bool) -> str | None:
    state, availability = str(raw["Status"]["State"]), str(raw["Spec"].get("Availability", "active"))
    if state != "ready":
        return f"the node is {state}: run this again when it is back"
    if availability != "active":
        return f"it is set to {availability}: `docker node update --availability active {name}`, and run this again"
    if not has_agent:
        return f"no Linkwire agent runs there: `docker service ps {STACK}_agent` says why"
    return None


def _chosen(nodes: Sequence[Node], names: Sequence[str]) -> list[Node]:
    if not names:
        return list(nodes)
    chosen: dict[str, Node] = {}
    for name in names:
        found = [node for node in nodes if node.id == name] or [node for node in nodes if node.name == name]
        found = found or [node for node in nodes if node.id.startswith(name)]
        if not found:
            raise UsageError(f"this Swarm has no node {name!r}{suggestion(name, [node.name for node in nodes])}")
        if len(found) > 1:
            raise UsageError(f"{len(found)} nodes are called {name!r}: name them by id, see `docker node ls`")
        chosen[found[0].id] = found[0]
    return list(chosen.values())


def _label(docker: Docker, nodes: Sequence[Node], *, here: bool) -> None:
    for node in nodes:
        change = f"--label-add={LABEL}=true" if here else f"--label-rm={LABEL}"
        docker.ask(["node", "update", change, node.id], TIMEOUT)


def _remove(docker: Docker) -> None:
    """Remove our service, if there is one, and wait until its tasks are gone."""
    for service in docker.ask(["service", "ls", "--quiet", "--filter", f"label={_MARK}"], TIMEOUT).split():
        docker.ask(["service", "rm", service], TIMEOUT)


def _tasks(docker: Docker, *services: str) -> list[dict[str, Any]]:
    ids = docker.ask(["service", "ps", "--quiet", "--no-trunc", *services], TIMEOUT).split()
    if not ids:
        return []
    try:
        found: list[dict[str, Any]] = _read(docker.ask(["inspect", "--type", "task", *ids], TIMEOUT))
    except DockerError:  # one of them went meanwhile
        return []
    return found


def _read(text: str) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = json.loads(text)
    except ValueError:
        raise DockerError("docker's answer is not JSON") from None
    return found


class _Seconds(click.ParamType[str]):
    name = "seconds"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ARG002 - click's
        if not value.isdecimal() or not 1 <= int(value) <= _MAX_WAIT:
            raise UsageError(f"{param.opts[0] if param else ''} takes seconds from 1 to {_MAX_WAIT}")
        return value


_nodes_argument = click.argument("nodes", nargs=-1, shell_complete=completion.nodes)


@click.group(
    "gate",
    cls=Group,
    usage="docker linkwire gate install | remove | status [OPTIONS] [NODE...]",
    examples="""
        docker linkwire gate install
        docker linkwire gate install --wait 60 n1 n2
        docker linkwire gate status
    """,
)
def gate_command() -> None:
    """Put the start gate into nodes' Docker, take it out, or show its state.

    With the gate as a node's default runtime, a linked task starts when it is wired, or not at all. `install` places
    its script on each node, merges it into dockerd's own configuration file, keeps the file as it was beside it,
    reloads dockerd (nothing is restarted), reads back, and sets the node label linkwire.gate=true. `remove` undoes
    all of it. Without NODE it is done on all nodes. Exits with 1 if a node could not; the others have it then, and it
    may be run again.
    """


@gate_command.command(
    "install",
    usage="docker linkwire gate install [OPTIONS] [NODE...]",
    examples="""
        docker linkwire gate install
        docker linkwire gate install --wait 60 n1 n2
    """,
)
@click.option("--wait", type=_Seconds(), metavar="SECONDS", help="How long a start waits to be wired (default 30)")
@click.option(
    "--ready-wait",
    type=_Seconds(),
    metavar="SECONDS",
    help="How long a start with `gate: ready` waits for its providers (default 120)",
)
@_nodes_argument
@pass_docker
def _install(docker: Docker, wait: str | None, ready_wait: str | None, nodes: Sequence[str]) -> int:
    """Put the start gate into nodes' Docker."""
    options = [f"--{name}={value}" for name, value in (("wait", wait), ("ready-wait", ready_wait)) if value]
    return 0 if run(docker, "install", nodes, say, options) else 1


@gate_command.command(
    "remove",
    usage="docker linkwire gate remove [NODE...]",
    examples="docker linkwire gate remove n1",
)
@_nodes_argument
@pass_docker
def _remove_command(docker: Docker, nodes: Sequence[str]) -> int:
    """Take the start gate out of nodes' Docker."""
    return 0 if run(docker, "remove", nodes, say) else 1


@gate_command.command(
    "status",
    usage="docker linkwire gate status [NODE...]",
    examples="docker linkwire gate status",
)
@_nodes_argument
@pass_docker
def _status(docker: Docker, nodes: Sequence[str]) -> int:
    """Show which nodes have the start gate."""
    return 0 if run(docker, "status", nodes, say) else 1
