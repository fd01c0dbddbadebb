"""A stack's life: after every step the peers on every device are exactly the graph's, within 2 s of Swarm's own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from agent.containers.holder_container import NAME
from tests.lab import checker, process
from tests.lab.deployment import Deployment
from tests.lab.layout import LabError
from tests.support.effort import in_long_form

WITHIN_S = 2.0
REMOVED = 30

STACK = """
version: "3.8"
x-wireguard: {{}}
services:
  web:
    image: {image}
    command: [nginx, -g, "daemon off;"]
    deploy: {{replicas: {web}}}
  cache:
    image: {image}
    command: [sleep, "86400"]
    stop_grace_period: 1s
    {cache_links}
  client:
    image: {image}
    command: [sleep, "86400"]
    stop_grace_period: 1s
    links: [{client_links}]
    deploy: {{replicas: {client}}}
"""


def compose(
    deployment: Deployment, web: int = 1, client: int = 1, client_links: str = "web", cache_links: str = ""
) -> str:
    return STACK.format(
        image=deployment.images.demo, web=web, client=client, client_links=client_links, cache_links=cache_links
    )


def steps(deployment: Deployment) -> list[tuple[str, Callable[[], object]]]:
    """Every step of issue's third demand, by name."""
    manager = deployment.lab.manager

    def scale(service: str, count: int) -> Callable[[], object]:
        return lambda: manager.docker("service", "scale", "--detach", f"life_{service}={count}")

    def deploy(**changes: object) -> Callable[[], object]:
        return lambda: deployment.deploy("life", compose(deployment, **changes))  # type: ignore[arg-type]

    def kill() -> None:
        node, container = deployment.tasks("life_web")[0]
        node.docker("kill", container)

    def availability(state: str) -> Callable[[], object]:
        return lambda: manager.docker("node", "update", "--availability", state, "n2")

    return [
        ("deploy", deploy()),
        ("provider 1 -> 5", scale("web", 5)),
        ("provider 5 -> 2", scale("web", 2)),
        ("consumer 1 -> 5", scale("client", 5)),
        ("consumer 5 -> 2", scale("client", 2)),
        ("a task killed", kill),
        ("a node drained", availability("drain")),
        ("the node active again", availability("active")),
        (
            "a link removed and one added",
            deploy(web=2, client=2, client_links="cache", cache_links='links: ["web:pages"]'),
        ),
        ("a service linked to itself", deploy(web=3, client=2, client_links="web, client")),
    ]


def test_every_step_of_a_stacks_life(stacks: Deployment, figure: Callable[[str], None]) -> None:
    late: dict[str, float] = {}
    for name, step in steps(stacks):
        step()
        late[name] = checker.settle(stacks.lab)
    figure("devices exact, seconds after Swarm: " + "; ".join(f"{name} {s:.2f}" for name, s in late.items()))
    stacks.remove("life")
    assert max(late.values()) <= WITHIN_S, late
    process.wait_for("no record to be left", lambda: not left(stacks), seconds=60)
    assert checker.differences(stacks.lab) == []
    assert wireguard_processes(stacks) == 0


@in_long_form
def test_stack_is_removed_and_deployed_at_once(stacks: Deployment, figure: Callable[[str], None]) -> None:
    """Docker may still be removing the networks that the new stack is to have (docker/for-linux#531)."""
    text, refused = compose(stacks, web=2, client=2), list[str]()
    stacks.deploy("life", text)
    checker.settle(stacks.lab)
    began = time.monotonic()
    for _ in range(REMOVED):
        stacks.lab.manager.docker("stack", "rm", "life")
        while True:
            try:
                stacks.deploy("life", text)
                break
            except LabError as error:  # Docker refuses, the command says so, and the user repeats it
                refused.append(str(error)[-300:])
        checker.settle(stacks.lab, 120)
    took = (time.monotonic() - began) / REMOVED
    figure(
        f"removed and deployed at once {REMOVED} times: {took:.1f} s each until exact; refused {len(refused)} times"
    )
    print("\n".join(refused))
    stacks.remove("life")
    process.wait_for("no record to be left", lambda: not left(stacks), seconds=60)
    assert wireguard_processes(stacks) == 0


def left(deployment: Deployment) -> list[str]:
    """Keys in the store that a removed stack should not have left."""
    argv = ["etcdctl", "--endpoints", deployment.lab.etcd_endpoint, "get", "--prefix", "/linkwire/v1/", "--keys-only"]
    keys = process.answer(argv, env={**os.environ, "ETCDCTL_API": "3"}).stdout.split()
    lasting = {"access", "audit", "cluster", "controllers", "leader", "manifest", "members", "nodes", "space"}
    lasting |= {"tenure", "vault", "views", "vitals"}
    return [key for key in keys if key.removeprefix("/linkwire/v1/").split("/")[0] not in lasting]


def wireguard_processes(deployment: Deployment) -> int:
    """wireguard-go processes of the lab's nodes."""
    listed = (node.docker("top", NAME, "-eo", "pid,comm").stdout for node in deployment.lab.nodes)
    return sum(names.count("wireguard-go") for names in listed)
