"""A starting container's namespace on a real dockerd: found in time, and not where a neighbour wears its address."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.containers import netns_choice
from agent.containers.docker_client import Containers, Heard, Joined
from agent.containers.netns_choice import Candidates
from agent.containers.netns_discovery import NetnsDiscovery
from tests.lab import Lab, images
from tests.lab.node import Node
from tests.lab.process import wait_for
from tests.support.attacks import Attempts

WORN = tuple(f"02:42:ac:11:00:{last:02x}" for last in range(2, 12))
"""Docker derives MAC addresses from the addresses that it gives in order."""


@dataclass
class Seen:
    """What the agent's parts make of a node's containers."""

    node: Node
    found: dict[str, str] = field(default_factory=dict)
    at: dict[str, float] = field(default_factory=dict)
    begun: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder = Path(f"/proc/{self.node.dockerd_pid}/root/run/docker/netns")
        self._discovery = NetnsDiscovery(self._found, self.folder)
        heard = Heard(
            lambda _: None, self._discovery.announce, self._connected, self._has_begun, stopping=lambda _: None
        )
        Containers(f"unix://{self.node.socket}").follow(heard)

    def _found(self, container: str, path: str, *, is_guess: bool) -> None:
        assert is_guess
        self.found[container], self.at[container] = Path(path).name, time.monotonic()

    def _connected(self, joined: Joined) -> None:
        self._discovery.expect(joined.container, joined.mac)

    def _has_begun(self, container: str) -> None:
        self.begun.setdefault(container, time.monotonic())
        self._discovery.forget(container)


@pytest.fixture
def run(lab: Lab) -> Iterator[Callable[..., tuple[str, str]]]:
    """Runs a container; tells its id and its namespace, as Docker says then."""
    image, made = images.push_busybox(lab), list[str]()

    def start(*options: str) -> tuple[str, str]:
        container = lab.manager.docker("run", "--detach", *options, image, "sleep", "9999").stdout.strip()
        made.append(container)
        key = lab.manager.docker("inspect", "--format", "{{.NetworkSettings.SandboxKey}}", container).stdout
        return container, Path(key.strip()).name

    yield start
    if made:
        lab.manager.docker("rm", "--force", *made)


def test_started_containers_are_found_before_they_begin(
    lab: Lab, run: Callable[..., tuple[str, str]], monkeypatch: pytest.MonkeyPatch, figure: Callable[[str], None]
) -> None:
    monkeypatch.setattr(netns_choice, "GAP_S", 5.0)  # however busy this machine is
    seen = Seen(lab.manager)
    time.sleep(1.0)
    started = dict(run() for _ in range(5))
    assert {container: seen.found.get(container) for container in started} == started
    early = sorted(1000 * (seen.begun[one] - seen.at[one]) for one in started)
    figure(f"namespaces are found before their containers' start events: ms {', '.join(f'{ms:.0f}' for ms in early)}")
    assert early[0] > 0


def test_neighbours_address_gets_nothing_of_docker(
    lab: Lab, run: Callable[..., tuple[str, str]], monkeypatch: pytest.MonkeyPatch, attempt: Attempts
) -> None:
    tried = attempt("a container without a network wears the addresses that Docker gives next")

    def victims(is_off: bool) -> tuple[bool, bool]:
        """Whether the victim's is taken for the attacker's namespace, and whether for its own."""
        with monkeypatch.context() as patch:
            patch.setattr(netns_choice, "GAP_S", 5.0)
            patch.setattr(netns_choice, "YOUNG_S", 60.0)
            if is_off:
                patch.setattr(Candidates, "_rule_out", lambda *_: None)
            seen = Seen(lab.manager)
            time.sleep(1.0)
            _, attackers = run("--network", "none", "--cap-add", "NET_ADMIN")
            for number, mac in enumerate(WORN):
                add = f"ip link add d{number} type veth peer name p{number} && ip link set d{number} address {mac}"
                subprocess.run(["nsenter", f"--net={seen.folder / attackers}", "sh", "-c", add], check=True)
            victim, own = run()
            wait_for("its start", lambda: victim in seen.begun, seconds=20)
            return seen.found.get(victim) == attackers, seen.found.get(victim) == own

    tried.works(victims(is_off=True)[0])
    tried.stopped(not victims(is_off=False)[0])
