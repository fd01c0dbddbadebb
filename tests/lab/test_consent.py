"""Consent on a real Swarm: a stranger's link is refused and carries once it is allowed; declared links carry."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.lab import process
from tests.lab.deployment import EXAMPLES, Deployment
from tests.lab.node import Node
from tests.support.attacks import Attempts

SERVICE = """
    image: {image}
    command: {command}
    stop_grace_period: 0s
"""
NGINX, SLEEP = '[nginx, -g, "daemon off;"]', '[sleep, "86400"]'


def stack(image: str, name: str, command: str, said: str = "") -> str:
    """A stack of one service."""
    service = SERVICE.format(image=image, command=command)
    return f'version: "3.8"\nx-wireguard: {{}}\nservices:\n  {name}:{service}{said}'


def fetches(node: Node, container: str, url: str) -> bool:
    """Whether a page can be fetched within seconds."""
    return (
        node.docker("exec", container, "curl", "-s", "-m", "3", "-o", "/dev/null", url, check=False).returncode == 0
    )


def links(answer: dict[str, Any]) -> list[tuple[str, str, bool]]:
    return [(link["consumer"], link["provider"], link["allowed"]) for link in answer["links"]]


REFUSED = "service evil_x: its link to pay_db is refused: pay_db does not allow it"


def test_a_strangers_link_needs_the_providers_word(stacks: Deployment, attempt: Attempts) -> None:
    tried = attempt("may create services: external_links to a service of another stack")
    image = stacks.images.demo
    stacks.deploy("pay", stack(image, "db", NGINX, "    x-wireguard: {}\n"))
    stacks.deploy("evil", stack(image, "x", SLEEP, '    external_links: ["pay_db:db"]\n'))
    node, container = stacks.wait_running("evil_x", 1)[0]
    process.wait_for("the refusal", lambda: stacks.ps("pay")["links"], seconds=60)
    for side in ("pay", "evil"):
        answer = stacks.ps(side)
        assert links(answer) == [("evil_x", "pay_db", False)]
        assert any(REFUSED in problem for problem in answer["problems"])
        checked = stacks.try_linkwire("check", "--stack", side)
        assert (checked.returncode, REFUSED in checked.stdout) == (1, True), checked.stdout
        assert "not allowed" in stacks.linkwire("ps", side)
    process.wait_for("its name", lambda: "db" in hosts(node, container), seconds=30)
    assert REFUSED in stacks.logged("linkwire_controller")
    tried.stopped(not fetches(node, container, "http://db/"))
    stacks.deploy("pay", stack(image, "db", NGINX, "    x-wireguard: {allow: [evil]}\n"))
    process.wait_for("the page", lambda: fetches(node, container, "http://db/"), seconds=60)
    tried.works(links(stacks.ps("pay")) == [("evil_x", "pay_db", True)], "where the provider allows it")
    stacks.deploy("pay", stack(image, "db", NGINX, "    x-wireguard: {}\n"))
    process.wait_for("the end of it", lambda: not fetches(node, container, "http://db/"), seconds=60)
    tried.stopped(links(stacks.ps("evil")) == [("evil_x", "pay_db", False)])
    told = [kind for kind, link in stacks.events("evil_x") if link.get("provider") == "pay_db"]
    assert told == ["link refused", "link created", "link removed", "link refused"]


def test_declared_links_carry_from_an_unchanged_proxy(stacks: Deployment) -> None:
    image = stacks.images.demo
    stacks.deploy("proxy", stack(image, "front", SLEEP, "    x-wireguard: {accept: true}\n"))
    node, front = stacks.wait_running("proxy_front", 1)[0]
    for name in ("shop", "blog"):
        stacks.deploy(name, stack(image, "web", NGINX, "    x-wireguard: {from: [proxy], expose: ['80']}\n"))
    pages = ("http://shop_web/", "http://blog_web/")
    process.wait_for("both pages", lambda: all(fetches(node, front, url) for url in pages), seconds=60)
    assert stacks.wait_running("proxy_front", 1) == [(node, front)], "the proxy's task was not touched"
    shop, web = stacks.wait_running("shop_web", 1)[0]
    assert not fetches(shop, web, "http://blog_web/"), "applications do not reach each other"
    stacks.deploy("far", stack(image, "web", NGINX, "    x-wireguard: {from: [shop]}\n"))
    process.wait_for(
        "the refusal",
        lambda: "service far_web: its link from shop is refused" in stacks.try_linkwire("check").stdout,
        seconds=30,
    )


def hosts(node: Node, container: str) -> set[str]:
    """All names in a container's hosts file."""
    lines = node.docker("exec", container, "cat", "/etc/hosts").stdout.splitlines()
    return {name for line in lines for name in line.split("#")[0].split()[1:]}


# The demo image has nginx and Caddy, and Traefik is the tests' own: its image begins it as this does.
TRAEFIK = f"""
version: "3.8"
services:
  front:
    entrypoint: [/traefik]
    volumes: ["{Path(sys.executable).parent}/traefik:/traefik:ro"]
"""
PROXIES = {
    "nginx": ("docker-compose.yml", "app.yml"),
    "caddy": ("caddy.yml", "app.yml"),
    "traefik": ("traefik.yml", "traefik-app.yml"),
}


@pytest.mark.parametrize("program", PROXIES)
def test_proxy_in_front_of_many_stacks(stacks: Deployment, program: str, tmp_path: Path) -> None:
    """The recipe's own files: a page of each application, none of another stack, and none between applications."""
    proxy, application = (EXAMPLES / "proxy" / file for file in PROXIES[program])
    (tmp_path / "traefik.yml").write_text(TRAEFIK)
    beside = ("-c", str(tmp_path / "traefik.yml")) if program == "traefik" else ()
    stacks.linkwire("deploy", "--detach", "-c", str(proxy), *beside, "proxy")
    node, front = stacks.wait_running("proxy_front", 1)[0]
    for name in ("shop", "blog"):
        stacks.deploy(name, application, {"NAME": name})
    stacks.deploy("other", stack(stacks.images.demo, "web", NGINX))

    def page(name: str) -> bool:
        host = f"Host: {name}.example.com"
        argv = ("exec", front, "curl", "-s", "-f", "-m", "5", "-o", "/dev/null", "-H", host, "http://127.0.0.1:8080/")
        return node.docker(*argv, check=False).returncode == 0

    process.wait_for("a page of each application", lambda: page("shop") and page("blog"), seconds=90)
    assert not page("other"), "a stack that declares no link"
    assert stacks.wait_running("proxy_front", 1) == [(node, front)], "the proxy's task was not touched"
    for one, other in (("shop", "blog"), ("blog", "shop")):
        at, web = stacks.wait_running(f"{one}_web", 1)[0]
        assert not fetches(at, web, f"http://{other}_web/"), "applications do not reach each other"
