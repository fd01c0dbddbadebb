"""The clock of a provider's node is set while requests pass over its link: what is lost, and which keys are replaced.

Its agent loads a library by which its clock is off; wireguard-go goes on by the machine's. The guest of the kernel
suite has what WireGuard itself does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from tests.lab import checker, process
from tests.lab.deployment import Deployment
from tests.lab.faults import STACK, set_clock
from tests.lab.requests import Requests
from tests.support.effort import LONG

pytestmark = pytest.mark.skipif(not LONG, reason="in make chaos: agents are replaced twice")

HOUR_S, YEAR_S = 3600, 365 * 86400
GAP_S = 5.0
"""Seconds that a link may be without traffic while its task gets a new key."""


@pytest.fixture(scope="module")
def clocked(deployment: Deployment) -> Iterator[tuple[Deployment, Callable[[int], None]]]:
    """A client on n1, linked to a server on n2, whose agent's clock can be set."""
    deployment.deploy("odd", STACK.format(image=deployment.images.demo))
    try:
        deployment.wait_connected("odd")
        with set_clock(deployment, 0) as put:
            process.wait_for("n2's agent", lambda: bool(deployment.agent(deployment.lab.node("n2"))), seconds=60)
            deployment.wait_connected("odd")
            checker.settle(deployment.lab)
            yield deployment, put
    finally:
        deployment.remove("odd")


def keys(stacks: Deployment) -> set[str]:
    """The public keys of n2's tasks, as its devices have them."""
    return {device.public_key for device in checker.devices(stacks.lab.node("n2"))}


def wait_for_other_keys(stacks: Deployment, before: set[str]) -> None:
    process.wait_for("new keys", lambda: not before & keys(stacks), seconds=60, every=0.2)


@pytest.mark.parametrize(("off", "goes_back"), [(YEAR_S, "put right"), (-HOUR_S, "set")])
def test_set_clock_costs_a_moment(
    clocked: tuple[Deployment, Callable[[int], None]], off: int, goes_back: str, figure: Callable[[str], None]
) -> None:
    stacks, put = clocked
    ((node, client),) = stacks.tasks("odd_client")
    for what, seconds in (("set", off), ("put right", 0)):
        before = keys(stacks)
        with Requests(node, client, "http://web/") as requests:
            time.sleep(2)
            put(seconds)
            if what == goes_back:
                wait_for_other_keys(stacks, before)
            time.sleep(20)
        renewed = before != keys(stacks)
        figure(f"clock {off:+} s, {what}: keys {'renewed' if renewed else 'kept'}; {requests.counted}")
        assert renewed == (what == goes_back)
        assert requests.counted.gap < GAP_S
        assert renewed or requests.counted.lost == 0
        if what == "set":
            said = stacks.try_linkwire("status").stdout
            assert "node n2: its clock is " in said, said
    checker.settle(stacks.lab)
