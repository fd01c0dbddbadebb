"""Faults that only a whole Swarm has, one after another: what `explain`, `check --live` and `status` say of each.

The others are in test_explain.py and test_status.py. In `make test` three of them; all in `make chaos`.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import pytest

from tests.lab import checker, process, programs
from tests.lab.deployment import Deployment
from tests.support.effort import LONG
from tests.support.patience import slowness

STACK = """
version: "3.8"
x-wireguard: {{}}
services:
  web:
    image: {image}
    command: [python3, -m, http.server, "80"]
    stop_grace_period: 0s
    deploy: {{placement: {{constraints: [node.hostname == n2]}}}}
  client:
    image: {image}
    command: [sleep, "86400"]
    stop_grace_period: 0s
    links: [web]
    deploy: {{placement: {{constraints: [node.hostname == n1]}}}}
"""
PICKY = """\
  picky:
    image: {image}
    command: [sleep, "86400"]
    stop_grace_period: 0s
    links: [web]
    x-wireguard: {{gate: true}}
"""
AGENT = "linkwire_agent"
NAMED_S = 60.0
TUN = os.makedev(10, 200)  # Linux, Documentation/admin-guide/devices.txt
NO_DRIVER = os.makedev(10, 239)  # a misc device that no driver has: what /dev/net/tun is without the module
LONG_ONLY = "in make chaos: each replaces every agent twice"


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault, and what has to be said of it.

    Attributes:
        name: for the table.
        inject: makes it, and takes it away.
        stage: at which `explain` stops or which it warns of.
        text: part of what it says.
        link: consumer and provider to ask for.
        status: what `status` says; empty where it is no business of the Swarm's.
    """

    name: str
    inject: Callable[[Deployment], AbstractContextManager[None]]
    stage: str
    text: str
    link: tuple[str, str] = ("odd_client", "odd_web:80")
    status: str = ""


@contextmanager
def changed(stacks: Deployment, *flags: str) -> Iterator[None]:
    """The agents' service, changed by hand."""
    manager = stacks.lab.manager
    manager.docker("service", "update", "--detach", "--update-failure-action", "continue", *flags, AGENT)
    try:
        yield
    finally:
        stacks.change(AGENT, "rollback")


@contextmanager
def no_gate(stacks: Deployment) -> Iterator[None]:
    """A service that wants nodes with the start gate, and by their labels there is none."""
    manager, nodes = stacks.lab.manager, [node.name for node in stacks.lab.nodes]
    for node in nodes:
        manager.docker("node", "update", "--label-rm", "linkwire.gate", node)
    stacks.deploy("odd", (STACK + PICKY).format(image=stacks.images.demo))
    try:
        yield
    finally:
        manager.docker("service", "rm", "odd_picky")
        for node in nodes:
            manager.docker("node", "update", "--label-add", "linkwire.gate=true", node)


@contextmanager
def no_agent(stacks: Deployment) -> Iterator[None]:
    with changed(stacks, "--constraint-add", "node.hostname!=n2"):
        yield


@contextmanager
def wrong_clock(stacks: Deployment) -> Iterator[None]:
    """Only on n2 there is a library to load, by which it is an hour earlier."""
    for node in stacks.lab.nodes:
        folder = stacks.lab.layout.root / "clock" / node.name
        folder.mkdir(parents=True, exist_ok=True)
    library = stacks.lab.layout.root / "clock/n2/clock.so"
    process.answer(["cc", "-shared", "-fPIC", "-o", str(library), str(programs.INSIDE / "clock.c")])
    source = f"{stacks.lab.layout.root}/clock/{{{{.Node.Hostname}}}}"
    preload = ("--env-add", "LD_PRELOAD=/clock/clock.so")
    with changed(stacks, "--mount-add", f"type=bind,source={source},target=/clock,readonly", *preload):
        yield


@contextmanager
def no_tun(stacks: Deployment) -> Iterator[None]:
    """On n2 nothing is behind /dev/net/tun, and its kernel has no WireGuard, as this machine's."""
    for node in stacks.lab.nodes:
        folder = stacks.lab.layout.root / "tun" / node.name
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "tun").exists():
            os.mknod(folder / "tun", stat.S_IFCHR | 0o666, NO_DRIVER if node.name == "n2" else TUN)
    source = f"{stacks.lab.layout.root}/tun/{{{{.Node.Hostname}}}}"
    with changed(stacks, "--mount-add", f"type=bind,source={source},target=/dev/net"):
        yield


@contextmanager
def drained(stacks: Deployment) -> Iterator[None]:
    stacks.lab.manager.docker("node", "update", "--availability", "drain", "n2")
    try:
        yield
    finally:
        stacks.lab.manager.docker("node", "update", "--availability", "active", "n2")


@contextmanager
def locked(stacks: Deployment) -> Iterator[None]:
    """A locked Swarm's manager cannot show its keys once its agent has started anew; then comes a new task."""
    manager = stacks.lab.manager
    key = manager.folder / "data/swarm/certificates/swarm-node.key"
    manager.docker("swarm", "update", "--autolock=true")
    process.wait_for("the key to be encrypted", lambda: "ENCRYPTED" in key.read_text(), seconds=30)
    agent = stacks.agent(manager)
    assert agent is not None
    manager.docker("kill", agent)
    process.wait_for("n1 to be unproven", lambda: "(autolock)" in keys(stacks), seconds=60)
    manager.docker("service", "update", "--detach", "--force", "odd_client")
    try:
        yield
    finally:
        manager.docker("swarm", "update", "--autolock=false")
        process.wait_for(
            "all to be proven", lambda: keys(stacks).count(" proven ") == len(stacks.lab.nodes), seconds=60
        )


def keys(stacks: Deployment) -> str:
    """What `node ls` says; it asks n1's agent, which may be starting."""
    return stacks.try_linkwire("node", "ls").stdout


FAULTS = (
    Fault("gate missing", no_gate, "placement", "with the start gate alone", ("odd_picky", "odd_web")),
    Fault("node drained", drained, "placement", "drained: n2"),
    Fault("agent dead", no_agent, "handshake", "the agent on n2 gives no signs of life in etcd", status="n2"),
    Fault(
        "clock wrong by an hour",
        wrong_clock,
        "agent",
        "the clock of n2 is 60 min behind",
        status="node n2: its clock is ",
    ),
    Fault("neither tun nor WireGuard", no_tun, "handshake", "/dev/net/tun cannot be used", status="n2"),
    Fault("unapproved node", locked, "record", "the keys of node n1 are not accepted", status="n1"),
)
SHORT = ("gate missing", "node drained")


@pytest.fixture
def odd(stacks: Deployment) -> Deployment:
    """A client on n1 that is linked to a server on n2."""
    stacks.deploy("odd", STACK.format(image=stacks.images.demo))
    for service in ("web", "client"):
        stacks.wait_running(f"odd_{service}", 1)
    process.wait_for("the link to be well", lambda: cause(stacks, "odd_client", "odd_web:80") == ("", ""), seconds=60)
    return stacks


def cause(stacks: Deployment, *link: str) -> tuple[str, str]:
    """Stage and text of what `explain` names; both empty for nothing."""
    found = json.loads(stacks.try_linkwire("explain", *link, "--format", "json").stdout)["cause"]
    return (found["stage"], found["text"]) if found else ("", "")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_fault_is_named_by_all(odd: Deployment, fault: Fault, figure: Callable[[str], None]) -> None:
    if fault.name not in SHORT and not LONG:
        pytest.skip(LONG_ONLY)
    began = time.monotonic()
    with fault.inject(odd):
        said = ("", "")
        while not (said[0] == fault.stage and fault.text in said[1]):
            assert time.monotonic() - began < NAMED_S * slowness(), said
            said = cause(odd, *fault.link)
        took = time.monotonic() - began
        live = odd.try_linkwire("check", "--live", "--stack", "odd")
        status = odd.try_linkwire("status")
        figure(
            f"{fault.name}, named after {took:.1f} s\n  explain: {said[0]}: {said[1]}\n"
            f"  check --live ({live.returncode}): {live.stdout.strip()}\n"
            f"  status ({status.returncode}): {status.stdout.strip()}"
        )
        assert live.returncode == 1
        assert fault.text in live.stdout
        assert not fault.status or (status.returncode, fault.status in status.stdout) != (0, False)
    checker.settle(odd.lab, 120)


def test_packets_beside_the_link_are_told(odd: Deployment, figure: Callable[[str], None]) -> None:
    """The client asks the provider by its address on the stack's own network, which `strict` refuses."""
    ((node, web),), ((asker, client),) = odd.tasks("odd_web"), odd.tasks("odd_client")
    networks = node.get(f"/containers/{web}/json")["NetworkSettings"]["Networks"]
    url = f"http://{networks['odd_default']['IPAddress']}/"
    assert asker.docker("exec", client, "curl", "-s", "-m", "3", url, check=False).returncode != 0
    said = odd.linkwire("explain", "odd_client", "odd_web:80")
    assert "packets of odd_client.1 beside its links were refused (strict)" in said
    figure(next(line for line in said.splitlines() if line.startswith("rule")))
