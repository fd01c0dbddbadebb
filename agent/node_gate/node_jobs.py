"""Node jobs of `docker linkwire install` and `uninstall`, each run by a container of the agent's image.

    linkwire-agent look     says what this node is, and what stands in the way of an agent; changes nothing
    linkwire-agent place    makes the volumes by which the agent sees Docker's own folders
    linkwire-agent unwire   takes devices, names and rules out of this node's tasks, when its agent has ended
    linkwire-agent remove   removes Linkwire's volumes on this node

Each prints one line, a JSON object with `node`, `hostname` and `problems`, and exits with 1 if there are any.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import structlog

from agent.containers import after_reboot, start_gate
from agent.containers.docker_client import Containers, LocalTask
from agent.containers.holder_container import HolderContainer
from agent.containers.volumes import BOUND, DEFAULT_ROOT, Volumes
from agent.errors import HostsFileMissingError, NotNetnsError
from agent.firewall import node_table, preflight, source_guard
from agent.fitness import facts
from agent.interface import reconcile
from agent.linux import hosts_file
from agent.linux.netns import OWN_NETNS, TaskNetns
from agent.node_encryption import device as node_device
from agent.wireguard.backend import Backend, probe
from mesh.errors import LinkwireError, NetnsGoneError, Retryable, Terminal

log = structlog.get_logger(__name__)

ENDED_S = 60.0
"""Seconds in which the node's containers of ours must have ended, and their volumes be free."""
_RETRY_S = 0.5
_READ_S = 30.0
"""Seconds for Docker to describe one container."""
_MOUNTS = Path("/proc/self/mountinfo")
_UID_MAP = Path("/proc/self/uid_map")
_EVERYBODY = ["0", "0", "4294967295"]

Report = dict[str, Any]


def run(command: str, url: str, folder: str, state: Path) -> int:
    """Do one of the four jobs, print the report; return the exit code.

    Args:
        command: `look`, `place`, `unwire` or `remove`.
        url: of this node's Docker.
        folder: where Docker's folder `containers` is to be seen.
        state: the agent's own folder.
    """
    problems: list[str] = []
    report: Report = {"node": "", "hostname": "", "version": metadata.version("linkwire"), "problems": problems}
    try:
        if remapped(_UID_MAP.read_text()):
            raise Retryable(
                "Docker has userns-remap here, and then gives no service the node's network, as an agent needs it: "
                "take it out of this node's daemon.json, or the node out of the Swarm"
            )
        volumes = Volumes(url)
        engine = volumes.engine()
        report |= {"node": engine.node, "hostname": engine.hostname, "root": engine.root, "engine": engine.version}
        if command == "look":
            report["misplaced"] = sorted(misplaced(volumes, engine.root))
            report |= _backend(problems)
            if question := os.environ.get(facts.ASKED):
                report |= _facts(question, url)
        elif command == "place":
            place(volumes, engine.root)
        elif command == "unwire":
            _again(partial(_ended, volumes))
            _again(HolderContainer(url).remove)
            (state / after_reboot.FILE).unlink(missing_ok=True)  # first: the gate's script would put rules back
            problems += unwire(Containers(url, folder=folder))
        else:
            problems += remove(volumes)
    except LinkwireError as error:
        problems.append(str(error))
    print(json.dumps(report), flush=True)  # noqa: T201 - what the command is for
    return 1 if problems else 0


def remapped(uid_map: str) -> bool:
    """Tell whether root of a container is another user of the node (user_namespaces(7))."""
    return uid_map.split() != _EVERYBODY


def misplaced(volumes: Volumes, root: str) -> dict[str, str]:
    """Find volumes that are a bind of another folder than this Docker's, with the right one. Raises Retryable."""
    wrong = {}
    for name, below in BOUND.items():
        device, right = volumes.device(name), f"{root}/{below}"
        if device != right and not (device is None and root == DEFAULT_ROOT):
            wrong[name] = right
    return wrong


def place(volumes: Volumes, root: str) -> None:
    """Make the volumes binds of this Docker's folders. Raises Retryable."""
    for name, right in misplaced(volumes, root).items():
        if volumes.device(name) is not None:
            _again(partial(volumes.remove, name))
        volumes.bind(name, right)


def require_places(url: str, folder: str) -> None:
    """Check that this container was given the folders of the Docker that runs it.

    Args:
        url: of this node's Docker.
        folder: where Docker's folder `containers` is to be seen; empty where no volume is for that.

    Raises:
        Terminal: it was given others'. Names would go into files that no task reads.
    """
    if not folder or _shows_us(Path(folder), _MOUNTS.read_text()):
        return
    try:
        volumes = Volumes(url)
        root = volumes.engine().root
        wrong = misplaced(volumes, root)
    except Retryable as error:
        log.warning("folders of Docker not checked", error=str(error))
        return
    if wrong:
        raise Terminal(
            f"Docker keeps its data in {root} on this node, and the volumes {', '.join(sorted(wrong))} are of "
            "another folder: run `docker linkwire install` again, which makes them anew"
        )


def _shows_us(folder: Path, mounts: str) -> bool:
    """Tell whether a folder of containers has this one's, of which its hosts file is (proc_pid_mountinfo(5))."""
    fields = (line.split(" ") for line in mounts.splitlines())
    roots = [Path(root) for _, _, _, root, target, *_ in fields if target == "/etc/hosts"]
    return any((folder / root.parent.name).is_dir() for root in roots)


def remove(volumes: Volumes) -> Iterator[str]:
    """Remove every volume of ours; returns what could not be done, in words. Raises Retryable."""
    ours = {*volumes.names(), *(name for name in BOUND if volumes.device(name) is not None)}
    for name in sorted(ours):
        try:
            _again(partial(volumes.remove, name))
        except Retryable as error:
            yield str(error)


def _facts(question: str, url: str) -> Report:
    """Gather the facts that are asked for; a node of which they cannot be known may be fit all the same."""
    try:
        return {"facts": facts.gather(question, url)}
    except Exception as error:
        log.exception("node not looked at", error=str(error))
        return {"unread": f"{type(error).__name__}: {error}"}


def _backend(problems: list[str]) -> Report:
    """Name the backend that an agent would take, and add the errors that it would stop with."""
    report: Report = {}
    try:
        report["backend"] = probe().name
    except LinkwireError as error:
        problems.append(str(error))
    try:
        preflight.require()
    except LinkwireError as error:
        problems.append(str(error))
    return report


def _ended(volumes: Volumes) -> None:
    if running := volumes.running():
        raise Retryable(f"still running: {', '.join(running)}")


def _read(containers: Containers, task: LocalTask) -> LocalTask | None:
    """Return a task as Docker describes it, None where it has ended. Raises Retryable where it does not for long."""
    until, known = time.monotonic() + _READ_S, containers.one(task.container) if task.unread else task
    while known is not None and known.unread:
        if time.monotonic() > until:
            raise Retryable(known.unread)
        time.sleep(_RETRY_S)
        known = containers.one(task.container)
    return known


def unwire(containers: Containers) -> Iterator[str]:
    """Take devices, names and rules out of all namespaces, the node's own too, and the gate's files off the node.

    Returns:
        What could not be done, in words. Raises LinkwireError where nothing could.
    """
    shutil.rmtree(start_gate.FOLDER, ignore_errors=True)
    containers.identity()
    backend = probe()
    for container, task in containers.all().items():
        try:
            if (known := _read(containers, task)) is not None:
                _unwire_task(backend, known)
        except NotNetnsError as error:
            time.sleep(_RETRY_S)
            if containers.one(container) is not None:  # else it has ended meanwhile, and its namespace with it
                yield f"{task.name}: {error}"
        except LinkwireError as error:
            yield f"{task.name}: {error}"
    try:
        with TaskNetns(OWN_NETNS) as home:
            node_device.remove(home, backend)
    except LinkwireError as error:
        yield f"node encryption: {error}"
    try:
        source_guard.remove_all()
    except LinkwireError as error:
        yield f"guard of senders' addresses: {error}"
    node_table.remove()  # last: as long as there is a name, what goes to the mesh is refused


def _unwire_task(backend: Backend, task: LocalTask) -> None:
    if task.netns is None:
        return
    with suppress(HostsFileMissingError):
        hosts_file.write(task.hosts, ())
    with suppress(NetnsGoneError), TaskNetns(task.netns) as netns:
        reconcile.remove(backend, netns, None)


def _again(attempt: Callable[[], object]) -> None:
    """Try until it is done; raises the last Retryable after ENDED_S."""
    deadline = time.monotonic() + ENDED_S
    while True:
        try:
            attempt()
        except Retryable:
            if time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_S)
        else:
            return
