"""Installation, removal and status of the gate in this node's Docker; each may be run again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

from agent.containers.volumes import DEFAULT_ROOT
from agent.node_gate import daemon_json, daemon_process, engine, files
from agent.node_gate.engine import Engine
from agent.node_gate.errors import GateError

RELOAD_S = 15.0
"""Seconds until dockerd must have taken over what its file says."""
_LOOK_S = 0.1
_SHOWN = 5
Answer = dict[str, Any]


def install(docker: Engine, script: str, waits: Mapping[str, int]) -> Answer:
    """Make the gate the default runtime.

    Args:
        docker: this node's.
        script: the gate's text.
        waits: as `files.place` takes them.

    Returns:
        `gate`: "in"; `said`: what was done, in words.

    Raises:
        Refused: it cannot be, and nothing is changed.
    """
    daemon = daemon_process.find(engine.SOCKET)
    info = docker.info()
    was, data = engine.default_runtime(info), _data(info)
    made = daemon.work(lambda: files.place(daemon.config, daemon.command, daemon.path, script, waits, data))

    def taken(info: Mapping[str, Any]) -> bool:
        return (
            engine.default_runtime(info) == daemon_json.RUNTIME
            and engine.runtime_path(info, daemon_json.RUNTIME) == made["script"]
        )

    if not taken(docker.info()):
        _reload(docker, daemon, made, taken)
    elif not made["undo"]:
        return {"gate": "in", "said": ["the gate was in already"]}
    behind = f" in front of {made['behind']}" if made["behind"] not in {None, daemon_json.STOCK} else ""
    notes = [
        f"default runtime {was} -> {daemon_json.RUNTIME}{behind}"
        if was != daemon_json.RUNTIME
        else "brought up to date"
    ]
    notes.append(f"script {made['script']}")
    if made["changed"]:
        notes.append(f"{made['config']} changed, kept as it was in {made['config']}{files.KEPT}")
    return {"gate": "in", "said": notes}


def remove(docker: Engine) -> Answer:
    """Make the default runtime what it was before the gate, and remove the gate if no container needs it.

    Returns:
        As `install`; `gate`: "out", or "leaving" while containers need the script, those of `services` and other
        `containers`; `again`: run from containers that do not, it will leave nothing.

    Raises:
        Refused: dockerd did not take it over, and everything is as it was.
    """
    daemon = daemon_process.find(engine.SOCKET)
    info = docker.info()
    aside = daemon.work(lambda: files.step_aside(daemon.config))
    was, default = engine.default_runtime(info), str(aside["default"])
    if not aside["there"] and was != daemon_json.RUNTIME:
        return {"gate": "out", "said": ["the gate was not there"]}
    if was == daemon_json.RUNTIME:
        _reload(docker, daemon, aside, lambda now: engine.default_runtime(now) == default)
    notes = [f"default runtime {was} -> {default}" if was != default else f"default runtime {default}"]
    seen = _look(daemon, info, "")
    if users := seen["users"]:
        shown = ", ".join(users[:_SHOWN]) + (f" and {len(users) - _SHOWN} more" if len(users) > _SHOWN else "")
        notes.append(
            f"the script stays, open, for what was made with it: {shown}. Have Swarm replace its tasks "
            "(`docker service update --force`), make other containers again, and run this once more"
        )
        left = {"services": seen["services"], "containers": seen["containers"]}
        return {"gate": "leaving", "said": notes, **left}
    if seen["own"]:  # they end by the script
        return {"gate": "leaving", "said": notes, "again": True}
    made = daemon.work(lambda: files.forget_runtime(daemon.config))
    if engine.runtime_path(docker.info(), daemon_json.RUNTIME) is not None:
        _reload(docker, daemon, made, lambda now: engine.runtime_path(now, daemon_json.RUNTIME) is None)
    cleared = daemon.work(lambda: files.clear(daemon.config, seen["script"]))
    notes.append(f"script removed, {daemon.config} {'as it was' if cleared['restored'] else 'without it'}")
    return {"gate": "out", "said": notes}


def status(docker: Engine, script: str) -> Answer:
    """Say what there is of the gate."""
    daemon = daemon_process.find(engine.SOCKET)
    info = docker.info()
    seen = _look(daemon, info, script)
    default = engine.default_runtime(info)
    notes = [f"default runtime {default}"]
    if default == daemon_json.RUNTIME:
        lacks = [
            text
            for text, wrong in (
                (f"{daemon.config} does not say so: gone when dockerd starts again", not seen["named"]),
                ("its script is of another version", not seen["same"]),
            )
            if wrong
        ]
        return {"gate": "in" if not lacks else "in part", "said": [*notes, *lacks]}
    if seen["named"] or seen["kept"]:
        return {
            "gate": "in part",
            "said": [*notes, f"of the gate something is left; containers that need it: {len(seen['users'])}"],
        }
    return {"gate": "out", "said": notes}


def _look(daemon: daemon_process.Dockerd, info: Mapping[str, Any], script: str) -> Answer:
    return daemon.work(lambda: files.look(daemon.config, _data(info), script))


def _data(info: Mapping[str, Any]) -> str:
    return str(info.get("DockerRootDir") or DEFAULT_ROOT)


def _reload(
    docker: Engine,
    daemon: daemon_process.Dockerd,
    made: Mapping[str, Any],
    taken: Callable[[Mapping[str, Any]], bool],
) -> None:
    """Have dockerd read its file; where it does not take it over, make all files what they were."""
    os.kill(daemon.pid, signal.SIGHUP)
    deadline = time.monotonic() + RELOAD_S
    while not taken(docker.info()):
        if time.monotonic() > deadline:
            daemon.work(lambda: files.restore(made["undo"]))
            os.kill(daemon.pid, signal.SIGHUP)
            raise GateError(
                f"its dockerd did not apply {daemon.config} within {RELOAD_S:g} s: its log says what else is wrong "
                "in that file (`journalctl -u docker`). Every file was restored"
            )
        time.sleep(_LOOK_S)
