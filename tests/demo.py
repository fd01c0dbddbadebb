"""The demonstration: python -m tests.demo up|down.

A Swarm of three nodes in a lab on this machine (its own Docker is not touched), Linkwire as a Swarm service from
images built here and with its start gate, LinuxKit's demonstration and a small shop as users would write them, a page
fetched over a link, a capture of the wire that shows nothing of it, beside one of a plain overlay network that shows
it all, and how many of 20 fresh tasks get through at their first instruction.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable

from tests.lab import Lab, images, process
from tests.lab.capture import Capture, MissedError, Seen
from tests.lab.deployment import EXAMPLES, Deployment
from tests.lab.lab import default_name
from tests.lab.layout import DEFAULT_NAME, LabError
from tests.lab.node import Node
from tests.support.patience import slowness

NAME = "demo" if default_name() == DEFAULT_NAME else f"{default_name()[:6]}d"
PLAIN = """
version: "3.8"
services:
  web:
    image: {image}
    command: [nginx, -g, "daemon off;"]
    networks: [open]
    deploy: {{endpoint_mode: dnsrr, placement: {{constraints: [node.hostname == n2]}}}}
  client:
    image: {image}
    command: [sleep, "86400"]
    stop_grace_period: 1s
    networks: [open]
    deploy: {{endpoint_mode: dnsrr, placement: {{constraints: [node.hostname == n3]}}}}
networks:
  open:
    driver: overlay
"""
FRESH = """
version: "3.8"
x-wireguard: {{}}
services:
  web:
    image: {image}
    command: [nginx, -g, "daemon off;"]
  task:
    image: {image}
    command: [sh, -c, "curl -s -m 3 -o /dev/null http://web/ && echo first || echo later; exec sleep 86400"]
    links: [web]
    stop_grace_period: 0s
    deploy: {{replicas: 0}}
"""
TASKS = 20
BATCH = 5
"""Fresh tasks, and how many of them start at a time."""
CAPTURES = 3
"""Tries to see the canary where it must be seen."""
PATIENCE_S = 180.0
"""For each wait: long, since an idle machine needs a tenth of it, and one with other work all of it."""
BEGAN = time.monotonic()


def say(text: str) -> None:
    """A line of progress."""
    print(f"{time.monotonic() - BEGAN:6.1f} s  {text}", flush=True)


def main() -> int:
    """Do what the argument says; 0 when everything was shown, 1 when something was not."""
    lab = Lab(NAME, nodes=3, say=say)
    try:
        match sys.argv[1:]:
            case ["up"]:
                return _up(lab)
            case ["down"]:
                lab.down()
                return 0
            case _:
                print("python -m tests.demo up|down", file=sys.stderr)
                return 2
    except (LabError, OSError) as error:
        print(
            f"demo: {error}\ndemo: look around with `docker -H unix://{lab.manager.socket}`, ",
            file=sys.stderr,
            end="",
        )
        print("take it away with `make demo-down`, or mend it with `make demo`", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: stopped half-way; `make demo` mends it, `make demo-down` takes it away", file=sys.stderr)
        return 130


def _up(lab: Lab) -> int:
    say("a Swarm of three nodes")
    lab.up()
    deployment = Deployment(lab, images.build_all(lab, say=say))
    say("deploying Linkwire: etcd, two controllers, an agent on every node, and the start gate on every node")
    deployment.install(own_etcd=True, gate=True)
    say("deploying deploy/examples/linuxkit and deploy/examples/shop with `docker linkwire deploy`")
    deployment.deploy("demo", EXAMPLES / "linuxkit/docker-compose.yml")
    deployment.deploy("shop", EXAMPLES / "shop/docker-compose.yml")
    say("waiting until every pair of every link has shaken hands")
    deployment.wait_connected("demo", PATIENCE_S)
    deployment.wait_connected("shop", PATIENCE_S)
    shown = _show(lab, deployment)
    print("\n$ docker linkwire ps")
    print(deployment.linkwire("ps"))
    print(f"A shell on a node's Docker:  docker -H unix://{lab.manager.socket} service ls")
    print("Take everything away:        make demo-down")
    return 0 if shown else 1


def _show(lab: Lab, deployment: Deployment) -> bool:
    page = _fetched(lambda: _apart(deployment), "http://web/", "nginx")
    say("the page that a client on another node fetched by name over the link:")
    print("\n".join(f"          | {line}" for line in page.splitlines()[:6]))
    order = _fetched(lambda: _one(deployment, "shop_front"), "http://127.0.0.1:8080/", "order")
    say(f"an order that went nginx -> app -> redis over two links: {order.strip()}")
    canary = f"canary-{secrets.token_hex(16)}"
    linked = _captured(lab, canary, lambda: _apart(deployment))
    over = f"{linked.packets} packets, {linked.udp} of WireGuard"
    say(f"on the wire, over the link:      {over}, canary {linked.canary} times")
    deployment.lab.manager.docker(
        "stack", "deploy", "-c", "-", "plain", stdin=PLAIN.format(image=deployment.images.demo), env=dict(os.environ)
    )
    for _ in range(CAPTURES):  # on a busy machine tcpdump may end before it has read all
        plain = _captured(lab, canary, lambda: _one(deployment, "plain_client"))
        if plain.canary:
            break
    say(f"on the wire, plain overlay:      {plain.packets} packets, canary {plain.canary} times")
    deployment.remove("plain")
    good = linked.canary == 0 and linked.udp > 0 and plain.canary > 0
    say("nothing readable on the wire" if good else "THE CAPTURE IS NOT WHAT IT SHOULD BE")
    first = _first_tries(deployment)
    say(f"first tries that got through: {first} of {TASKS} fresh tasks, {BATCH} at a time")
    busy = slowness() > 1
    if first < TASKS and busy:
        say("this machine has more to do than it can, so a device may come too late; on a quiet one all get through")
    failed = _failed(lab)
    say(f"tasks of the examples that failed: {', '.join(failed) or 'none'}")
    return good and first >= (TASKS * 9 // 10 if busy else TASKS) and not failed


def _first_tries(deployment: Deployment) -> int:
    """How many fresh tasks fetch a page over a link with their first instruction."""
    deployment.deploy("fresh", FRESH.format(image=deployment.images.demo))
    _fetched(lambda: _one(deployment, "fresh_web"), "http://127.0.0.1/", "nginx")
    for count in range(BATCH, TASKS + 1, BATCH):
        deployment.lab.manager.docker("service", "scale", "--detach", f"fresh_task={count}")
        tries = _tries(deployment, count)
    failed = _failed(deployment.lab, "fresh_")
    deployment.remove("fresh")
    return tries["first"] if not failed else 0


def _tries(deployment: Deployment, count: int) -> Counter[str]:
    """Wait until so many tasks have said how their first try went."""
    said: list[str] = []

    def all_said() -> bool:
        said[:] = deployment.logged("fresh_task").split()
        return len(said) >= count

    process.wait_for(f"{count} fresh tasks to try", _patient(all_said), seconds=PATIENCE_S, every=0.5)
    return Counter(said)


def _failed(lab: Lab, *prefixes: str) -> list[str]:
    """Services with the number of their tasks that failed or that Docker could not start."""
    names = {service["ID"]: str(service["Spec"]["Name"]) for service in lab.manager.get("/services")}
    failed = Counter(
        names.get(task["ServiceID"], "")
        for task in lab.manager.get("/tasks")
        if task["Status"]["State"] in ("failed", "rejected")
    )
    wanted = prefixes or ("demo_", "shop_")
    return [f"{name} ({count})" for name, count in sorted(failed.items()) if name.startswith(wanted)]


def _patient(ready: Callable[[], bool]) -> Callable[[], bool]:
    """The same question; not yet, where a task has ended since it was listed."""

    def asked() -> bool:
        try:
            return ready()
        except LabError:
            return False

    return asked


def _one(deployment: Deployment, service: str) -> tuple[Node, str]:
    """The one running task of a service, now."""
    if not (tasks := deployment.tasks(service)):
        raise LabError(f"no task of {service} runs")
    return tasks[0]


def _apart(deployment: Deployment) -> tuple[Node, str]:
    """A client on another node than the web server's, now."""
    web, _ = _one(deployment, "demo_web")
    for node, container in deployment.tasks("demo_client"):
        if node.name != web.name:
            return node, container
    raise LabError(f"no task of demo_client runs on another node than {web.name}")


def _fetch(node: Node, container: str, url: str, *flags: str) -> str:
    return node.docker("exec", container, "curl", "--silent", "--show-error", *flags, "--max-time", "10", url).stdout


def _fetched(whence: Callable[[], tuple[Node, str]], url: str, awaited: str) -> str:
    """What a URL answers, as soon as there is an answer with a certain word in it."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            answer = _fetch(*whence(), url, "--fail")
            if awaited in answer:
                return answer
            problem = f"the answer was {answer[:200]!r}"
        except LabError as error:
            problem = str(error)
        if time.monotonic() > deadline:
            raise LabError(f"no answer from {url} with {awaited!r} in it for {PATIENCE_S:.0f} s: {problem}")
        time.sleep(0.5)


def _captured(lab: Lab, canary: str, whence: Callable[[], tuple[Node, str]]) -> Seen:
    """Fetch http://web/CANARY, which is not there, while every packet between nodes is kept."""

    def answered() -> bool:
        return "404" in _fetch(*whence(), f"http://web/{canary}")

    for left in reversed(range(CAPTURES)):
        capture = Capture(lab)
        try:
            with capture:
                process.wait_for(
                    "an answer from http://web/ to the canary", _patient(answered), seconds=PATIENCE_S, every=0.5
                )
            return capture.search(canary.encode())
        except MissedError:
            if not left:
                raise
        finally:
            capture.close()
    raise AssertionError


if __name__ == "__main__":
    sys.exit(main())
