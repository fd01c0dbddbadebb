"""A service's one address: an even spread over its ready tasks, and nothing for one that is not ready."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import pytest

from tests.lab import checker, process, programs
from tests.lab.deployment import Deployment
from tests.lab.programs import Call, Calls, Task
from tests.support.patience import slowness

pytestmark = pytest.mark.usefixtures("staying")

Figure = Callable[[str], None]
WITHIN_S = 1.0  # from the event to the last new connection
REFUSED_S = 0.2
LISTENS = "/tmp/listens"  # noqa: S108 - in a container
# Healthy when its program listens, and until it is made sick.
OFTEN = {"interval": "1s", "timeout": "5s", "start_period": "60s", "retries": 1}
HEALTH = {"test": ["CMD", "test", "-e", LISTENS], **OFTEN}


def deploy(stacks: Deployment, replicas: int) -> Task:
    """Some providers and one consumer; the consumer."""
    image = stacks.images.demo
    listen = programs.service(
        image, "listen", "web", "--tcp", "80", "--udp", "53", "--drain", "3", healthcheck=HEALTH
    )
    services = {
        "web": {**listen, "stop_grace_period": "10s", "deploy": {"replicas": replicas}},
        "client": programs.idle(image, links=["web"]),
    }
    stacks.staying.add("vip")
    stacks.deploy("vip", programs.stack(services))
    stacks.wait_running("vip_web", replicas)
    client = stacks.wait_running("vip_client", 1)[0]
    checker.settle(stacks.lab)
    return client


def scale(stacks: Deployment, replicas: int) -> None:
    stacks.lab.manager.docker("service", "scale", "--detach", f"vip_web={replicas}")
    stacks.wait_running("vip_web", replicas)
    checker.settle(stacks.lab)


def shares(calls: list[Call]) -> dict[str, float]:
    """Percent of the requests that each provider answered."""
    assert not [call for call in calls if call.who is None]
    counted = Counter(call.who for call in calls)
    return {str(who): 100 * count / len(calls) for who, count in counted.items()}


def last_to(calls: Calls, task: Task) -> float:
    """When the last connection that a task answered was begun, in seconds since the epoch."""
    return max(call.began for call in calls.made if call.who == f"web {programs.hostname(task)}")


def test_connections_spread_evenly_and_scaling_loses_none(stacks: Deployment, figure: Figure) -> None:
    client = deploy(stacks, 3)
    for family, count in (("4", 3000), ("6", 2000)):
        began = time.monotonic()
        spread = shares(programs.count_calls(client, "web", count, family=family))
        rate = count / (time.monotonic() - began)
        figure(
            f"IPv{family}: {count} connections over 3 providers: {', '.join(f'{s:.1f} %' for s in spread.values())};"
            f" {rate:.0f}/s"
        )
        assert len(spread) == 3
        assert all(abs(share - 100 / 3) <= 5 for share in spread.values()), spread

    with Calls(client, "web") as calls:
        began_at = time.time()
        scale(stacks, 5)
        five = stacks.tasks("vip_web")
        time.sleep(2)
        all_five = time.time()
        scale(stacks, 1)
        time.sleep(1)
    alive = stacks.tasks("vip_web")
    stopped = [task for task in five if task not in alive]
    late = [last_to(calls, task) - programs.event_time(task, "kill", "kill", began_at) for task in stopped]
    answered = {call.who for call in calls.made if call.began > all_five - 2}
    figure(
        f"3 -> 5 -> 1 providers under {len(calls.made)} requests: {len(calls.failed())} failed;"
        f" last new connection to a stopped one {max(late):.2f} s after its SIGTERM"
    )
    assert calls.failed() == []
    assert len(answered) == 5
    assert len(stopped) == 4
    assert max(late) <= WITHIN_S * slowness(), late


def test_service_without_ready_task_refuses_at_once(stacks: Deployment, figure: Figure) -> None:
    client = deploy(stacks, 1)
    names = programs.resolved(client, "web")
    targets = [
        (protocol, names[version], port) for version in (4, 6) for protocol, port in (("tcp", 80), ("udp", 53))
    ]
    assert {outcome for outcome, _ in programs.probe(client, targets)} == {"open"}
    scale(stacks, 0)
    assert programs.resolved(client, "web") == names
    found = programs.probe(client, targets * 5, "--at-once", "1")
    figure(f"no ready task: refused within {1000 * max(seconds for _, seconds in found):.1f} ms, tcp and udp")
    assert {outcome for outcome, _ in found} == {"refused"}
    assert max(seconds for _, seconds in found) <= REFUSED_S * slowness()
    scale(stacks, 1)
    assert programs.resolved(client, "web") == names
    assert {outcome for outcome, _ in programs.probe(client, targets)} == {"open"}


@pytest.mark.parametrize("end", ["sick", "killed"])
def test_lost_backend_gets_no_new_connection(stacks: Deployment, end: str, figure: Figure) -> None:
    client = deploy(stacks, 3)
    victim = stacks.tasks("vip_web")[0]
    node, container = victim
    with Calls(client, "web", timeout=1.0) as calls:
        time.sleep(1)
        since = time.time()
        if end == "sick":
            node.docker("exec", container, "rm", LISTENS)
            event = programs.event_time(victim, "health_status", "unhealthy", since)
        else:
            node.docker("kill", container)
            event = programs.event_time(victim, "die", "die", since)
        process.wait_for(
            "another task",
            lambda: len(stacks.tasks("vip_web")) == 3 and victim not in stacks.tasks("vip_web"),
            seconds=60,
        )
        checker.settle(stacks.lab)
    late = last_to(calls, victim) - event
    # Nobody answers for one that was killed: its connections are those that failed.
    late = max([late, *(call.began - event for call in calls.failed())])
    what = {"sick": "is unhealthy", "killed": "was killed"}[end]
    figure(
        f"a backend that {what}: last new connection to it {late:+.2f} s after Docker said so;"
        f" {len(calls.failed())} of {len(calls.made)} requests failed"
    )
    assert late <= WITHIN_S * slowness(), calls.failed()
    assert end == "killed" or calls.failed() == []


def test_datagram_flow_leaves_a_dead_backend(stacks: Deployment, figure: Figure) -> None:
    """It has no end by which the kernel would forget where it went, as long as anything is sent."""
    client = deploy(stacks, 2)
    victim = stacks.tasks("vip_web")[0]
    node, container = victim
    with Calls(client, "web", "--udp", "--threads", "12", port=53, pause=0.1, timeout=0.5) as calls:
        time.sleep(2)
        since = time.time()
        node.docker("kill", container)
        event = programs.event_time(victim, "die", "die", since)
        time.sleep(4)
    before = {call.who for call in calls.made if call.ended < since}
    late = max((call.began - event for call in calls.failed()), default=0.0)
    figure(f"flows of datagrams to a backend that was killed: last one lost {late:+.2f} s after Docker said so")
    assert len(before) == 2
    assert late <= WITHIN_S * slowness()
