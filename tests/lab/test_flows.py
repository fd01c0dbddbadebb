"""Flows of a service whose tasks run on other nodes than the asked one, and what is left when nobody reads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lab import process, programs
from tests.lab.deployment import Deployment
from tests.lab.programs import Calls, Task

pytestmark = pytest.mark.usefixtures("staying")

SECONDS = "12"
_NETFILTER = "12"
"""NETLINK_NETFILTER in /proc/net/netlink."""


def shop(stacks: Deployment) -> str:
    """web on n2 is linked to one port of db on n3, which listens on another one too."""
    on = "node.hostname == "
    return programs.stack(
        {
            "web": programs.idle(
                stacks.images.demo,
                links=["db"],
                deploy={"placement": {"constraints": [f"{on}n2"]}},
                **{"x-wireguard": {"links": {"db": {"ports": ["80"]}}}},
            ),
            "db": programs.service(
                stacks.images.demo,
                *("listen", "db", "--tcp", "80,81"),
                stop_grace_period="1s",
                deploy={"placement": {"constraints": [f"{on}n3"]}},
            ),
        }
    )


@pytest.fixture
def tasks(stacks: Deployment) -> tuple[Task, Task]:
    stacks.staying.add("flow")
    stacks.deploy("flow", shop(stacks))
    web, db = (stacks.wait_running(f"flow_{name}", 1)[0] for name in ("web", "db"))
    stacks.wait_connected("flow")
    assert (web[0].name, db[0].name) == ("n2", "n3")
    return web, db


def listeners(task: Task) -> int:
    """Sockets that listen to new connections in a task's namespace."""
    node, container = task
    pid = node.docker("inspect", "--format", "{{.State.Pid}}", container).stdout.strip()
    rows = [line.split() for line in Path(f"/proc/{pid}/net/netlink").read_text().splitlines()[1:]]
    return sum(row[1] == _NETFILTER and int(row[3], 16) & 1 for row in rows)


def asked(stacks: Deployment) -> list[str]:
    """Keys in etcd of asks for flows, and of what is told for them."""
    keys: list[str] = []
    for part in ("askflows/", "watched/"):
        argv = ["etcdctl", "--endpoints", stacks.lab.etcd_endpoint, "get", "--prefix", f"/linkwire/v1/{part}"]
        keys += subprocess.run([*argv, "--keys-only"], check=True, capture_output=True, text=True).stdout.split()
    return keys


def is_quiet(stacks: Deployment, *tasks: Task) -> bool:
    return not asked(stacks) and not any(map(listeners, tasks))


def node_ids(stacks: Deployment) -> dict[str, str]:
    listed = stacks.lab.manager.docker("node", "ls", "--format", "{{.Hostname}} {{.ID}}").stdout.splitlines()
    return dict(line.split() for line in listed)


@contextmanager
def following(stacks: Deployment, *words: str) -> Iterator[subprocess.Popen[str]]:
    """`docker linkwire flows -f` on n1, until it is ended."""
    with stacks.plugged_in() as environment:
        command = stacks.lab.manager.docker_command("linkwire", "flows", "-f", *words)
        pipe = subprocess.PIPE
        with subprocess.Popen(
            command, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True
        ) as started:
            try:
                yield started
            finally:
                started.kill()


def test_flows_of_other_nodes_are_told(
    stacks: Deployment, tasks: tuple[Task, Task], figure: Callable[[str], None]
) -> None:
    web, db = tasks
    ids = node_ids(stacks)
    assert is_quiet(stacks, web, db)
    with Calls(web, "db", pause=0.2) as calls, ThreadPoolExecutor() as pool:
        asking = pool.submit(stacks.linkwire, "flows", "flow_db", "--for", SECONDS, "--format", "json")
        refused = programs.count_calls(web, "db", 2, port=81)
        while not asking.done():
            refused += programs.count_calls(web, "db", 1, port=81)
    assert all(call.who is None for call in refused)
    told = [json.loads(line) for line in asking.result().splitlines()]
    watched, end = told[0], told[-1]
    assert (watched["kind"], end["kind"]) == ("watched", "end")
    assert (watched["node"], watched["nodes_not_watched"], watched["problems"]) == (ids["n1"], [], [])
    assert {each["node"]: each["tasks"] for each in watched["nodes"]} == {ids["n1"]: 0, ids["n2"]: 1, ids["n3"]: 1}

    opened = [one for one in told if one["kind"] == "connection"]
    names = {(one["consumer"], one["provider"], one["destination_port"]) for one in opened}
    assert names == {("flow_web", "flow_db", 80)}
    nodes = [one["node"] for one in opened]
    # The provider's node alone tells of those before the consumer's has begun, and after it has ended.
    watched_by_both = nodes[nodes.index(ids["n2"]) : len(nodes) - nodes[::-1].index(ids["n2"])]
    assert set(watched_by_both) == {ids["n2"]}, "each once, at the consumer's end"
    assert len(watched_by_both) > 0.8 * len(opened)
    ports = [one["source_port"] for one in opened]
    made = len([call for call in calls.made if call.who])
    assert len(set(ports)) == len(ports) >= 10
    assert len(ports) <= made
    refusals = [one for one in told if one["kind"] == "refused"]
    assert {(one["node"], one["service"], one["other"], one["direction"]) for one in refusals} == {
        (ids["n2"], "flow_web", "flow_db", "out")
    }
    assert sum(one["packets"] for one in refusals) >= 2
    times = [one["time"] for one in told if "time" in one]
    assert times == sorted(times)
    assert [(each["left_out"], each["not_believed"]) for each in end["nodes"]] == [(0, 0)] * 3
    process.wait_for("nobody to watch", lambda: is_quiet(stacks, web, db), seconds=10, every=0.2)
    first = stacks.linkwire("flows", "flow", "--for", "1").splitlines()[0]
    assert first == "watching 2 tasks on n2, n3 for 1 s"
    figure(f"flows asked on n1: {len(opened)} connections of n2's task to n3's, {len(refusals)} refusals")


@pytest.mark.parametrize("how", ["interrupted", "pipe", "killed"])
def test_a_reader_that_goes_leaves_nothing(stacks: Deployment, tasks: tuple[Task, Task], how: str) -> None:
    web, db = tasks
    with following(stacks, "flow") as started, Calls(web, "db", pause=0.2):
        assert started.stdout
        assert started.stdout.readline() == "watching 2 tasks on n2, n3 until Ctrl-C\n"
        assert "flow_web" in started.stdout.readline()
        assert listeners(web) == listeners(db) == 1
        if how == "interrupted":
            os.killpg(started.pid, signal.SIGINT)
        elif how == "pipe":
            started.stdout.close()
        else:
            os.killpg(started.pid, signal.SIGKILL)
        process.wait_for("nobody to watch", lambda: is_quiet(stacks, web, db), seconds=10, every=0.2)


def test_an_agent_that_dies_is_not_watched_for(stacks: Deployment, tasks: tuple[Task, Task]) -> None:
    """The asking one, by a kill that lets it delete nothing."""
    web, db = tasks
    n1 = stacks.lab.manager
    agent = stacks.agent(n1)
    assert agent is not None
    with following(stacks, "flow") as started:
        assert started.stdout
        started.stdout.readline()
        assert listeners(web) == 1
        n1.docker("kill", "--signal", "KILL", agent)
        process.wait_for("nobody to watch", lambda: is_quiet(stacks, web, db), seconds=40, every=0.5)
    process.wait_for("an agent on every node", stacks.agents_ready, seconds=60, every=0.5)


def test_a_hung_agent_is_named(stacks: Deployment, tasks: tuple[Task, Task]) -> None:
    assert tasks
    n3 = stacks.lab.node("n3")
    agent = stacks.agent(n3)
    assert agent is not None
    listed = n3.docker("top", agent, "-eo", "pid,args").stdout.splitlines()[1:]
    pids = [int(line.split(None, 1)[0]) for line in listed if "agent" in line]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        said = stacks.linkwire("flows", "flow", "--for", "2")
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    assert said.splitlines()[0] == "watching 1 task on n2 for 2 s; no answer: n3"
    assert "no answer from n3" in said
