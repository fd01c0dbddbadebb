"""Preflight of nftables on a node that fails once: what it says counts for as long as the agent runs."""

from __future__ import annotations

import errno
import os

import pytest

from agent.firewall import nft, preflight
from agent.linux.netns import TaskNetns


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EBUSY, errno.ENOBUFS])
@pytest.mark.parametrize("failing", [1, 4])
def test_single_failure_switches_nothing_off(monkeypatch: pytest.MonkeyPatch, failing: int, code: int) -> None:
    """The first two calls of nft try all but DNS, the next two that."""
    plain, calls = nft._nft, 0

    def run(netns: TaskNetns, text: str, *, json: bool = True) -> str:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise nft._Refused(f"Could not process rule: {os.strerror(code)}")
        return plain(netns, text, json=json)

    monkeypatch.setattr(nft, "_nft", run)
    assert preflight.require(), "DNS answers are not given up for it"
    assert calls > failing
