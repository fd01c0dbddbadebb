"""The demonstration: python -m tests.demo up|down.

A Swarm of three nodes in a lab on this machine (its own Docker is not touched), Linkwire as a Swarm service from
images built here, LinuxKit's demonstration and a small shop as users would write them, a page fetched over a link,
and a capture of the wire that shows nothing of it, beside one of a plain overlay network that shows it all.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Callable

from tests.lab import Lab, images
from tests.lab.capture import Capture, Seen
from tests.lab.deployment import EXAMPLES, Deployment
from tests.lab.layout import LabError
from tests.lab.node import Node

NAME = "demo"
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
    networks: [open]
    deploy: {{endpoint_mode: dnsrr, placement: {{constraints: [node.hostname == n3]}}}}
networks:
  open:
    driver: overlay
"""
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
    except LabError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


def _up(lab: Lab) -> int:
    say("a Swarm of three nodes")
    lab.up()
    deployment = Deployment(lab, images.build_all(lab, say=say))
    say("deploying Linkwire: etcd, two controllers, on every node an agent and the start gate")
    deployment.install(own_etcd=True, gate=True)
    say("deploying deploy/examples/linuxkit and deploy/examples/shop with `docker linkwire deploy`")
    deployment.deploy("demo", EXAMPLES / "linuxkit/docker-compose.yml")
    deployment.deploy("shop", EXAMPLES / "shop/docker-compose.yml")
    say("waiting until every pair of every link has shaken hands")
    deployment.wait_connected("demo")
    deployment.wait_connected("shop")
    shown = _show(lab, deployment)
    print("\n$ docker linkwire ps")
    print(deployment.linkwire("ps"))
    print(f"A shell on a node's Docker:  docker -H unix://{lab.manager.socket} service ls")
    print("Take everything away:        make demo-down")
    return 0 if shown else 1


def _show(lab: Lab, deployment: Deployment) -> bool:
    page = _fetched(lambda: _apart(deployment), "http://web/")
    say("the page that a client on another node fetched by name over the link:")
    print("\n".join(f"          | {line}" for line in page.splitlines()[:6]))
    order = _fetched(lambda: deployment.wait_running("shop_front", 1)[0], "http://127.0.0.1:8080/")
    say(f"an order that went nginx -> app -> redis over two links: {order.strip()}")
    canary = f"canary-{secrets.token_hex(16)}"
    linked = _captured(lab, canary, *_apart(deployment))
    over = f"{linked.packets} packets, {linked.udp} of WireGuard"
    say(f"on the wire, over the link:      {over}, canary {linked.canary} times")
    deployment.lab.manager.docker(
        "stack", "deploy", "-c", "-", "plain", stdin=PLAIN.format(image=deployment.images.demo), env=dict(os.environ)
    )
    client = deployment.wait_running("plain_client", 1)[0]
    deployment.wait_running("plain_web", 1)
    plain = _captured(lab, canary, *client)
    say(f"on the wire, plain overlay:      {plain.packets} packets, canary {plain.canary} times")
    deployment.remove("plain")
    good = linked.canary == 0 and linked.udp > 0 and plain.canary > 0
    say("nothing readable on the wire" if good else "THE CAPTURE IS NOT WHAT IT SHOULD BE")
    return good


def _apart(deployment: Deployment) -> tuple[Node, str]:
    """A client on another node than the web server's."""
    web, _ = deployment.wait_running("demo_web", 1)[0]
    return next((node, container) for node, container in deployment.tasks("demo_client") if node.name != web.name)


def _fetch(node: Node, container: str, url: str) -> str:
    return node.docker("exec", container, "curl", "--silent", "--max-time", "10", url).stdout


def _fetched(whence: Callable[[], tuple[Node, str]], url: str) -> str:
    """What there is at a URL, as soon as there is anything: nginx ends when it starts before its upstream's name is
    there, and Swarm starts it again.
    """
    deadline = time.monotonic() + 60
    while True:
        try:
            if answer := _fetch(*whence(), url):
                return answer
            problem = "an empty answer"
        except LabError as error:
            problem = str(error)
        if time.monotonic() > deadline:
            raise LabError(f"no answer from {url}: {problem}")
        time.sleep(0.5)


def _captured(lab: Lab, canary: str, node: Node, container: str) -> Seen:
    """Fetch http://web/CANARY, which is not there, while every packet between nodes is kept."""
    capture = Capture(lab)
    with capture:
        deadline = time.monotonic() + 30
        while "404" not in (answer := _fetch(node, container, f"http://web/{canary}")):
            if time.monotonic() > deadline:
                raise LabError(f"no answer to the canary: {answer[:200]!r}")
            time.sleep(0.5)
    seen = capture.search(canary.encode())
    capture.close()
    return seen


if __name__ == "__main__":
    sys.exit(main())
