"""Gate's files on a node: its script, its settings, dockerd's configuration file and the copy kept beside it.

Everything here runs where dockerd sees its files (`gate.dockerd.Dockerd.work`), and takes and returns JSON.
"""

from __future__ import annotations

import errno
import json
import shlex
import stat
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.containers.volumes import DEFAULT_ROOT
from agent.node_gate import daemon_json
from agent.node_gate.errors import GateError
from agent.state import atomic_file

SCRIPT = "linkwire-runc"
FOLDERS = ("/usr/local/bin", "/opt/bin")
"""Where the script may lie; the second where /usr cannot be written to."""
SETTINGS = Path("/etc/linkwire/gate")
VARIABLES = ("LINKWIRE_GATE", "LINKWIRE_RUNC", "LINKWIRE_GATE_SECONDS", "LINKWIRE_READY_SECONDS", "LINKWIRE_DATA")
"""Our variables in the settings."""
KEPT = ".before-linkwire"
"""Suffix of the copy of dockerd's file; an empty copy: there was no file."""
NEEDED = ("grep", "sed", "stat", "sleep", "mkdir", "rm")
_TRY_S = 20.0

Undo = list[tuple[str, str | None, int]]
"""Files before they were changed: path, text or None for no file, mode; in the order in which they were changed."""


@dataclass(slots=True)
class Journal:
    """Journal of file writes, by which they can be undone."""

    undo: Undo = field(default_factory=list)

    def write(self, path: Path, text: str | None, mode: int | None = None) -> None:
        """Write a file, or remove it; nothing is done where it is like that already.

        Args:
            path: where; of a symbolic link what it leads to.
            text: None to remove it.
            mode: None: as it was.

        Raises:
            OSError: it cannot be written.
        """
        path = path.resolve()
        before, had = _read(path)
        wanted = had if mode is None else mode
        if before == text and (text is None or had == wanted):
            return
        self.undo.append((str(path), before, had))
        _put(path, text, wanted)

    def roll_back(self) -> None:
        """Undo all writes."""
        restore(self.undo)
        self.undo.clear()


def restore(undo: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Undo writes. Raises OSError."""
    for path, text, mode in reversed(undo):
        _put(Path(path), text, mode)
    with suppress(OSError):
        SETTINGS.parent.rmdir()
    return {}


def place(  # noqa: PLR0917 - all of it is the node's
    config: str,
    command: tuple[str, ...],
    path: str,
    script: str,
    waits: Mapping[str, int],
    data: str = DEFAULT_ROOT,
) -> dict[str, Any]:
    """Put the gate into a node's files.

    Args:
        config: dockerd's configuration file.
        command: dockerd's command line.
        path: dockerd's PATH.
        script: the gate's own text.
        waits: variables of the settings, in seconds; one that is not given stays as it is.
        data: Docker's root folder.

    Returns:
        `script` and `config`, where these are; `behind`, the runtime behind the gate; `undo`; `changed`, whether
        dockerd's file was.

    Raises:
        Refused: it cannot be; nothing has changed.
        OSError: likewise.
    """
    file, journal = Path(config), Journal()
    text = _text(file)
    parsed = daemon_json.parse(text, config)
    daemon_json.refuse_flags(command, config)
    behind = daemon_json.wrapped(parsed, config)
    try:
        settings: dict[str, str | None] = {
            "LINKWIRE_GATE": None,
            "LINKWIRE_DATA": shlex.quote(data) if data != DEFAULT_ROOT else None,
            **{name: str(seconds) for name, seconds in waits.items()},
        }
        if behind is not None:
            program = behind.program
            settings["LINKWIRE_RUNC"] = None if program == daemon_json.STOCK else shlex.quote(program)
        _set(journal, settings)
        where = _place_script(journal, script, daemon_json.script_of(parsed))
        _try(where, path)
        copy = file.with_name(file.name + KEPT)
        # One that is still leaving has its copy: what the file says now is partly ours.
        if behind is not None and not (daemon_json.has_gate(parsed) and copy.exists()):
            journal.write(copy, text if file.exists() else "", _read(file)[1])
        elif behind is None and not copy.exists():  # put in by hand
            journal.write(copy, _without(text, parsed), _read(file)[1])
        changed = daemon_json.with_gate(parsed, str(where), behind)
        if changed != parsed:
            journal.write(file, daemon_json.dump(changed, text))
    except (GateError, OSError):
        journal.roll_back()
        raise
    return {
        "script": str(where),
        "config": config,
        "behind": behind.name if behind else None,
        "changed": changed != parsed,
        "undo": journal.undo,
    }


def step_aside(config: str) -> dict[str, Any]:
    """Make another runtime the default in dockerd's file, and open the gate for what was made with it.

    Returns:
        `there`, whether there was anything of the gate; `default`, the runtime that is to be the default; `undo`.
    """
    file, journal = Path(config), Journal()
    text = _text(file)
    parsed = daemon_json.parse(text, config)
    copy = file.with_name(file.name + KEPT)
    if not daemon_json.has_gate(parsed):
        there = copy.exists()
        return {"there": there, "default": daemon_json.default_of(parsed), "undo": []}
    before = daemon_json.parse(_text(copy), str(copy))
    aside = daemon_json.without_default(parsed, daemon_json.default_of(before))
    try:
        _set(journal, {"LINKWIRE_GATE": "off"})
        if aside != parsed:
            journal.write(file, daemon_json.dump(aside, text))
    except OSError:
        journal.roll_back()
        raise
    return {"there": True, "default": daemon_json.default_of(aside), "undo": journal.undo}


def forget_runtime(config: str) -> dict[str, Any]:
    """Take the gate out of the runtimes in dockerd's file; returns `undo`."""
    file, journal = Path(config), Journal()
    text = _text(file)
    parsed = daemon_json.parse(text, config)
    if daemon_json.script_of(parsed) is not None:
        journal.write(file, daemon_json.dump(daemon_json.without_runtime(parsed), text))
    return {"undo": journal.undo}


def clear(config: str, script: str | None) -> dict[str, Any]:
    """Remove what is left of the gate, and make dockerd's file what it was before, but for what others changed.

    Returns:
        `restored`: whether the file is what it was, byte for byte.
    """
    file = Path(config)
    copy = file.with_name(file.name + KEPT)
    journal = Journal()
    restored = False
    if copy.exists():
        text, before_text = _text(file), _text(copy)
        before = daemon_json.parse(before_text, str(copy))
        left = daemon_json.restored(daemon_json.parse(text, config), before)
        restored = left == before
        if restored:
            journal.write(file, before_text or None)
        else:
            journal.write(file, daemon_json.dump(left, text))
        journal.write(copy, None)
    _set(journal, dict.fromkeys(VARIABLES))
    for path in {script, *(f"{folder}/{SCRIPT}" for folder in FOLDERS)} - {None}:
        # By hand it may be set up elsewhere: what is not called like ours is not ours.
        if Path(str(path)).name == SCRIPT and str(Path(str(path)).parent) in FOLDERS:
            journal.write(Path(str(path)), None)
    with suppress(OSError):
        SETTINGS.parent.rmdir()
    return {"restored": restored}


def look(config: str, data: str, script: str) -> dict[str, Any]:
    """Read what there is of the gate on a node.

    Args:
        config: dockerd's configuration file.
        data: Docker's root folder.
        script: the text that the gate's script has here.

    Returns:
        `named`, whether dockerd's file has the gate; `script`, where it says that the script lies; `same`, whether
        that is the one given; `kept`, whether there is a copy of the file as it was; `users`, names of containers
        that need the script; `services`, the Swarm services of those that are tasks; `containers`, names of the
        others; `own`, of those that run `linkwire-gate` now and do.
    """
    file = Path(config)
    parsed = daemon_json.parse(_text(file), config)
    where = daemon_json.script_of(parsed)
    users = list(_users(Path(data)))
    return {
        "named": daemon_json.has_gate(parsed),
        "script": where,
        "same": where is not None and _text(Path(where)) == script,
        "kept": file.with_name(file.name + KEPT).exists(),
        "users": sorted(name for name, _, own in users if not own),
        "services": sorted({service for _, service, own in users if service and not own}),
        "containers": sorted(name for name, service, own in users if not (service or own)),
        "own": sorted(name for name, _, own in users if own),
    }


def _users(data: Path) -> Iterator[tuple[str, str, bool]]:
    """Return the containers whose runtime is the gate, their Swarm service, and whether they are this program's own.

    Those of Swarm tasks that have ended are left out: they never start again.
    """
    for file in data.glob("containers/*/hostconfig.json"):
        try:
            if json.loads(file.read_text()).get("Runtime") != daemon_json.RUNTIME:
                continue
            config = json.loads(file.with_name("config.v2.json").read_text())
        except (OSError, ValueError):
            continue
        labels = (config.get("Config") or {}).get("Labels") or {}
        is_task = "com.docker.swarm.task.id" in labels
        if (config.get("State") or {}).get("Running") or not is_task:
            name = str(config.get("Name", file.parent.name)).lstrip("/")
            service = str(labels.get("com.docker.swarm.service.name", "")) if is_task else ""
            yield name, service, labels.get("linkwire.role") == "gate"


def _place_script(journal: Journal, text: str, before: str | None) -> Path:
    """Put the script where it was, if that is one of its places, else into the first that can be written to."""
    folders = [folder for folder in FOLDERS if before == f"{folder}/{SCRIPT}"] or FOLDERS
    reasons = []
    for folder in folders:
        path = Path(folder) / SCRIPT
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            journal.write(path, text, 0o755)
        except OSError as error:
            reasons.append(f"{path}: {error.strerror}")
            continue
        return path
    raise GateError(f"its script cannot be placed: {'; '.join(reasons)}")


def _try(script: Path, path: str) -> None:
    """Have the script do what it does for every container but gated ones."""
    environment = {"PATH": path}
    checks = (
        [
            "sh",
            "-c",
            'for command; do command -v "$command" >&2 || { echo "no $command"; exit 1; }; done',
            "sh",
            *NEEDED,
        ],
        [str(script), "--version"],
    )
    for argv in checks:
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=_TRY_S, env=environment, check=False)
        except (OSError, subprocess.SubprocessError) as error:
            raise GateError(f"{script} does not run on this node: {error}") from None
        if done.returncode != 0:
            output = (done.stdout + done.stderr).strip()[-300:]
            raise GateError(f"{script} does not run on this node: {output or f'exit code {done.returncode}'}")


def _without(text: str, parsed: Mapping[str, Any]) -> str:
    left = daemon_json.restored(
        daemon_json.without_runtime(daemon_json.without_default(parsed, daemon_json.STOCK)), {}
    )
    return daemon_json.dump(left, text) if left else ""


def _set(journal: Journal, values: Mapping[str, str | None]) -> None:
    before = _text(SETTINGS)
    text = daemon_json.set_variables(before, values)
    if text != before:
        SETTINGS.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        journal.write(SETTINGS, text or None)


def _text(path: Path) -> str:
    return _read(path)[0] or ""


def _read(path: Path) -> tuple[str | None, int]:
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape"), stat.S_IMODE(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return None, 0o644


def _put(path: Path, text: str | None, mode: int) -> None:
    """Write a file whole or not at all, or remove it. Raises OSError."""
    if text is None:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.encode("utf-8", "surrogateescape")
    try:
        atomic_file.write(path, data, mode=mode)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        path.write_bytes(data)  # the file itself is a mount
