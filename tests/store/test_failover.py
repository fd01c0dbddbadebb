"""Writes and watches over three members of etcd go on within seconds of one that dies, hangs or is slow."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from mesh.store.etcd_channel import ChannelPool
from mesh.store.members import members
from tests.store.etcd_server import EtcdServer
from tests.store.proxy import Proxy
from tests.store.three_members import Traffic, lost, three_members
from tests.support.patience import slowness

WITHIN = 12.0
"""Seconds: a request's time limit, another endpoint's dial and etcd's election, one after the other."""


@pytest.fixture
def three(tmp_path: Path) -> Iterator[tuple[EtcdServer, ...]]:
    with three_members(tmp_path) as servers:
        yield servers


def leader(servers: tuple[EtcdServer, ...]) -> int:
    found = members([server.target for server in servers], None, b"\0")
    return next(at for at, member in enumerate(found) if member.is_leader)


@pytest.mark.parametrize("fault", ["dead", "hanging"])
@pytest.mark.parametrize("leads", [False, True], ids=["follower", "leader"])
def test_endpoint_in_use_fails(
    three: tuple[EtcdServer, ...], fault: str, leads: bool, figure: Callable[[str], None]
) -> None:
    at = leader(three)
    at = at if leads else (at + 1) % len(three)
    servers = (three[at], *three[:at], *three[at + 1 :])
    with Traffic([server.target for server in servers]) as traffic:
        assert traffic.go_on(WITHIN * slowness())
        began = time.monotonic()
        if fault == "dead":
            servers[0].kill9()
        else:
            os.kill(servers[0].pid, signal.SIGSTOP)
        time.sleep(0.5)
        assert traffic.go_on(WITHIN * slowness()), traffic.errors[-3:]
        time.sleep(1.0)
        pauses = traffic.gap(traffic.acknowledged, began), traffic.gap(traffic.seen, began)
        figure(f"writes paused {pauses[0]:.1f} s, the watch {pauses[1]:.1f} s")
        assert max(pauses) < WITHIN * slowness()
    with closing(ChannelPool([servers[1].target], 5.0)) as line:
        assert lost(traffic, line) == set()


def test_slow_endpoint_is_left(three: tuple[EtcdServer, ...], figure: Callable[[str], None]) -> None:
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy(three[0].port))
        target = proxy.endpoint.removeprefix("http://")
        traffic = stack.enter_context(Traffic([target, three[1].target, three[2].target]))
        assert traffic.go_on(WITHIN * slowness())
        began = time.monotonic()
        proxy.slow(6.0)
        time.sleep(0.5)
        assert traffic.go_on(WITHIN * slowness()), traffic.errors[-3:]
        pauses = traffic.gap(traffic.acknowledged, began), traffic.gap(traffic.seen, began)
        figure(f"writes paused {pauses[0]:.1f} s, the watch {pauses[1]:.1f} s")
