"""The gate on real nodes: what carries its label starts wired or not at all; what does not starts as ever."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest

from compose_ext.diagnostics import INCOMPLETE
from tests.lab import checker, process
from tests.lab.deployment import Deployment
from tests.lab.node import Node

FOLDER = "/run/docker/linkwire"
STACK = """
version: "3.8"
x-wireguard: {{}}
services:
  web:
    image: {image}
    command: [nginx, -g, "daemon off;"]
    deploy: {{placement: {{constraints: [node.hostname == n2]}}}}
  gated:
    image: {image}
    command: &probe [sh, -c, "curl -sS -m 3 -o /dev/null http://web/ && echo through; sleep 86400"]
    links: [web]
    labels: ["mine=1", other]
    stop_grace_period: 0s
    x-wireguard: {{gate: true}}
    deploy: &here
      replicas: 0
      placement: {{constraints: [node.hostname == n1]}}
      restart_policy: {{delay: 0s}}
  open:
    image: {image}
    command: *probe
    links: [web]
    labels: {{mine: "2"}}
    stop_grace_period: 0s
    x-wireguard: {{gate: false}}
    deploy: *here
  late:
    image: {image}
    command: [sh, -c, "sleep 4; exec nginx -g 'daemon off;'"]
    healthcheck: {{test: "curl -sf http://127.0.0.1/", interval: 1s, retries: 60}}
    deploy: *here
  patient:
    image: {image}
    command: [sh, -c, "curl -sS -m 1 -o /dev/null http://late/ && curl -sS -m 1 -o /dev/null http://web/"]
    links: [late, web]
    stop_grace_period: 0s
    x-wireguard: {{gate: ready}}
    deploy:
      replicas: 0
      restart_policy: {{condition: none}}
"""

Figure = Callable[[str], None]


@pytest.fixture
def gated(stacks: Deployment) -> Iterator[Deployment]:
    """A web server on n2; on n1 nothing yet, and an agent there afterwards."""
    stacks.deploy("gate", STACK.format(image=stacks.images.demo))
    stacks.wait_running("gate_web", 1)
    checker.settle(stacks.lab)
    yield stacks
    if stacks.agent(stacks.lab.node("n1")) is None:
        agent_back(stacks)


def agent_away(deployment: Deployment) -> None:
    """Take the agent of n1 away."""
    manager = deployment.lab.manager
    manager.docker("service", "update", "--detach", "--constraint-add", "node.hostname!=n1", "linkwire_agent")
    process.wait_for("n1's agent to end", lambda: deployment.agent(deployment.lab.node("n1")) is None, seconds=60)


def agent_back(deployment: Deployment) -> None:
    """Bring it back, and wait until it runs."""
    manager = deployment.lab.manager
    manager.docker("service", "update", "--detach", "--constraint-rm", "node.hostname!=n1", "linkwire_agent")
    process.wait_for("an agent on n1", lambda: deployment.agent(deployment.lab.node("n1")) is not None, seconds=60)


def waiting(node: Node) -> list[str]:
    """The containers whose start waits on a node."""
    return node.run(["sh", "-c", f"ls {FOLDER}/waiting 2>/dev/null || :"]).stdout.split()


def errors(deployment: Deployment, service: str) -> str:
    """What `docker service ps` says of every task of a service."""
    shown = deployment.lab.manager.docker("service", "ps", "--no-trunc", "--format", "{{.Error}}", service)
    return shown.stdout


def scale(deployment: Deployment, service: str, count: int) -> None:
    deployment.lab.manager.docker("service", "scale", "--detach", f"{service}={count}")


def test_gated_task_waits_for_agent_and_starts_after(gated: Deployment, figure: Figure) -> None:
    n1 = gated.lab.node("n1")
    agent_away(gated)
    scale(gated, "gate_open", 1)
    scale(gated, "gate_gated", 1)
    gated.wait_running("gate_open", 1)
    process.wait_for("a start to wait", lambda: bool(waiting(n1)), seconds=30)
    assert gated.tasks("gate_gated") == []

    process.wait_for("the reason", lambda: "was not wired in 30 s" in errors(gated, "gate_gated"), seconds=60)
    process.wait_for("the next try to wait", lambda: bool(waiting(n1)), seconds=30)
    held = waiting(n1)
    assert gated.tasks("gate_gated") == []

    began = time.monotonic()
    agent_back(gated)
    here = time.monotonic()
    [(node, container)] = gated.wait_running("gate_gated", 1)
    figure(
        f"gated task that waited for its node's agent: started {time.monotonic() - began:.1f} s after Swarm was "
        f"asked for the agent, {time.monotonic() - here:.1f} s after that ran"
    )
    assert [container] == held, "the start that waited is the one that went on"
    assert waiting(n1) == []
    process.wait_for("it to get through", lambda: "through" in node.docker("logs", container).stdout, seconds=10)
    assert checker.settle(gated.lab) < 60


def test_the_reason_that_the_agent_has_is_shown(gated: Deployment) -> None:
    """Not linked any more: its label says wait, and nobody will ever wire it."""
    n1 = gated.lab.node("n1")
    gated.lab.manager.docker("service", "update", "--detach", "--label-rm", "linkwire.links", "gate_gated")
    scale(gated, "gate_gated", 1)
    process.wait_for("a start to wait", lambda: bool(waiting(n1)), seconds=30)
    said = "was not wired in 30 s: its service"
    process.wait_for("the reason", lambda: said in errors(gated, "gate_gated"), seconds=60)
    assert gated.tasks("gate_gated") == []


def test_a_start_that_waits_ends_with_its_service(gated: Deployment) -> None:
    n1 = gated.lab.node("n1")
    agent_away(gated)
    scale(gated, "gate_gated", 1)
    process.wait_for("a start to wait", lambda: bool(waiting(n1)), seconds=30)
    scale(gated, "gate_gated", 0)
    process.wait_for("the start to end", lambda: not waiting(n1), seconds=45)
    ended = ["ps", "--all", "--quiet", "--filter", "label=com.docker.swarm.service.name=gate_gated"]
    process.wait_for("its container to go", lambda: not n1.docker(*ended).stdout, seconds=30)
    assert gated.tasks("gate_gated") == []


def test_gate_label_joins_user_labels_starts_use_gate(gated: Deployment) -> None:
    for service, mine in (
        ("open", {"mine": "2"}),
        ("gated", {"mine": "1", "other": "", "linkwire.gate": "true"}),
    ):
        scale(gated, f"gate_{service}", 1)
        [(node, container)] = gated.wait_running(f"gate_{service}", 1)
        raw = json.loads(node.docker("inspect", container).stdout)[0]
        labels = {label: value for label, value in raw["Config"]["Labels"].items() if "com.docker" not in label}
        assert labels == mine
        assert raw["HostConfig"]["Runtime"] == "linkwire"


def test_job_waiting_for_providers_passes_first_try(gated: Deployment) -> None:
    """Its provider does not run when it is begun, and is healthy some seconds after it does."""
    manager = gated.lab.manager
    scale(gated, "gate_patient", 1)
    process.wait_for("a start to wait", lambda: any(waiting(node) for node in gated.lab.nodes), seconds=30)
    [held] = [node for node in gated.lab.nodes if waiting(node)]
    [container] = waiting(held)
    said = f"cat {FOLDER}/gate/{container} 2>/dev/null || :"
    process.wait_for(
        "it to be wired",
        lambda: "waits for a ready task of gate_late" in held.run(["sh", "-c", said]).stdout,
        seconds=20,
    )
    scale(gated, "gate_late", 1)
    shown = ["service", "ps", "--format", "{{.CurrentState}} {{.Error}}", "gate_patient"]
    process.wait_for("the job to end", lambda: "Running" not in manager.docker(*shown).stdout, seconds=60)
    process.wait_for("the job to be done", lambda: "Complete" in manager.docker(*shown).stdout, seconds=60)
    assert len(manager.docker(*shown).stdout.splitlines()) == 1, "at the first try"


def test_every_node_reports_its_gate_and_label(gated: Deployment) -> None:
    said = gated.linkwire("gate", "status").splitlines()
    assert said == [
        f"linkwire: {node.name}: gate in: default runtime linkwire; label linkwire.gate: yes"
        for node in gated.lab.nodes
    ]
    again = gated.linkwire("gate", "install", "n2", "n3")
    assert again.splitlines() == [f"linkwire: {name}: gate in: the gate was in already" for name in ("n2", "n3")]


def test_containers_made_with_gate_end_by_its_script(gated: Deployment) -> None:
    """It stays, open, while something needs it; another node keeps the gate, and `check` names this one."""
    n2 = gated.lab.node("n2")
    assert "no gate" not in gated.try_linkwire("check").stdout
    try:
        done = gated.try_linkwire("gate", "remove", "n2")
        assert done.returncode == INCOMPLETE
        assert done.stdout.startswith(
            "linkwire: n2: gate leaving: default runtime linkwire -> runc; the script stays, open,"
        )
        _, _, left = done.stdout.partition("linkwire: left to do:\n")
        assert "which started with the gate: docker service update --force gate_web\n" in left
        assert left.endswith("then take the gate out of n2: docker linkwire gate remove n2\n")
        assert n2.get("/info")["DefaultRuntime"] == "runc"
        assert n2.run(["cat", "/etc/linkwire/gate"]).stdout == "LINKWIRE_GATE=off\n"
        assert gated.lab.node("n3").get("/info")["DefaultRuntime"] == "linkwire"
        warning = "on n2 linked tasks start before they are wired, since these nodes have no gate (gate_web):"
        assert warning in gated.try_linkwire("check").stdout
    finally:
        said = gated.linkwire("gate", "install", "n2")
    assert "n2: gate in: default runtime runc -> linkwire" in said


def test_nothing_is_left_of_containers_that_are_gone(gated: Deployment) -> None:
    n1 = gated.lab.node("n1")
    scale(gated, "gate_gated", 2)
    tasks = {container for _, container in gated.wait_running("gate_gated", 2)}
    listed = ["ls", f"{FOLDER}/gate"]
    assert tasks <= set(n1.run(listed).stdout.split())
    scale(gated, "gate_gated", 0)
    process.wait_for("the files to go", lambda: not tasks & set(n1.run(listed).stdout.split()), seconds=90, every=0.5)


def test_agent_reports_gated_task_that_began_unwired(gated: Deployment) -> None:
    """As on a node without the gate; here somebody opens it by hand, while there is no agent."""
    n1 = gated.lab.node("n1")
    agent_away(gated)
    scale(gated, "gate_gated", 1)
    process.wait_for("a start to wait", lambda: bool(waiting(n1)), seconds=30)
    for container in waiting(n1):
        n1.run(["sh", "-c", f'echo "wired $(cat {FOLDER}/waiting/{container})" >{FOLDER}/gate/{container}'])
    gated.wait_running("gate_gated", 1)
    agent_back(gated)
    agent = gated.agent(n1)
    assert agent is not None
    said = "began before it was wired"
    process.wait_for("the warning", lambda: said in n1.docker("logs", agent).stderr, seconds=30)
