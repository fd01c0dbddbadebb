"""A node revoked, and the link seed renewed, on a real Swarm: how soon, and what that costs all others."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from datetime import datetime

import pytest

from controller.steps import FRESH
from tests.lab import process
from tests.lab.deployment import Deployment
from tests.lab.node import Node
from tests.lab.requests import Requests
from tests.support.patience import slowness

STACK = """
version: "3.8"
x-wireguard: {{}}
services:
  web:
    image: {image}
    command: [nginx, -g, "daemon off;"]
    deploy: {{placement: {{constraints: [node.hostname == n2]}}}}
  bad:
    image: {image}
    command: [nginx, -g, "daemon off;"]
    deploy: {{placement: {{constraints: [node.hostname == n3]}}}}
  client:
    image: {image}
    command: [sleep, "86400"]
    stop_grace_period: 0s
    links: [web, bad]
    deploy: {{mode: global}}
"""
ENDS_S = 1.0
"""Seconds from the label to the last answer over a link of the revoked node, as aimed at."""
# One new connection after the other, each with 0.3 s to answer, for so many seconds: the time of the last good one.
LAST_ANSWER = """
import json, sys, time, urllib.request
last, end = 0.0, time.monotonic() + 20
while time.monotonic() < end:
    try:
        urllib.request.urlopen(sys.argv[1], timeout=0.3).read()
        last = time.time()
    except Exception:
        pass
    time.sleep(0.01)
open("/tmp/last", "w").write(json.dumps(last))
"""


class LastAnswer:
    """The time of the last answer that a container gets, asking for twenty seconds."""

    def __init__(self, node: Node, container: str, url: str) -> None:
        self._node, self._container = node, container
        node.docker("exec", container, "rm", "-f", "/tmp/last")  # noqa: S108 - in the container
        node.docker("exec", "--detach", container, "python3", "-c", LAST_ANSWER, url)

    def at(self) -> float:
        said: list[str] = []

        def ended() -> bool:
            said[:] = [self._node.docker("exec", self._container, "cat", "/tmp/last", check=False).stdout]  # noqa: S108
            return bool(said[0])

        process.wait_for("the last answer to be known", ended, seconds=40, every=0.2)
        return float(json.loads(said[0]))


def epoch(stacks: Deployment, provider: str) -> int:
    (link,) = (link for link in stacks.ps("bad")["links"] if link["provider"] == provider)
    return int(link["epoch"])


def test_revoked_nodes_tasks_lose_peers_and_others_nothing(stacks: Deployment, figure: Callable[[str], None]) -> None:
    lab = stacks.lab
    stacks.deploy("bad", STACK.format(image=stacks.images.demo))
    clients = dict(stacks.wait_running("bad_client", 3))
    stacks.wait_connected("bad")
    n1, n2, n3 = (lab.node(name) for name in ("n1", "n2", "n3"))
    before = {name: epoch(stacks, name) for name in ("bad_web", "bad_bad")}
    with Requests(n1, clients[n1], "http://web/") as one, Requests(n2, clients[n2], "http://web/") as two:
        to_it, from_it = LastAnswer(n1, clients[n1], "http://bad/"), LastAnswer(n3, clients[n3], "http://web/")
        time.sleep(3)
        asked = time.time()
        stacks.linkwire("node", "revoke", "n3")
        took = time.time() - asked
        try:
            shown = stacks.linkwire("node", "ls")
            since = re.search(r"REVOKED since (\S+):", shown)
            assert since is not None, shown
            labelled = datetime.fromisoformat(since[1]).timestamp()
            last = {"to it": to_it.at() - labelled, "from it": from_it.at() - labelled}
        finally:
            stacks.linkwire("node", "approve", "n3")
    figure(
        f"revoked: last answer {last['to it']:.2f} s after the label to its task, {last['from it']:.2f} s from its "
        f"task; the command took {took:.2f} s; others: {one.counted}, {two.counted}"
    )
    assert " REVOKED " in shown
    assert -5 < last["to it"] < ENDS_S * slowness()
    assert -5 < last["from it"] < ENDS_S * slowness()
    assert one.counted.lost + two.counted.lost == 0, f"{one.counted}; {two.counted}"
    assert one.counted.ok + two.counted.ok > 200
    stacks.wait_connected("bad")
    assert all(epoch(stacks, name) > was for name, was in before.items())
    back = LastAnswer(n1, clients[n1], "http://bad/")
    assert back.at() > time.time() - 10, "approved, it has its links again"
    told = [(kind, details.get("node")) for kind, details in stacks.events()]
    assert ("node revoked", "n3") in told
    assert ("revocation undone", "n3") in told
    assert [kind for kind, _ in told].count("link key renewed") >= len(before)


@pytest.fixture
def changed_by_hand(stacks: Deployment) -> Iterator[Deployment]:
    """Somebody has changed the agents' service, which no deployment of Linkwire's would do."""
    stacks.change("linkwire_agent", "update", "--env-add", "LINKWIRE_BY_HAND=1")
    yield stacks
    stacks.change("linkwire_agent", "rollback")


def test_renewed_link_seed_costs_no_request(changed_by_hand: Deployment, figure: Callable[[str], None]) -> None:
    stacks = changed_by_hand
    stacks.deploy("bad", STACK.format(image=stacks.images.demo))
    clients = dict(stacks.wait_running("bad_client", 3))
    stacks.wait_connected("bad")
    n1, n3 = (stacks.lab.node(name) for name in ("n1", "n3"))
    before, agents = epoch(stacks, "bad_web"), [stacks.agent(node) for node in stacks.lab.nodes]
    assert before >= FRESH, "the controllers have keys of their own"
    with Requests(n1, clients[n1], "http://web/") as one, Requests(n3, clients[n3], "http://web/") as two:
        began = time.time()
        shown = stacks.linkwire("renew", "--link-seed", seconds=400)
        took = time.time() - began
    assert "the link seed is renewed" in shown
    assert epoch(stacks, "bad_web") > before
    assert [stacks.agent(node) for node in stacks.lab.nodes] == agents, "no agent mounts the seed: all run on"
    seeds = stacks.lab.manager.docker("secret", "ls", "--format", "{{.Name}}").stdout.split()
    assert len([name for name in seeds if name.startswith("linkwire_link_seed_")]) == 1
    figure(f"link seed renewed in {took:.0f} s: {one.counted}, {two.counted}")
    assert one.counted.lost + two.counted.lost == 0, f"{one.counted}; {two.counted}"
