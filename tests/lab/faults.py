"""Faults that a whole Swarm may have, each made and taken away, and what `explain` and `status` have to say of it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from tests.lab import process, programs
from tests.lab.deployment import Deployment

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
ILL = """\
  ill:
    image: {image}
    command: [sleep, "86400"]
    stop_grace_period: 0s
    volumes: ["{folder}:/check"]
    # It is well as long as the file is there; one that was never well is looked at for five minutes.
    healthcheck: {{test: [CMD, test, -e, /check/well], interval: 1s, retries: 1, start_period: 5m}}
  nurse:
    image: {image}
    command: [sleep, "86400"]
    stop_grace_period: 0s
    links: [ill]
"""
GUEST = """
version: "3.8"
x-wireguard: {{}}
services:
  caller:
    image: {image}
    command: [sleep, "86400"]
    stop_grace_period: 0s
    external_links: ["odd_web:web"]
"""
CLASHING = """\
  astray:
    image: {image}
    command: [sleep, "86400"]
    stop_grace_period: 0s
    links: [web]
    networks: [clashing]
networks:
  clashing:
    ipam: {{config: [{{subnet: 100.96.0.0/16}}]}}
"""
"""The mesh's own addresses, once more."""
AGENT = "linkwire_agent"
TUN = os.makedev(10, 200)  # Linux, Documentation/admin-guide/devices.txt
NO_DRIVER = os.makedev(10, 239)  # a misc device that no driver has: what /dev/net/tun is without the module


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault, and what has to be said of it.

    Attributes:
        name: for the table.
        inject: makes it, and takes it away.
        stage: at which `explain` stops or which it warns of.
        text: part of what it says.
        link: consumer and provider to ask for.
        status: part of what `status` says.
        codes: with which it ends: 1 where links work, 2 where they do not; both where that comes a little later.
    """

    name: str
    inject: Callable[[Deployment], AbstractContextManager[None]]
    stage: str
    text: str
    link: tuple[str, str] = ("odd_client", "odd_web:80")
    status: str = ""
    codes: tuple[int, ...] = (1,)


def found_wrong(shown: str) -> str:
    """What `status` or `check` say that is wrong, without the rest of the screen of `status`."""
    first = shown.partition("\n")[0]
    return shown.partition("PROBLEMS\n")[2].strip() or (first if first.startswith("STATUS") else shown.strip())


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
def wrong_clock(stacks: Deployment, *more: str) -> Iterator[None]:
    """Only on n2 there is a library to load, by which it is an hour earlier; `more` are flags for the service."""
    for node in stacks.lab.nodes:
        folder = stacks.lab.layout.root / "clock" / node.name
        folder.mkdir(parents=True, exist_ok=True)
    library = stacks.lab.layout.root / "clock/n2/clock.so"
    process.answer(["cc", "-shared", "-fPIC", "-o", str(library), str(programs.INSIDE / "clock.c")])
    source = f"{stacks.lab.layout.root}/clock/{{{{.Node.Hostname}}}}"
    preload = ("--env-add", "LD_PRELOAD=/clock/clock.so", *more)
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


@contextmanager
def with_more(stacks: Deployment, more: str, *services: str, folder: str = "") -> Iterator[None]:
    """More services in the stack."""
    stacks.deploy("odd", (STACK + more).format(image=stacks.images.demo, folder=folder))
    try:
        yield
    finally:
        stacks.lab.manager.docker("service", "rm", *services)


@contextmanager
def unhealthy(stacks: Deployment) -> Iterator[None]:
    """The health check of the provider's only task fails, and so do those of the tasks in its place."""
    folder = stacks.lab.layout.root / "check"
    folder.mkdir(exist_ok=True)
    (folder / "well").touch()
    with with_more(stacks, ILL, "odd_ill", "odd_nurse", folder=str(folder)):
        stacks.wait_running("odd_nurse", 1)
        shown = ("service", "ps", "--filter", "desired-state=running", "--format", "{{.CurrentState}}", "odd_ill")
        process.wait_for(
            "the check to have passed",
            lambda: stacks.lab.manager.docker(*shown).stdout.startswith("Running"),
            seconds=60,
        )
        (folder / "well").unlink()
        yield


@contextmanager
def scaled_to_none(stacks: Deployment) -> Iterator[None]:
    stacks.lab.manager.docker("service", "scale", "--detach", "odd_web=0")
    try:
        yield
    finally:
        stacks.lab.manager.docker("service", "scale", "--detach", "odd_web=1")


@contextmanager
def mistyped(stacks: Deployment) -> Iterator[None]:
    manager = stacks.lab.manager
    label = manager.docker(
        "service", "inspect", "--format", '{{index .Spec.Labels "linkwire.links"}}', "odd_client"
    ).stdout.strip()
    wrong = label.replace("odd_web", "odd_wbe")
    assert wrong != label
    manager.docker("service", "update", "--detach", "--label-add", f"linkwire.links={wrong}", "odd_client")
    try:
        yield
    finally:
        manager.docker("service", "update", "--detach", "--label-add", f"linkwire.links={label}", "odd_client")


@contextmanager
def not_allowed(stacks: Deployment) -> Iterator[None]:
    stacks.deploy("guest", GUEST.format(image=stacks.images.demo))
    try:
        stacks.wait_running("guest_caller", 1)
        yield
    finally:
        stacks.remove("guest")


@contextmanager
def clashing(stacks: Deployment) -> Iterator[None]:
    try:
        with with_more(stacks, CLASHING, "odd_astray"):
            yield
    finally:
        process.wait_for(
            "the network to be removed",
            lambda: stacks.lab.manager.docker("network", "rm", "odd_clashing", check=False).returncode == 0,
            seconds=60,
        )


@contextmanager
def no_etcd(stacks: Deployment) -> Iterator[None]:
    stacks.lab.kill_etcd()
    try:
        yield
    finally:
        stacks.lab.restart_etcd()


FAULTS = (
    Fault(
        "gate missing",
        no_gate,
        "placement",
        "with the start gate alone",
        ("odd_picky", "odd_web"),
        "odd_picky -> odd_web: odd_picky has no running task",
        (2,),
    ),
    Fault(
        "node drained",
        drained,
        "placement",
        "drained: n2",
        status="odd_client -> odd_web: no ready task: odd_web.1 does not run",
        codes=(2,),
    ),
    Fault(
        "provider scaled to 0",
        scaled_to_none,
        "placement",
        "odd_web is scaled to 0",
        status="odd_client -> odd_web: no ready task: odd_web is scaled to 0; docker service scale odd_web=1",
    ),
    Fault(
        "label typo",
        mistyped,
        "label",
        "did you mean 'odd_web'?",
        status="service odd_client: links to odd_wbe, which does not exist (yet); did you mean 'odd_web'?",
    ),
    Fault(
        "provider does not consent",
        not_allowed,
        "consent",
        "odd_web does not allow it",
        ("guest_caller", "odd_web"),
        "service guest_caller: its link to odd_web is refused: odd_web does not allow it",
    ),
    Fault(
        "no ready backend",
        unhealthy,
        "backends",
        "odd_ill has no ready task: its only task is not ready",
        ("odd_nurse", "odd_ill"),
        "odd_nurse -> odd_ill: no ready task: odd_ill.1 does not run",
        (2,),
    ),
    Fault(
        "subnet clash",
        clashing,
        "device",
        "cannot be routed through",
        ("odd_astray", "odd_web"),
        "cannot be routed through",
        (2,),
    ),
    Fault("etcd down", no_etcd, "record", "etcd does not answer", status="cannot reach etcd", codes=(2,)),
    Fault(
        "agent dead",
        no_agent,
        "agent",
        "no agent runs on n2: its task is shutdown",
        status="node n2: its agent is silent",
    ),
    Fault(
        "clock wrong by an hour",
        wrong_clock,
        "agent",
        "the clock of n2 is 60 min behind",
        status="node n2: its clock is ",
    ),
    Fault(
        "neither tun nor WireGuard",
        no_tun,
        "agent",
        "/dev/net/tun cannot be used",
        status="node n2: its agent is silent",
        codes=(1, 2),
    ),
    Fault(
        "unapproved node",
        locked,
        "record",
        "the keys of node n1 are not accepted",
        status="node n1: its keys are not proven: its Swarm key is encrypted (autolock)",
        codes=(1, 2),
    ),
)
