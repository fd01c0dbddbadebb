"""What a program's own resolver sees of a task's links, by Docker's resolver and without; dnsrr's spread."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.lab import checker, programs
from tests.lab.deployment import Deployment
from tests.lab.programs import Task

Figure = Callable[[str], None]


def ask(task: Task, *names: str) -> dict[str, Any]:
    """By server of the task's resolv.conf, name and type, the response code and the addresses."""
    node, container = task
    found: dict[str, Any] = json.loads(node.docker("exec", container, "python3", "/srv/ask.py", *names).stdout)
    assert found, "the task has a name server"
    return found


def test_programs_own_resolver_finds_links_and_dnsrr_spreads(stacks: Deployment, figure: Figure) -> None:
    image = stacks.images.demo
    listen = programs.service(image, "listen", "web", "--tcp", "80")
    rotating = {**listen, "links": ["web:peers"], "deploy": {"endpoint_mode": "dnsrr", "replicas": 3}}
    services = {
        "web": rotating,
        "one": listen,
        "overlay": programs.idle(image, links=["web", "one:the.one"], networks=["front"]),
        "alone": programs.idle(image, links=["web", "one:the.one"]),
    }
    stacks.deploy("asks", programs.stack(services, {"front": {}}))
    webs = stacks.wait_running("asks_web", 3)
    clients = [stacks.wait_running(f"asks_{name}", 1)[0] for name in ("overlay", "alone")]
    checker.settle(stacks.lab)
    tasks = sorted(programs.addresses(web)[4] for web in webs)
    for client in clients:
        vip = programs.resolved(client, "the.one")
        for server, found in ask(client, "web", "the.one", "WEB", "The.One").items():
            for name in ("the.one", "The.One"):
                assert found[name] == {"1": [0, [vip[4]]], "28": [0, [vip[6]]]}, (server, name)
            for name in ("web", "WEB"):
                assert found[name]["28"] == [0, []]
                assert (found[name]["1"][0], sorted(found[name]["1"][1])) == (0, tasks), (server, name)
        first = Counter(next(iter(ask(client, "web").values()))["web"]["1"][1][0] for _ in range(12))
        assert len(first) > 1, "each answer begins with another task"
    docker = ask(clients[0], "overlay")
    assert list(docker) == ["127.0.0.11"], "Docker's resolver"
    assert docker["127.0.0.11"]["overlay"]["1"][1], "which still knows what Docker gave a name"

    for who, name in ((clients[1], "web"), (webs[0], "peers")):
        calls = programs.count_calls(who, name, 600)
        spread = Counter(call.who for call in calls if call.who is not None)
        failed = Counter(call.error for call in calls if call.who is None)  # test_vip.py is about these
        figure(f"dnsrr, 600 connections by the name {name}: {', '.join(map(str, spread.values()))}; {dict(failed)}")
        assert len(spread) == 3, spread
        assert min(spread.values()) > 120, spread
