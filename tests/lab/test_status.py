"""Status, ps and check while UDP is blocked and while an agent hangs: named soon, and no alarm before."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.lab import checker, programs
from tests.lab.deployment import Deployment
from tests.lab.node import Node
from tests.lab.programs import Calls
from tests.lab.test_silent_agents import stopped_agent
from tests.support.patience import slowness

Figure = Callable[[str], None]
BROKEN_S = 15.0
SILENT_S = 8.0
SETTLES_S = 10.0
LATE_S = 15.0  # a busy machine, and the plugin's own start
WALL = """\
table inet wall {
  chain guard {
    type filter hook input priority 0
    udp dport 51820-53819 drop
  }
}
"""


@contextmanager
def wall(node: Node) -> Iterator[None]:
    """While entered, a firewall of the node drops what comes to its tasks' UDP ports."""
    node.run(["nft", "-f", "-"], stdin=WALL)
    try:
        yield
    finally:
        node.run(["nft", "delete", "table", "inet", "wall"])


def well(stacks: Deployment, seconds: float) -> float:
    """Wait until nothing is wrong; how long it took."""
    began = time.monotonic()
    while True:
        said = stacks.try_linkwire("status", "--format", "json").stdout
        if not json.loads(said)["findings"]:
            return time.monotonic() - began
        assert time.monotonic() - began < seconds * slowness(), said
        time.sleep(0.5)


def states(stacks: Deployment) -> list[str]:
    """The states of the one link's pairs."""
    (link,) = stacks.ps("seen")["links"]
    return [pair["state"] for pair in link["pairs"]]


def failed_check(stacks: Deployment) -> str:
    """The problems that `check` has; empty where it has none."""
    done = stacks.try_linkwire("check")
    return done.stdout if done.returncode == 1 else ""


def swept(stacks: Deployment) -> tuple[int, list[tuple[str, str, int, int]], list[tuple[str, str, str]]]:
    """`test --all-links` of the stack: its exit code, links with pairs tried and answered, and failures."""
    done = stacks.try_linkwire("test", "--all-links", "seen", "--format", "json")
    said = json.loads(done.stdout)
    links = [(one["consumer"], one["provider"], one["tried"], one["ok"]) for one in said["links"]]
    failures = [(one["consumer_node"], one["provider_node"], one["problem"]) for one in said["failures"]]
    return done.returncode, links, failures


def until(stacks: Deployment, code: int, text: str, seconds: float) -> float:
    """Ask for the status until its exit code and its problems are so; how many seconds it took."""
    began = time.monotonic()
    while True:
        said = stacks.try_linkwire("status")
        if said.returncode == code and text in said.stdout:
            return time.monotonic() - began
        assert time.monotonic() - began < seconds * slowness(), f"{said.returncode}: {said.stdout}{said.stderr}"
        time.sleep(0.5)


def scaled_to_none(stacks: Deployment) -> float:
    """Scale the provider to 0 and back; seconds until `status` says so."""
    manager = stacks.lab.manager
    manager.docker("service", "scale", "--detach", "seen_web=0")
    why = "seen_client -> seen_web: no ready task: seen_web is scaled to 0; docker service scale seen_web=1"
    took = until(stacks, 1, f"degraded: {why}", SETTLES_S + LATE_S)
    assert why in failed_check(stacks)
    shown = stacks.linkwire("ps", "seen")
    assert "no ready task" in shown.partition("PROBLEMS")[0]
    assert why in shown
    untried = [("", "", "no ready task of seen_web")]
    assert swept(stacks) == (1, [("seen_client", "seen_web", 0, 0)], untried)
    manager.docker("service", "scale", "--detach", "seen_web=1")
    well(stacks, 60)
    return took


def test_faults_are_named_and_rest_is_well(stacks: Deployment, figure: Figure) -> None:
    image = stacks.images.demo
    services = {
        "web": programs.service(
            image, "listen", "web", "--tcp", "80", deploy={"placement": {"constraints": ["node.hostname == n2"]}}
        ),
        "client": programs.idle(image, links=["web"], deploy={"placement": {"constraints": ["node.hostname == n1"]}}),
    }
    stacks.deploy("seen", programs.stack(services))
    stacks.wait_running("seen_web", 1)
    (client,) = stacks.wait_running("seen_client", 1)
    checker.settle(stacks.lab)
    with Calls(client, "web", "--threads", "1", pause=0.2, timeout=1.0):
        stacks.wait_connected("seen")
        well(stacks, 120)  # records that another test's node left are deleted after a minute
        checked = stacks.try_linkwire("check")
        assert "gets no answer" not in checked.stdout
        assert "silent" not in checked.stdout
        assert swept(stacks) == (0, [("seen_client", "seen_web", 1, 1)], [])
        (member,) = json.loads(stacks.linkwire("status", "--format", "json"))["control"]["members"]
        assert (member["name"], member["is_leader"], member["problem"], member["size"] > 0) == ("lab", True, "", True)
        with wall(stacks.lab.node("n2")):
            took = until(stacks, 2, "on node n1 gets no answer from seen_web.1.", BROKEN_S + LATE_S)
            assert states(stacks) == ["broken"]
            assert "gets no answer" in failed_check(stacks)
            unanswered = [("n1", "n2", "a packet through the tunnel was not answered")]
            assert swept(stacks) == (1, [("seen_client", "seen_web", 1, 0)], unanswered)
        back = well(stacks, 30 + LATE_S)
    scaled = scaled_to_none(stacks)
    with stopped_agent(stacks, "n3"):
        silent = until(stacks, 1, "node n3: its agent is silent", SILENT_S + LATE_S)
        checked = stacks.try_linkwire("check")
    assert (checked.returncode, "node n3: its agent is silent" in checked.stdout) == (1, True)
    assert "did you mean 'seen'?" in stacks.try_linkwire("ps", "sene").stderr
    figure(
        f"blocked UDP named after {took:.1f} s, well again after {back:.1f} s, a hung agent after {silent:.1f} s, "
        f"a provider scaled to 0 after {scaled:.1f} s"
    )
    checker.settle(stacks.lab, 120)
