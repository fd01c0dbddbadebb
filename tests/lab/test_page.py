"""The page of `docker linkwire ui` on a real Swarm, in a real Chromium: what is deployed, and a link that breaks."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.lab import checker, programs
from tests.lab.deployment import Deployment
from tests.lab.programs import Calls
from tests.lab.test_status import wall
from tests.ui.browser import Browser, started

SEEN = """
const cy = window.linkwire?.graph.cy;
const states = (of) => Object.fromEntries((of ?? []).map((one) => [one.id(), one.data("state")]));
return [states(cy?.nodes(".service")), states(cy?.edges())];
"""
"""The states of the services and links that the graph shows, by their ids."""
SERVICES, LINK = {"service seen_client", "service seen_web"}, "link seen_client seen_web"


@contextmanager
def served(stacks: Deployment) -> Iterator[str]:
    """While entered, `docker linkwire ui` runs against the manager; yields the address that it prints."""
    with stacks.plugged_in() as environment:
        process = subprocess.Popen(
            stacks.lab.manager.docker_command("linkwire", "ui"),
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        with process:
            try:
                assert process.stdout
                yield process.stdout.readline().strip()
            finally:
                os.killpg(process.pid, signal.SIGINT)  # as a terminal does


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """A window of its own."""
    if not Path("/usr/bin/chromedriver").exists():
        pytest.skip("LOUD: no Chromium, so the page is not opened on a Swarm: deploy/bootstrap.sh ui")
    driver = started(tmp_path / "chromium")
    yield Browser(driver)
    driver.quit()


def seen(browser: Browser) -> tuple[dict[str, Any], dict[str, Any]]:
    services, links = browser.run(SEEN)
    return services, links


def test_page_shows_a_swarm_and_a_broken_link(
    stacks: Deployment, browser: Browser, figure: Callable[[str], None]
) -> None:
    image = stacks.images.demo
    where = {name: {"placement": {"constraints": [f"node.hostname == {name}"]}} for name in ("n1", "n2")}
    services = {
        "web": programs.service(image, "listen", "web", "--tcp", "80", deploy=where["n2"]),
        "client": programs.idle(image, links=["web"], deploy=where["n1"]),
    }
    stacks.deploy("seen", programs.stack(services))
    stacks.wait_running("seen_web", 1)
    (client,) = stacks.wait_running("seen_client", 1)
    checker.settle(stacks.lab)
    with Calls(client, "web", "--threads", "1", pause=0.2, timeout=1.0), served(stacks) as address:
        stacks.wait_connected("seen")
        began = time.monotonic()
        browser.open(address)
        browser.wait(lambda: seen(browser)[1].get(LINK) == "connected")
        drawn = time.monotonic() - began
        assert {name: state for name, state in seen(browser)[0].items() if name in SERVICES} == dict.fromkeys(
            SERVICES, "connected"
        )
        browser.go("#/graph/link/seen_client/seen_web")
        browser.wait(lambda: "n2" in browser.text("#details"))
        with wall(stacks.lab.node("n2")):
            began = time.monotonic()
            browser.wait(lambda: seen(browser)[1].get(LINK) == "broken")
            broken = time.monotonic() - began
            browser.wait(lambda: "broken" in browser.text("#details"))
        browser.wait(lambda: seen(browser)[1].get(LINK) == "connected")
        browser.go("#/events")
        browser.wait(lambda: "link broken" in browser.text("#view-events"))
        assert browser.complaints() == []  # before the program ends, whose page goes on asking it
    figure(f"page drawn after {drawn:.1f} s, a link with UDP blocked shown as broken after {broken:.1f} s")
    checker.settle(stacks.lab, 120)
