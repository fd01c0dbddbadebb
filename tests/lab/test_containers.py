"""What the agent knows of a task's addresses on Docker's own networks, and when, against a real dockerd."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from ipaddress import ip_interface
from pathlib import Path

import pytest

from agent.containers import watcher
from agent.containers.docker_client import Containers, LocalTask
from agent.containers.netns_discovery import NetnsDiscovery
from agent.containers.watcher import ContainerWatcher
from mesh.model.records import Attachment
from mesh.topology.strict_isolation import in_order
from tests.lab import Lab, images
from tests.lab.node import Node
from tests.lab.process import wait_for

# A network of the Swarm's, and of each node's own: a task's address on the first is chosen by Swarm, in time.
OVERLAY, BRIDGE, LATE = "where-overlay", "where-bridge", "where-late"


@pytest.fixture
def node(lab: Lab) -> Iterator[Node]:
    one = lab.manager
    both = ("--ipv6", "--subnet")
    one.docker("network", "create", "-d", "overlay", OVERLAY)
    one.docker(
        "network", "create", "--config-only", *both, "fd77:1::/64", "--subnet", "10.201.0.0/24", f"{BRIDGE}-as"
    )
    one.docker("network", "create", "-d", "bridge", "--scope", "swarm", "--config-from", f"{BRIDGE}-as", BRIDGE)
    one.docker("network", "create", "-d", "bridge", *both, "fd77:2::/64", "--subnet", "10.202.0.0/24", LATE)
    try:
        yield one
    finally:
        one.docker("service", "rm", "where", check=False)
        wait_for("the task to end", lambda: not one.docker("ps", "-aq", "-f", "name=where").stdout, seconds=60)
        for network in (OVERLAY, BRIDGE, f"{BRIDGE}-as", LATE):
            one.docker("network", "rm", network, check=False)


class Seen:
    """Everything that was known of a service's tasks, one after the other; and what a new agent saw meanwhile."""

    def __init__(self, url: str) -> None:
        self.tasks: list[LocalTask] = []
        self.afresh: list[LocalTask] = []
        self._url = url
        self._first = threading.Lock()
        self._watch = ContainerWatcher(Containers(url), self._look)

    def _look(self) -> None:
        for local in self._watch.local.tasks.values() if hasattr(self, "_watch") else ():
            if not local.name.startswith("where.") or (self.tasks and self.tasks[-1] == local):
                continue
            self.tasks.append(local)
            # Two threads tell of changes, and asking Docker takes a while.
            if len(local.elsewhere) > 1 and self._first.acquire(blocking=False):
                self.afresh.append(Containers(self._url).all()[local.container])
                self._watch._wake("container", local.container)  # another look at one that is being started

    def wait(self, what: str, condition: Callable[[LocalTask], bool]) -> LocalTask:
        wait_for(what, lambda: any(condition(local) for local in list(self.tasks)), seconds=60)
        return next(local for local in self.tasks if condition(local))


def inside(node: Node, container: str, *networks: str) -> tuple[Attachment, ...]:
    """What inspect says of a container that runs."""
    told = json.loads(node.docker("inspect", "-f", "{{json .NetworkSettings.Networks}}", container).stdout)
    assert sorted(told) == sorted(networks)
    texts = [(end["NetworkID"], end[key]) for end in told.values() for key in ("IPAddress", "GlobalIPv6Address")]
    return in_order(Attachment(network, ip_interface(text).ip) for network, text in texts if text)


def test_task_addresses_are_known_before_start_until_end(
    lab: Lab, node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "NetnsDiscovery", lambda found, **_: NetnsDiscovery(found, tmp_path))
    image = images.push_busybox(lab)
    seen = Seen(f"unix://{node.socket}")
    networks = ("--network", OVERLAY, "--network", BRIDGE, "--constraint", f"node.hostname=={node.name}")
    create = ("service", "create", "--detach", "--name", "where", "--stop-grace-period", "0s")
    node.docker(*create, *networks, image, "sleep", "9999")
    running = seen.wait("the task to run", lambda local: local.state == "running")
    meant = inside(node, running.container, OVERLAY, BRIDGE)
    assert [attachment.address.version for attachment in meant].count(6) == 1, "and so on a bridge of this node alone"
    assert len(meant) == 3
    assert running.elsewhere == meant
    starting = [local.elsewhere for local in seen.tasks if local.state == "created"]
    assert starting[-1] == meant
    # A look may come upon it while Docker is making it; the one that follows its `create` event does not.
    assert len(starting[min(1, len(starting) - 1)]) > 0, "what Swarm chose is known as soon as the container is made"
    assert all(set(earlier) <= set(later) for earlier, later in itertools.pairwise(starting)), "and nothing is lost"
    assert [(local.state, local.elsewhere) for local in seen.afresh] == [("created", meant)], "also to a new agent"

    node.docker("network", "connect", LATE, running.container)
    joined = seen.wait("an address on one network more", lambda local: len(local.elsewhere) == 5)
    assert joined.elsewhere == inside(node, running.container, OVERLAY, BRIDGE, LATE)
    node.docker("network", "disconnect", LATE, running.container)
    wait_for("it to be given up", lambda: seen.tasks[-1].elsewhere == meant, seconds=5)

    node.docker("service", "rm", "where")
    assert seen.wait("the end", lambda local: local.state == "gone").elsewhere == ()
