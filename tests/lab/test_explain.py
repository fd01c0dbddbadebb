"""Faults on real nodes, and the cause that `docker linkwire explain` names."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.lab import process
from tests.lab.deployment import Deployment
from tests.lab.faults import found_wrong
from tests.lab.node import Node
from tests.support.effort import LONG

pytestmark = pytest.mark.usefixtures("staying")

Figure = Callable[[str], None]
WELL = "nothing wrong is seen; check --live tries every link"

STACK = """
version: "3.8"
x-wireguard: {{}}
services:
  web:
    image: {image}
    command: [python3, -m, http.server, "80"]
    stop_grace_period: 0s
    deploy: {{placement: {{constraints: [node.hostname == n2]}}}}
  shy:
    image: {image}
    command: [python3, -m, http.server, "8000", --bind, 127.0.0.1]
    stop_grace_period: 0s
    deploy: {{placement: {{constraints: [node.hostname == n3]}}}}
  client:
    image: {image}
    command: [sleep, "86400"]
    stop_grace_period: 0s
    links: [web, shy]
    deploy: {{placement: {{constraints: [node.hostname == n1]}}}}
"""


@contextmanager
def dropping(node: Node, chain: str, match: str) -> Iterator[None]:
    """Have a node's own firewall drop something."""
    rules = f"table ip fault {{\n chain c {{\n type filter hook {chain} priority -10;\n {match} drop\n }}\n}}"
    node.run(["sh", "-c", f"nft -f - <<X\n{rules}\nX"])
    try:
        yield
    finally:
        node.run(["nft", "delete", "table", "ip", "fault"])


class Explained:
    """Asks, and keeps how long each cause took to be named."""

    def __init__(self, stacks: Deployment, figure: Figure) -> None:
        self.stacks, self._figure = stacks, figure

    def __call__(self, *words: str) -> dict[str, Any]:
        done = self.stacks.try_linkwire("explain", *words, "--format", "json")
        answer: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == (0 if answer["ok"] else 1), done.stderr
        return answer

    def names(self, stage: str, text: str, *words: str, status: str | None = None, code: int = 0) -> None:
        """Wait until this cause is named, and with `status` until this is what `status` says, with this exit code."""
        began = time.monotonic()
        last: dict[str, str] = {}

        def is_named() -> bool:
            last.update(self(*words)["cause"] or {"stage": "none", "text": ""})
            return bool(last["stage"] == stage and text in last["text"])

        process.wait_for(f"{stage}: {text}", is_named, seconds=40, every=0.5)
        took = time.monotonic() - began
        if status is not None:
            process.wait_for(f"status {code}: {status}", lambda: self._status(status, code), seconds=40, every=0.5)
        also = f"; status ({code}) after {time.monotonic() - began:.1f} s: {status}" if status is not None else ""
        self._figure(f"{last['stage']}: {last['text']} ({took:.1f} s{also})")
        if LONG:
            for asked in (["check", "--live", "--stack", "seek"], ["status"]):
                done = self.stacks.try_linkwire(*asked)
                said = f"{asked[0]} ({done.returncode}) after {time.monotonic() - began:.1f} s"
                self._figure(f"  {said}: {found_wrong(done.stdout)}")

    def _status(self, text: str, code: int) -> bool:
        done = self.stacks.try_linkwire("status")
        return done.returncode == code and text in done.stdout


@pytest.fixture
def explained(stacks: Deployment, figure: Figure) -> Explained:
    """A client on n1 that is linked to a server on n2, and to one on n3 that listens on its loopback device."""
    stacks.staying.add("seek")
    stacks.deploy("seek", STACK.format(image=stacks.images.demo))
    for service in ("web", "shy", "client"):
        stacks.wait_running(f"seek_{service}", 1)
    stacks.wait_connected("seek")
    return Explained(stacks, figure)


def test_each_fault_is_named(explained: Explained) -> None:
    lab, link = explained.stacks.lab, ("seek_client", "seek_web:80")
    n1, n2 = lab.node("n1"), lab.node("n2")
    there, back = (f"ip saddr {node.address} meta l4proto udp" for node in (n1, n2))
    assert explained(*link)["ok"]
    explained.names(
        "listens", "nothing listens there; it listens on 80/tcp", "seek_client", "seek_web:81", status=WELL
    )
    explained.names("listens", "listens on 127.0.0.1 only", "seek_client", "seek_shy:8000", status=WELL)
    with dropping(n2, "input", there):
        explained.names("underlay", "UDP from n1 does not reach n2: a firewall", *link)
    with dropping(n1, "input", back):
        explained.names("underlay", "UDP from n2 does not reach n1: a firewall", *link)
    with dropping(n2, "input", there), dropping(n1, "input", back):
        both = "UDP from n1 does not reach n2 and UDP from n2 does not reach n1: a firewall"
        explained.names("underlay", both, *link)
    with dropping(n2, "input", f"{there} meta length > 1300"):
        explained.names("mtu", "bytes gets no answer", *link, status=WELL)
    with dropping(n2, "output", f"ip daddr {lab.etcd_endpoint.partition(':')[0]} tcp dport 2379"):
        explained.names("agent", "reports not written", *link, status="node n2: its agent is silent", code=1)
    process.wait_for("all to be well", lambda: bool(explained(*link)["ok"]), seconds=40)


def test_live_check_tells_a_broken_node_once(explained: Explained, figure: Figure) -> None:
    """Both links of the client are cut, since its node's firewall drops what other nodes send."""
    stacks = explained.stacks
    n1, *others = stacks.lab.nodes
    sources = ", ".join(node.address for node in others)
    told: list[str] = []

    def check() -> list[str]:
        began = time.monotonic()
        done = stacks.try_linkwire("check", "--live", "--stack", "seek")
        assert done.returncode == 1, done.stderr
        figure(f"check --live after {time.monotonic() - began:.1f} s: {done.stdout.strip()}")
        told[:] = [line for line in done.stdout.splitlines() if " -> " in line]
        return told

    only = ["seek_client -> seek_shy: no program in seek_shy.1 listens on any port but on 127.0.0.1"]
    assert [line.partition(";")[0] for line in check()] == only
    with dropping(n1, "input", f"ip saddr {{ {sources} }} udp dport 51820-53819"):
        process.wait_for("the cut to be told", lambda: any("UDP from" in line for line in check()), seconds=40)
        (cut,) = told
        both = "seek_client -> seek_shy, seek_client -> seek_web: UDP from n2, n3 does not reach n1: a firewall"
        assert cut.startswith(both), "a cause of two links is told twice, or without one of them"
    process.wait_for("the cut to be over", lambda: len(check()) == 1 and "UDP" not in told[0], seconds=40)


def test_hung_agent_and_absent_controller_are_named(explained: Explained) -> None:
    stacks, link = explained.stacks, ("seek_client", "seek_web:80")
    n2 = stacks.lab.node("n2")
    agent = stacks.agent(n2)
    assert agent is not None
    listed = n2.docker("top", agent, "-eo", "pid,args").stdout.splitlines()[1:]
    pids = [int(line.split(None, 1)[0]) for line in listed if "agent" in line]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        explained.names("agent", "it may hang", *link)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    stacks.lab.manager.docker("service", "scale", "--detach", "linkwire_controller=0")
    try:
        none_runs = "broken: no task of linkwire_controller runs"
        explained.names("record", "no controller leads", *link, status=none_runs, code=2)
    finally:
        stacks.lab.manager.docker("service", "scale", "--detach", "linkwire_controller=2")
    process.wait_for("all to be well", lambda: bool(explained(*link)["ok"]), seconds=60)
