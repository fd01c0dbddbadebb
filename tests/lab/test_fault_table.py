"""Faults that only a whole Swarm has, one after another: what `explain`, `check --live` and `status` say of each.

They are in faults.py; others in test_explain.py and test_status.py. In `make test` some of them; all in `make chaos`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
from _pytest.mark import ParameterSet

from tests.lab import checker, process
from tests.lab.deployment import Deployment
from tests.lab.faults import FAULTS, STACK, Fault, found_wrong
from tests.support.effort import LONG
from tests.support.patience import slowness

NAMED_S = 60.0
LONG_ONLY = "in make chaos: it takes longer"
SHORT = ("gate missing", "node drained", "label typo", "provider does not consent")


def chosen(fault: Fault) -> ParameterSet:
    """It with its name; skipped before anything is deployed for it, where it is of the long form alone."""
    skipped = pytest.mark.skipif(fault.name not in SHORT and not LONG, reason=LONG_ONLY)
    return pytest.param(fault, id=fault.name.replace(" ", "-"), marks=skipped)


@pytest.fixture
def odd(stacks: Deployment) -> Deployment:
    """A client on n1 that is linked to a server on n2."""
    stacks.deploy("odd", STACK.format(image=stacks.images.demo))
    for service in ("web", "client"):
        stacks.wait_running(f"odd_{service}", 1)
    process.wait_for("the link to be well", lambda: cause(stacks, "odd_client", "odd_web:80") == ("", ""), seconds=60)
    return stacks


def cause(stacks: Deployment, *link: str) -> tuple[str, str]:
    """Stage and text of what `explain` names; both empty for nothing."""
    found = json.loads(stacks.try_linkwire("explain", *link, "--format", "json").stdout)["cause"]
    return (found["stage"], found["text"]) if found else ("", "")


@pytest.mark.parametrize("fault", [chosen(fault) for fault in FAULTS])
def test_fault_is_named_by_all(odd: Deployment, fault: Fault, figure: Callable[[str], None]) -> None:
    began = time.monotonic()
    with fault.inject(odd):
        said = ("", "")
        while not (said[0] == fault.stage and fault.text in said[1]):
            assert time.monotonic() - began < NAMED_S * slowness(), said
            said = cause(odd, *fault.link)
        took = time.monotonic() - began
        live = odd.try_linkwire("check", "--live", "--stack", fault.link[0].partition("_")[0])
        while fault.text not in live.stdout:  # a task that fails again and again is now here, now there
            assert time.monotonic() - began < NAMED_S * slowness(), live.stdout
            live = odd.try_linkwire("check", "--live", "--stack", fault.link[0].partition("_")[0])
        status = odd.try_linkwire("status")
        while status.returncode not in fault.codes or fault.status not in status.stdout:
            assert time.monotonic() - began < NAMED_S * slowness(), status.stdout
            status = odd.try_linkwire("status")
        figure(
            f"{fault.name}: explain after {took:.1f} s, status after {time.monotonic() - began:.1f} s\n"
            f"  explain: {said[0]}: {said[1]}\n"
            f"  check --live ({live.returncode}): {live.stdout.strip()}\n"
            f"  status ({status.returncode}): {found_wrong(status.stdout)}"
        )
        assert live.returncode == 1
    checker.settle(odd.lab, 120)


def test_packets_beside_the_link_are_told(odd: Deployment, figure: Callable[[str], None]) -> None:
    """The client asks the provider by its address on the stack's own network, which `strict` refuses."""
    ((node, web),), ((asker, client),) = odd.tasks("odd_web"), odd.tasks("odd_client")
    networks = node.get(f"/containers/{web}/json")["NetworkSettings"]["Networks"]
    url = f"http://{networks['odd_default']['IPAddress']}/"
    assert asker.docker("exec", client, "curl", "-s", "-m", "3", url, check=False).returncode != 0
    said = odd.linkwire("explain", "odd_client", "odd_web:80")
    assert "packets of odd_client.1 beside its links were refused (strict)" in said
    figure(next(line for line in said.splitlines() if line.startswith("rule")))
