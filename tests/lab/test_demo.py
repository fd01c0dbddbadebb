"""`make demo` as a person runs it, from nothing; and `make demo-down`, which leaves nothing."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.demo import NAME
from tests.lab import process
from tests.lab.footprint import footprint
from tests.lab.images import PROJECT
from tests.support.patience import slowness


def demo(verb: str) -> str:
    argv = [sys.executable, "-m", "tests.demo", verb]
    seconds = 540 * slowness()
    done = subprocess.run(argv, cwd=PROJECT, capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def mine(found: object) -> list[str]:
    """Whatever there is on this machine that bears the demo's name."""
    return [line for line in str(found).split() if f"{NAME}-" in line]


@pytest.mark.timeout(2700)
def test_demo_shows_its_promises_and_leaves_nothing() -> None:
    try:
        said = demo("up")
        assert "Welcome to nginx!" in said
        assert re.search(r"an order that went nginx -> app -> redis over two links: order \d+", said)
        assert re.search(r"over the link: .* [1-9]\d* of WireGuard, canary 0 times", said)
        assert re.search(r"plain overlay: .* canary [1-9]\d* times", said)
        # How many must, the demo's exit code says: all of them, but on a machine that is too busy.
        assert re.search(r"first tries that got through: (18|19|20) of 20", said)
        assert "tasks of the examples that failed: none" in said
        table = said.split("$ docker linkwire ps", 1)[1]
        # Pairs: three clients to web, two apps to redis, front to two apps.
        assert sorted(re.findall(r"connected +(\d+) +\d+[smhd] ago", table)) == ["2", "2", "3"]
    finally:
        demo("down")
    process.wait_for("nothing of the demo to be left", lambda: not mine(footprint()), seconds=30)
