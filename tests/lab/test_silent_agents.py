"""Agents that say nothing, nodes that are really gone, nodes that are drained: what consumers lose by each."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.chaos.killer import WORKER, processes
from tests.lab import checker, process, programs
from tests.lab.deployment import Deployment
from tests.lab.programs import Calls, Task
from tests.support.patience import slowness

Figure = Callable[[str], None]
SILENT_S = float(os.environ.get("LINKWIRE_SILENT_S", "20"))
"""Seconds for which an agent hangs: twice its lease, or as long as the environment says."""
SWARM_S = 12
"""Swarm calls a node down after 15 s: what is gone from a link sooner, on a machine that is not busy, is Linkwire's
doing."""
GRACE_S = 15


@pytest.fixture
def client(stacks: Deployment) -> Task:
    """A consumer on n1 of a provider that has one task on n2 and one on n3."""
    image = stacks.images.demo
    workers = {"replicas": 2, "placement": {"constraints": ["node.hostname != n1"], "max_replicas_per_node": 1}}
    services = {
        "web": programs.service(image, "listen", "web", "--tcp", "80", deploy=workers, stop_grace_period="2s"),
        "client": programs.idle(image, links=["web"], deploy={"placement": {"constraints": ["node.hostname == n1"]}}),
    }
    stacks.deploy("silent", programs.stack(services))
    stacks.wait_running("silent_web", 2)
    (client,) = stacks.wait_running("silent_client", 1)
    checker.settle(stacks.lab)
    return client


def on(stacks: Deployment, name: str) -> Task:
    """The provider's task on a node."""
    (task,) = [task for task in stacks.tasks("silent_web") if task[0].name == name]
    return task


@contextmanager
def stopped_agent(stacks: Deployment, name: str) -> Iterator[None]:
    """While entered, the agent of a node hangs; wireguard-go and everything else of the node goes on."""
    node = stacks.lab.node(name)
    everywhere = processes(stacks.lab, WORKER)
    container = stacks.agent(node)
    assert container is not None
    first = node.get(f"/containers/{container}/json")["State"]["Pid"]
    workers = [pid for pid in everywhere if parent(pid) == first]
    assert workers
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGCONT)


def parent(pid: int) -> int:
    """The parent of a process (proc(5), /proc/PID/stat: the field after the state)."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def answered(calls: Calls, task: Task, since: float, until: float) -> int:
    """How many requests of some time, in seconds since the epoch, a task has answered."""
    who = f"web {programs.hostname(task)}"
    return sum(1 for call in calls.made if call.who == who and since <= call.began <= until)


def test_a_silent_agent_takes_no_provider_away(stacks: Deployment, client: Task, figure: Figure) -> None:
    """Nor does it keep one whose node is cut off meanwhile: what answered goes on to be asked whether it does."""
    provider = on(stacks, "n3")
    with Calls(client, "web", "--threads", "2", pause=0.05, timeout=1.0) as calls, stopped_agent(stacks, "n3"):
        began = time.time()
        time.sleep(SILENT_S)
        named = stacks.try_linkwire("check").stdout
        ended = time.time()
        stacks.lab.cut("n3")
        time.sleep(5)
        stacks.lab.heal("n3")
    late = [answered(calls, provider, at, at + 2) for at in range(int(began) + SWARM_S, int(ended) - 2)]
    lost = [call for call in calls.failed() if call.ended < ended]
    made = sum(1 for call in calls.made if call.ended < ended)
    figure(
        f"an agent silent for {ended - began:.0f} s: {len(lost)} of {made} requests lost;"
        f" its task answered {answered(calls, provider, began, ended)}, {min(late)} in its worst 2 s after the lease"
    )
    assert "its agent is silent; its tasks of silent_web are used where they answer" in named
    assert lost == []
    assert min(late) > 0
    tried = [call.began - ended for call in calls.failed()]
    figure(f"its node cut off then: {len(tried)} requests lost, the last {max(tried, default=0):.1f} s after")
    assert 0 < max(tried, default=0) < 4
    checker.settle(stacks.lab, 120)


def test_a_node_without_power_is_tried_no_longer(stacks: Deployment, client: Task, figure: Figure) -> None:
    within = SWARM_S * min(2.0, slowness())
    with Calls(client, "web", "--threads", "4", pause=0.05, timeout=1.0) as calls:
        began = time.time()
        stacks.lab.stop_node("n3")
        time.sleep(within + 8)
    try:
        tried = [call.began - began for call in calls.failed()]
        figure(
            f"a node that lost its power: {len(tried)} of {len(calls.made)} requests lost,"
            f" the last {max(tried, default=0):.1f} s after"
        )
        assert len(tried) > 0
        assert max(tried) < within
    finally:
        stacks.lab.start_node("n3")
    process.wait_for("n3's agent", lambda: stacks.agent(stacks.lab.node("n3")) is not None, seconds=90, every=0.5)
    checker.settle(stacks.lab, 120)


def test_drained_task_keeps_its_links_until_end(stacks: Deployment, figure: Figure) -> None:
    image = stacks.images.demo
    here = {"placement": {"constraints": ["node.hostname == n1"]}}
    # It lives on for as long as it may, and leaves the time of each request and its outcome in its log.
    last_words = (
        "import signal, socket, time, urllib.request\n"
        "told = []\n"
        "signal.signal(signal.SIGTERM, lambda *_: told.append(time.monotonic()))\n"
        f"while not told or time.monotonic() < told[0] + {GRACE_S - 1}:\n"
        "    try:\n"
        "        said = urllib.request.urlopen('http://web/', timeout=2).status\n"
        "    except OSError as error:\n"
        "        said = error\n"
        "    print(round(time.monotonic() - told[0], 1) if told else -1, said, flush=True)\n"
        "    time.sleep(0.1)\n"
    )
    services = {
        "web": programs.service(image, "listen", "web", "--tcp", "80", deploy=here),
        "client": {
            "image": image,
            "command": ["python3", "-c", last_words],
            "links": ["web"],
            "stop_grace_period": f"{GRACE_S}s",
            "deploy": {"placement": {"constraints": ["node.hostname == n3"]}},
        },
    }
    stacks.deploy("silent", programs.stack(services))
    node, container = stacks.wait_running("silent_client", 1)[0]
    checker.settle(stacks.lab)
    stacks.lab.manager.docker("node", "update", "--availability", "drain", "n3")
    process.wait_for("the task to end", lambda: not stacks.tasks("silent_client"), seconds=GRACE_S + 30, every=0.3)
    said = [line.split(" ", 1) for line in node.docker("logs", container).stdout.splitlines()]
    after = [(float(at), outcome) for at, outcome in said if float(at) >= 0]
    lost = [(at, outcome) for at, outcome in after if outcome != "200"]
    figure(f"a drained node's task: {len(lost)} of {len(after)} requests of its last {after[-1][0]:.0f} s lost")
    assert lost == []
    assert after[-1][0] > GRACE_S - 3
    process.wait_for("the agent to leave", lambda: stacks.agent(node) is None, seconds=20)
    stacks.lab.manager.docker("node", "update", "--availability", "active", "n3")
    process.wait_for("another agent", lambda: stacks.agent(node) is not None, seconds=60)
