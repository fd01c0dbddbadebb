"""`docker linkwire backup` and `restore` on a Swarm, under requests: etcd's and the controllers' volumes are lost."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab import Lab, checker, process
from tests.lab.deployment import Deployment, deployed
from tests.lab.fixtures import lab_name
from tests.lab.requests import Load
from tests.support.effort import LONG
from tests.support.fault_rows import FaultRow

pytestmark = pytest.mark.skipif(not LONG, reason="in make chaos: a Swarm of its own, some minutes")

STACK = """
version: "3.8"
x-wireguard: {{}}
services:
  web:
    image: {image}
    command: [nginx, -g, "daemon off;"]
    deploy: {{placement: {{constraints: [node.hostname == n2]}}}}
  client:
    image: {image}
    command: [sleep, "86400"]
    stop_grace_period: 1s
    links: [web]
    deploy: {{replicas: 3, placement: {{constraints: [node.hostname == n1]}}}}
  back:
    image: {image}
    command: [nginx, -g, "daemon off;"]
    deploy: {{placement: {{constraints: [node.hostname == n1]}}}}
  buyer:
    image: {image}
    command: [sleep, "86400"]
    stop_grace_period: 1s
    links: ["back:web"]
    deploy: {{replicas: 3, placement: {{constraints: [node.hostname == n2]}}}}
"""
LOST = ("linkwire_etcd", "linkwire_controller")
WAIT_S = 120.0

Figure = Callable[[str], None]


@pytest.fixture(scope="module")
def installed() -> Iterator[Deployment]:
    """Two nodes with the stack's own etcd, and links both ways between them."""
    with Lab(lab_name("b"), nodes=2, say=print).anew() as lab:
        made = deployed(lab, own_etcd=True)
        made.deploy("kept", STACK.format(image=made.images.demo))
        made.wait_connected("kept")
        yield made


def wired(installed: Deployment) -> dict[tuple[str, str], str]:
    """Every device of ours: public key, port, addresses."""
    return {
        (node.name, one.device): f"{one.public_key} {one.port} {one.address} {one.address6}"
        for node in installed.lab.nodes
        for one in checker.devices(node)
    }


def vips(installed: Deployment) -> set[str]:
    return {str(link["vip"]) for link in installed.ps("kept")["links"]}


def events(installed: Deployment) -> list[tuple[str, float]]:
    """The audit log, of which nothing is missing."""
    lines = [json.loads(line) for line in installed.linkwire("events", "--format", "json").splitlines()]
    assert [line for line in lines if "problem" in line] == []
    return [(line["kind"], line["time"]) for line in lines]


def lose_volumes(installed: Deployment) -> None:
    """Take away all that etcd and the controllers keep, and have Swarm start them again with nothing."""
    manager = installed.lab.manager
    (controller,) = (one for one in manager.get("/services") if one["Spec"]["Name"] == "linkwire_controller")
    replicas = controller["Spec"]["Mode"]["Replicated"]["Replicas"]
    manager.docker("service", "scale", "--detach", *(f"{name}=0" for name in LOST))

    def removed() -> bool:
        """Swarm keeps ended containers of a service that has fewer tasks now, and they keep the volumes."""
        listed = [manager.docker("ps", "--all", "--quiet", "--filter", f"name={name}.").stdout for name in LOST]
        running = [manager.docker("ps", "--quiet", "--filter", f"name={name}.").stdout for name in LOST]
        if not any(running) and any(listed):
            manager.docker("rm", *" ".join(listed).split(), check=False)
        return not any(listed)

    process.wait_for("etcd and the controllers to end", removed, seconds=WAIT_S)
    manager.docker("volume", "rm", "linkwire_store", "linkwire_controller")
    manager.docker("service", "scale", "--detach", "linkwire_etcd=1", f"linkwire_controller={replicas}")


def test_lost_volumes_come_back_without_a_lost_request(
    installed: Deployment, figure: Figure, fault_row: Callable[[FaultRow], None], tmp_path: Path
) -> None:
    key, file = tmp_path / "backup.key", tmp_path / "linkwire.backup"
    installed.linkwire("backup", "--keygen", str(key))
    before, addresses = wired(installed), vips(installed)
    clients = [*installed.wait_running("kept_client", 3), *installed.wait_running("kept_buyer", 3)]
    assert len(before) == len(clients) + 2
    with Load(clients, "http://web/") as requests:
        words = ("backup", "--to", str(file), "--recipient", f"{key}.pub", "--format", "json")
        began = time.monotonic()
        made = json.loads(installed.linkwire(*words))
        figure(f"backup: {made['records']} records, {made['bytes']} bytes in {time.monotonic() - began:.1f} s")
        history = events(installed)
        lose_volumes(installed)
        process.wait_for("the links to be known again", lambda: knows(installed), seconds=WAIT_S)
        given = ("--identity", str(key), str(file))
        dry = json.loads(installed.linkwire("restore", "--dry-run", "--format", "json", *given))
        assert dry["written"] is False
        began = time.monotonic()
        restored = json.loads(installed.linkwire("restore", "--format", "json", *given))
        figure(f"restore: {restored['restored']} in {time.monotonic() - began:.1f} s; {restored['kept']}")
        installed.wait_connected("kept")
        time.sleep(5)
    figure(f"etcd's and the controllers' volumes lost, and a restore: {requests.counted}")
    fault_row(requests.counted.row("volumes of etcd and controllers lost, a backup restored"))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert restored["written"] is True
    assert restored["lost"] == []
    assert requests.counted.lost == 0
    assert requests.counted.ok > 50
    assert wired(installed) == before
    assert vips(installed) == addresses
    told = events(installed)
    assert told[: len(history)] == history
    assert {"audit log begun", "backup restored"} <= {kind for kind, _ in told[len(history) :]}


def knows(installed: Deployment) -> bool:
    """Whether the links are in etcd again, and somebody leads and has told of it."""
    done = installed.try_linkwire("ps", "kept", "--format", "json")
    told = installed.try_linkwire("events", "--format", "json")
    return done.returncode == 0 and bool(json.loads(done.stdout)["links"]) and "audit log begun" in told.stdout
