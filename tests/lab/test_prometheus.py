"""Debian's Prometheus on a Swarm, with deploy/prometheus: silent at rest, and one agent that hangs. Long: minutes."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Lab, process, programs
from tests.lab.deployment import Deployment, deployed
from tests.lab.fixtures import lab_name
from tests.lab.images import PROJECT
from tests.lab.test_silent_agents import stopped_agent
from tests.support.effort import LONG
from tests.support.patience import slowness

PAGES = {
    "LINKWIRE_METRICS": "0.0.0.0:9586",
    "LINKWIRE_CONTROLLER_METRICS": "0.0.0.0:9587",
    "LINKWIRE_ETCD_METRICS": "0.0.0.0:9588",
}
JOBS = {"linkwire-agent": 3, "linkwire-controller": 1, "linkwire-etcd": 1}
REST_S = 90.0
"""A minute and a half with a scrape every 5 s: nothing may even be pending at the end."""
FIRED_S = 240.0
"""LinkwireAgentDown waits for two minutes."""
MEANT = {"LinkwireAgentDown", "LinkwireNodeSilent"}
ASK = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode())"


@pytest.fixture(scope="module")
def measured() -> Iterator[Deployment]:
    """Linkwire on a lab of its own, with its own etcd, whose pages every node reaches."""
    if not LONG:
        pytest.skip("long: LINKWIRE_CHAOS=long")
    if not Path("/usr/bin/prometheus").exists():
        pytest.skip("LOUD: no Prometheus, so no alert is tried on a Swarm: deploy/bootstrap.sh metrics")
    with Lab(lab_name("m"), nodes=3, say=print).anew() as lab:
        yield deployed(lab, PAGES, own_etcd=True)


@contextmanager
def scraping(stacks: Deployment, folder: Path) -> Iterator[Callable[[str], Any]]:
    """While entered, Prometheus runs on the manager; yields what asks its API."""
    manager = stacks.lab.manager
    config = (PROJECT / "deploy/prometheus/prometheus.yml").read_text()
    for given, here in (("unix:///var/run/docker.sock", f"unix://{manager.socket}"), ("15s", "5s")):
        assert given in config
        config = config.replace(given, here)
    (folder / "prometheus.yml").write_text(config)
    rules = "linkwire-alerts.yml"
    (folder / rules).write_text((PROJECT / "deploy/prometheus" / rules).read_text())
    subprocess.run(["promtool", "check", "config", folder / "prometheus.yml"], check=True, stdout=subprocess.DEVNULL)
    flags = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    argv = manager.command(["prometheus", *flags, "--web.listen-address=127.0.0.1:9090"])

    def ask(path: str) -> Any:  # noqa: ANN401 - of Prometheus
        done = manager.run(["python3", "-c", ASK, f"http://127.0.0.1:9090/api/v1/{path}"], check=False)
        return json.loads(done.stdout)["data"] if done.returncode == 0 else {}

    with (folder / "log").open("wb") as log, subprocess.Popen(argv, stdout=log, stderr=log) as running:
        try:
            yield ask
        finally:
            running.terminate()


def up(ask: Callable[[str], Any]) -> dict[str, int]:
    """How many targets of each job answer."""
    targets = ask("targets").get("activeTargets", [])
    jobs = [one["labels"]["job"] for one in targets if one["health"] == "up"]
    return {job: jobs.count(job) for job in set(jobs)}


def alerts(ask: Callable[[str], Any], state: str = "") -> set[str]:
    """The names of the alerts that fire or are pending."""
    found = ask("alerts").get("alerts", [])
    return {one["labels"]["alertname"] for one in found if state in ("", one["state"])}


def test_hanging_agent_fires_its_alerts_alone(
    measured: Deployment, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    image = measured.images.demo
    services = {
        "web": programs.service(image, "listen", "web", "--tcp", "80"),
        "client": programs.idle(image, links=["web"], deploy={"mode": "global"}),
    }
    measured.deploy("seen", programs.stack(services))
    measured.wait_connected("seen")
    with scraping(measured, tmp_path) as ask:
        process.wait_for("all pages to be read", lambda: up(ask) == JOBS, seconds=90, every=1)
        process.wait_for("no alert to be pending", lambda: not alerts(ask), seconds=120, every=1)
        until = time.monotonic() + REST_S
        while time.monotonic() < until:
            assert alerts(ask) == set(), "nothing is wrong"
            time.sleep(5)
        rules = [rule for group in ask("rules")["groups"] for rule in group["rules"]]
        assert {rule["health"] for rule in rules} == {"ok"}
        began = time.monotonic()
        with stopped_agent(measured, "n3"):
            took: dict[str, float] = {}
            while time.monotonic() - began < FIRED_S * slowness() and took.keys() != MEANT:
                for name in alerts(ask, "firing"):
                    took.setdefault(name, time.monotonic() - began)
                others = alerts(ask, "firing") - MEANT
                assert others == set(), f"{others} after {took}, pending {alerts(ask, 'pending')}"
                time.sleep(2)
            assert took.keys() == MEANT
            (down,) = [one for one in ask("alerts")["alerts"] if one["labels"]["alertname"] == "LinkwireAgentDown"]
            assert down["labels"]["node"] == "n3"
        process.wait_for("the alerts to end", lambda: not alerts(ask), seconds=120, every=1)
    told = ", ".join(f"{name} after {seconds:.0f} s" for name, seconds in sorted(took.items()))
    figure(f"{len(rules)} rules silent for {REST_S:.0f} s at rest; a hanging agent fired {told}")
