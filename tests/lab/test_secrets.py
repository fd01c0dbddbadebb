"""Nothing that Linkwire emits has a secret in it: logs, Docker's answers, arguments, metrics, what lies in etcd."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mesh.crypto.keys import PrivateKey
from tests.lab import checker, emissions, process
from tests.lab.deployment import Deployment

STACK = """
version: "3.8"
x-wireguard:
  keys:
    shop: {{}}
services:
  web:
    image: {image}
    command: [nginx, -g, "daemon off;"]
    deploy: {{replicas: 3}}
  front:
    image: {image}
    command: [sleep, "86400"]
    stop_grace_period: 1s
    links: [web]
    x-wireguard: {{links: {{web: {{key: shop}}}}}}
    deploy: {{replicas: 2}}
"""


@pytest.fixture
def talkative(stacks: Deployment) -> Iterator[Deployment]:
    """Linkwire says all that it can say."""
    for service in ("linkwire_agent", "linkwire_controller"):
        stacks.change(service, "update", "--env-add", "LINKWIRE_LOG_LEVEL=debug")
    yield stacks
    for service in ("linkwire_agent", "linkwire_controller"):
        stacks.change(service, "rollback")


def test_nothing_emitted_contains_a_secret(talkative: Deployment, figure: Callable[[str], None]) -> None:
    """Through deploying, scaling, an agent's and etcd's death, and an etcd that has everything to write anew."""
    lab, manager = talkative.lab, talkative.lab.manager
    talkative.deploy("secrets", STACK.format(image=talkative.images.demo))
    talkative.wait_running("secrets_front", 2)
    checker.settle(lab)
    hidden = emissions.secrets(talkative)
    victim = lab.node("n2")
    agent = talkative.agent(victim)
    assert agent is not None
    victim.docker("kill", agent)
    lab.restart_etcd()
    process.wait_for("another agent", lambda: talkative.agent(victim) not in (None, agent), seconds=60)
    manager.docker("service", "scale", "--detach", "secrets_web=5", "secrets_front=1")
    talkative.wait_running("secrets_web", 5)
    process.wait_for("an agent on every node", talkative.agents_ready, seconds=90, every=0.5)
    checker.settle(lab)
    talkative.wait_connected("secrets")
    hidden |= emissions.secrets(talkative)
    kinds = {where.partition(": ")[2].rpartition("/")[0] for where in hidden.values()}
    shown = list(emissions.emitted(talkative))
    figure(
        f"secrets: {len(hidden)} looked for in {len(shown)} things that are emitted, "
        f"{sum(len(data) for _, data in shown)} bytes"
    )
    assert emissions.seen(((secret, where) for secret, where in hidden.items()), shown) == []
    assert kinds >= {"/run/secrets", "/var/lib/linkwire", "/run/wireguard"}
    # The same search does find: what is public in what lies there, and a secret in whatever form.
    devices = [secret for secret, where in hidden.items() if "/run/wireguard/" in where]
    public = [(PrivateKey(secret).public.raw, str(number)) for number, secret in enumerate(devices)]
    assert len({found.partition(" in ")[0] for found in emissions.seen(public, shown) if " in etcd" in found}) >= 6
    secret = next(iter(hidden))
    with subprocess.Popen(["sleep", "60"], env={"X": f"..{base64.b64encode(b'12' + secret).decode()}"}) as one:
        try:
            assert len(emissions.seen([(secret, "x")], emissions.arguments_and_environments())) == 1
        finally:
            one.kill()


def test_no_process_with_secrets_leaves_a_core_dump(stacks: Deployment) -> None:
    for node, container in emissions.own(stacks):
        listed = node.docker("top", container, "-eo", "pid,args").stdout.splitlines()[1:]
        for pid, _, arguments in (line.strip().partition(" ") for line in listed):
            if "linkwire" in arguments or "wireguard-go" in arguments or "agent" in arguments:
                limits = Path(f"/proc/{pid}/limits").read_text()
                assert "Max core file size        0                    0" in limits, arguments
