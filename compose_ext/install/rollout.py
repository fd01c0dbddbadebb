"""Rollout of Linkwire's stack: deploy it, and wait until Swarm runs the new tasks."""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from compose_ext.diagnostics import DockerError
from compose_ext.docker_cli import Docker, printable
from compose_ext.install.stack_template import Release
from compose_ext.secrets.docker_secrets import DockerSecrets
from compose_ext.swarm import installation, listings, node_jobs
from compose_ext.swarm.installation import STACK
from compose_ext.swarm.listings import TIMEOUT

DEPLOY_TIMEOUT = 120.0
"""Seconds; Docker asks the registry about every image."""
LOOK_EVERY = 0.5
_SHOWN = 3


def deploy(
    docker: Docker,
    release: Release,
    secrets: DockerSecrets,
    resolve: str = "always",
    *,
    services: Collection[str] | None = None,
    update: Mapping[str, str] | None = None,
) -> None:
    """Hand the stack to Docker.

    Args:
        docker: a manager's.
        release: what to deploy.
        secrets: of the Swarm, which Docker finds by their names.
        resolve: `always` to take what the image's tag now stands for, `changed` to leave an unchanged tag's alone.
        services: only these, and the others stay as they are; by default all, and no others stay.
        update: what else their `update_config` says.

    Raises:
        DockerError: Docker refused it, or found another secret under a name of ours.
    """
    arguments = ["stack", "deploy", "--compose-file=-", "--with-registry-auth", f"--resolve-image={resolve}"]
    arguments += ["--prune"] if services is None else []
    release = replace(release, node_keys_since=installation.deployed(docker).node_keys_since)
    docker.ask([*arguments, STACK], DEPLOY_TIMEOUT, release.text(services, update).encode(), release.variables())
    if replaced := secrets.replaced(installation.deployed(docker)):
        raise DockerError(
            f"somebody has put other secrets or configs in the place of {', '.join(replaced)}, and services mount "
            "them: find out who may remove secrets in this Swarm, `docker linkwire uninstall`, and install again"
        )


def wait(docker: Docker, seconds: float, say: Callable[[str], None], *, settle: bool = False) -> None:
    """Wait until every service runs all of its tasks, in the newest version.

    Args:
        docker: a manager's.
        seconds: it may take.
        say: prints a line of progress.
        settle: also until Swarm has watched the new tasks for as long as it may still take them back.

    Raises:
        DockerError: it took longer, or Swarm took it back; with what the tasks say.
    """
    deadline = time.monotonic() + seconds
    last = ""
    while waiting := unsettled(docker, settle=settle):
        if time.monotonic() > deadline:
            raise DockerError(
                f"the stack is deployed, but not all of its tasks run after {seconds:g} s:\n  "
                + "\n  ".join([*waiting, *failures(docker)])
                + "\nSee `docker service ps --no-trunc linkwire_agent` , `docker service logs linkwire_controller`; "
                "`docker linkwire install` may be run again"
            )
        if last != (last := waiting[0]):
            say(f"waiting: {last}")
        time.sleep(LOOK_EVERY)


def wait_gone(docker: Docker, seconds: float) -> None:
    """Wait until Swarm no longer lists the stack's services: only then can their secrets be removed.

    Raises:
        DockerError: it took longer.
    """
    deadline = time.monotonic() + seconds
    while installation.deployed(docker).services:
        if time.monotonic() > deadline:
            raise DockerError(f"the stack {STACK} is still there after {seconds:g} s; run this again")
        time.sleep(LOOK_EVERY)


def unsettled(docker: Docker, *, settle: bool = False) -> list[str]:
    """Return the services that are not settled yet, with why. Raises DockerError, also where Swarm rolled back."""
    found = installation.deployed(docker)
    states = {name: (service.get("UpdateStatus") or {}) for name, service in sorted(found.services.items())}
    if back := [f"{name}: {status.get('Message', '')}" for name, status in states.items() if is_back(status)]:
        why = "\n  ".join([*back, *failures(docker)])
        raise DockerError(f"Swarm rolled the services back, since new tasks failed:\n  {why}")
    active = sum(
        line.split() == ["Ready", "Active"]
        for line in docker.ask(["node", "ls", "--format", "{{.Status}} {{.Availability}}"], TIMEOUT).splitlines()
    )
    return [
        text
        for name, service in sorted(found.services.items())
        if (text := _unsettled(docker, name, service, active) or (_watched(service) if settle else ""))
    ]


def _watched(service: Mapping[str, Any]) -> str:
    updating = (service.get("UpdateStatus") or {}).get("State") == "updating"
    return f"{service['Spec']['Name']}: Swarm watches its new tasks" if updating else ""


def is_back(status: Mapping[str, Any]) -> bool:
    """Tell whether an update's status says that Swarm has stopped it, or goes back."""
    return str(status.get("State", "")).startswith("rollback") or status.get("State") == "paused"


def failures(docker: Docker) -> list[str]:
    """Return the newest failed tasks of each service: task, node, and Docker's error."""
    nodes = {node: name for node, name, *_ in node_jobs.listed(docker)}
    lines: list[str] = []
    for service in installation.deployed(docker).services.values():
        failed = [task for task in listings.tasks(docker, str(service["ID"])) if task["Status"].get("Err")]
        failed.sort(key=lambda task: str(task["Status"].get("Timestamp", "")))
        lines += [
            printable(
                f"task {task['ID']} on {nodes.get(str(task.get('NodeID')), 'no node')} "
                f"({task['Spec']['ContainerSpec'].get('Image', '')}): {task['Status']['Err']}"
            )
            for task in failed[-_SHOWN:]
        ]
    return lines


def _unsettled(docker: Docker, name: str, service: Mapping[str, Any], active: int) -> str:
    replicated = service["Spec"]["Mode"].get("Replicated")
    wanted = int(replicated["Replicas"]) if replicated is not None else active
    tasks = listings.tasks(docker, str(service["ID"]), wanted="desired-state=running")
    old = [task for task in tasks if not listings.is_current(task, service)]
    running = [task for task in tasks if task["Status"]["State"] == "running"]
    if not old and len(running) == len(tasks) >= wanted:
        return ""
    errors = sorted({str(task["Status"]["Err"]) for task in tasks if task["Status"].get("Err")})[:_SHOWN]
    text = f"{name}: {len(running)} of {max(wanted, len(tasks))} tasks run"
    text += f", {len(old)} to be replaced" if old else ""
    return printable(": ".join([text, *errors]))
