"""`docker linkwire deploy` waits until every link is wired, says what is missing, and may be left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.lab import programs
from tests.lab.deployment import Deployment
from tests.support.patience import slowness

HEALTHY_AFTER_S = 3
INTERRUPTED = 130
INCOMPLETE = 3


def compose(deployment: Deployment, folder: Path, external: Sequence[str] = (), **web: object) -> str:
    """Write a compose file: each node has a client, which links to the service `web` and others; return its path."""
    services = {
        "web": programs.service(deployment.images.demo, "listen", "web", "--tcp", "80", **web),
        "client": programs.idle(deployment.images.demo, links=["web"], deploy={"mode": "global"}),
    }
    services["client"]["external_links"] = list(external)
    path = folder / "docker-compose.yml"
    path.write_text(programs.stack(services))
    return str(path)


def test_deploy_returns_when_links_are_wired(stacks: Deployment, tmp_path: Path) -> None:
    check = {"test": ["CMD", "test", "-e", "/tmp/ready"], "interval": "1s", "retries": 60}  # noqa: S108 - in the container
    later = f"(sleep {HEALTHY_AFTER_S * slowness():.0f}; touch /tmp/ready)"
    started = f"{later} & exec python3 -u /srv/listen.py web --tcp 80"
    path = compose(stacks, tmp_path, healthcheck=check, command=["sh", "-c", started])
    done = stacks.try_linkwire("deploy", "-c", path, "waits", seconds=200)
    assert done.returncode == 0, done.stderr
    asked = stacks.lab.manager.docker(
        "exec", stacks.agent(stacks.lab.manager) or "", "linkwire-ask", "wiring", json.dumps({"stack": "waits"})
    )
    found = {service["name"]: service["tasks"] for service in json.loads(asked.stdout)["services"]}
    assert {name: len(tasks) for name, tasks in found.items()} == {"waits_client": 3, "waits_web": 1}
    assert all(task["wired"] and task["ready"] for tasks in found.values() for task in tasks)
    lines = done.stderr.splitlines()
    assert any("waits_web, which it links to, has no ready task" in line for line in lines), lines
    assert "linkwire: waits_client: 3 of 3 tasks run, wired" in lines
    assert lines[-1].startswith("linkwire: waits: every link is wired, and every provider has a ready task")
    for client in stacks.tasks("waits_client"):
        (call,) = programs.count_calls(client, "web", 1)
        assert (call.who or "").startswith("web ")


def test_deploy_says_what_is_missing(stacks: Deployment, tmp_path: Path) -> None:
    path = compose(stacks, tmp_path, ["linkwire_agnet:agent"], command=["sh", "-c", "exit 7"])
    done = stacks.try_linkwire("deploy", "-c", path, "--timeout", f"{15 * slowness():.0f}", "lacks", seconds=200)
    assert done.returncode == INCOMPLETE, done.stderr
    said = done.stderr.partition("lacks is deployed, and not complete after")[2]
    assert "lacks_client: lacks_web, which it links to, has no ready task" in said
    absent = "linkwire_agnet, which it links to, does not exist; did you mean 'linkwire_agent'?"
    assert f"lacks_client: {absent}\n" in said
    assert "lacks_web: the last one failed: " in said
    assert "task: non-zero exit (7)" in said


def test_interrupted_deploy_leaves_the_stack(stacks: Deployment, tmp_path: Path) -> None:
    path = compose(stacks, tmp_path, command=["sh", "-c", "exit 7"])
    with stacks.plugged_in() as environment:
        process = subprocess.Popen(
            stacks.lab.manager.docker_command("linkwire", "deploy", "-c", path, "left"),
            env=environment,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        with process:
            assert process.stderr
            said = next(line for line in process.stderr if "left_client" in line and "tasks run" in line)
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
            said += process.stderr.read()
            code = process.wait(timeout=30)
    assert code == INTERRUPTED, said
    assert said.splitlines()[-1].startswith("linkwire: left is deployed, only the waiting has ended")
    assert "docker linkwire ps left" in said
    assert "Traceback" not in said
    names = {service["Spec"]["Name"] for service in stacks.lab.manager.get("/services")}
    assert {"left_web", "left_client"} <= names
