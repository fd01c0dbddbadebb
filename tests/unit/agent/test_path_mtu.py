"""MTU of the ways to other nodes where the kernel does not tell: what it told before, or Ethernet's, for a moment."""

from __future__ import annotations

from ipaddress import IPv4Address
from types import SimpleNamespace

import pytest

from agent.interface import path_mtu
from agent.interface.path_mtu import DEFAULT_MTU, OVERHEAD, PathMtu
from agent.linux import interfaces
from mesh.errors import Retryable

HOST = (IPv4Address("192.0.2.1"),)


def test_failed_look_up_changes_no_known_mtu(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[int | None] = [None, 9000, None, 8000]
    now = 0.0

    def route_mtu(*_: object, **__: object) -> int:
        answer = answers.pop(0)
        if answer is None:
            raise Retryable("No buffer space available")
        return answer

    monkeypatch.setattr(interfaces, "route_mtu", route_mtu)
    monkeypatch.setattr(path_mtu, "time", SimpleNamespace(monotonic=lambda: now))
    mtus = PathMtu()
    assert mtus.least(HOST) == DEFAULT_MTU + OVERHEAD[6] - OVERHEAD[4]
    now += path_mtu.RETRY_S
    assert mtus.least(HOST) == 9000 - OVERHEAD[4]
    now += path_mtu.ROUTES_S
    assert mtus.least(HOST) == 9000 - OVERHEAD[4], "not known now, and no reason to change a device"
    now += path_mtu.RETRY_S
    assert mtus.least(HOST) == 8000 - OVERHEAD[4]
