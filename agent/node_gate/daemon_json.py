"""Gate's entries in dockerd's configuration file, merged in and taken out again. No I/O here.

The file is the operator's: key order, indentation and every other key stay.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.node_gate.errors import GateError

RUNTIME = "linkwire"
STOCK = "runc"
"""The default runtime of dockerd where nothing names one."""
_STOCK_NAMES = frozenset({STOCK, "io.containerd.runc.v2"})
_RUNTIMES, _DEFAULT = "runtimes", "default-runtime"
_FLAGS = ("--add-runtime", "--default-runtime")


@dataclass(frozen=True, slots=True)
class Wrapped:
    """The runtime behind the gate.

    Attributes:
        name: as `default-runtime` had it.
        program: what the gate hands its calls to.
        arguments: that dockerd gives it besides.
    """

    name: str
    program: str
    arguments: tuple[str, ...] = ()


def parse(text: str, file: str) -> dict[str, Any]:
    """Read a configuration file; an empty one is no configuration.

    Raises:
        Refused: dockerd would not take it either.
    """
    if not text.strip():
        return {}
    try:
        config = json.loads(text)
    except RecursionError:
        raise GateError(f"{file} does not parse: it nests too deep") from None
    except ValueError as error:
        raise GateError(f"{file} does not parse: {error}. Correct it, and run this again") from None
    if not isinstance(config, dict):
        raise GateError(f"{file} is not a JSON object; dockerd would refuse it. Correct it, and run this again")
    if not isinstance(config.get(_RUNTIMES, {}), dict):
        raise GateError(f"{file}: {_RUNTIMES!r} is not a JSON object; dockerd would refuse it")
    if not isinstance(config.get(_DEFAULT, ""), str):
        raise GateError(f"{file}: {_DEFAULT!r} is not a string; dockerd would refuse it")
    return config


def refuse_flags(command: tuple[str, ...], file: str) -> None:
    """Look for what dockerd refuses to find both on its command line and in its file.

    Raises:
        Refused: a runtime is set on the command line.
    """
    for word in command[1:]:
        flag = word.partition("=")[0]
        if flag in _FLAGS:
            raise GateError(
                f"its dockerd is started with {flag}, and takes nothing about runtimes from a file then: take the "
                f"flag off the command line (`systemctl edit docker`), say it in {file}, restart Docker, and run "
                "this again"
            )


def wrapped(config: Mapping[str, Any], file: str) -> Wrapped | None:
    """Return the runtime that the gate has to stand in front of; None where the gate is the default already.

    Raises:
        Refused: it is none that a program can be put in front of.
    """
    name = str(config.get(_DEFAULT) or STOCK)
    if name == RUNTIME:
        return None
    if name in _STOCK_NAMES:
        return Wrapped(STOCK, STOCK)
    entry = config.get(_RUNTIMES, {}).get(name)
    program = entry.get("path") if isinstance(entry, dict) else None
    if not isinstance(program, str) or not program:
        raise GateError(
            f"{file}: the default runtime {name!r} is a shim of containerd's and no program with a `path`: the gate "
            "cannot stand in front of it. Make another one the default"
        )
    arguments = entry.get("runtimeArgs") or ()
    return Wrapped(name, program, tuple(str(argument) for argument in arguments))


def with_gate(config: Mapping[str, Any], script: str, behind: Wrapped | None) -> dict[str, Any]:
    """Return the configuration with the gate as default runtime; `behind` None: what is behind it stays."""
    entry: dict[str, Any] = {"path": script}
    before = config.get(_RUNTIMES, {}).get(RUNTIME)
    if behind is not None and behind.arguments:
        entry["runtimeArgs"] = list(behind.arguments)
    elif behind is None and isinstance(before, dict) and before.get("runtimeArgs"):
        entry["runtimeArgs"] = before["runtimeArgs"]
    return {**config, _RUNTIMES: {**config.get(_RUNTIMES, {}), RUNTIME: entry}, _DEFAULT: RUNTIME}


def without_default(config: Mapping[str, Any], default: str) -> dict[str, Any]:
    """Return the configuration with another default runtime, named outright, and the gate still a runtime.

    A dockerd that reads a file without `default-runtime` keeps the one that it has (Docker 20.10,
    daemon/reload_unix.go): only a name makes it take another.
    """
    return {**config, _DEFAULT: default if config.get(_DEFAULT) == RUNTIME else config.get(_DEFAULT, default)}


def without_runtime(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration without the gate's runtime; the key stays, or dockerd would keep what it knows."""
    return {
        **config,
        _RUNTIMES: {name: entry for name, entry in config.get(_RUNTIMES, {}).items() if name != RUNTIME},
    }


def restored(config: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Take out what only `without_default` and `without_runtime` have put in.

    Args:
        config: as it is now.
        before: as it was without the gate.
    """
    left = dict(config)
    if _DEFAULT not in before and left.get(_DEFAULT) == STOCK:
        del left[_DEFAULT]
    if _RUNTIMES not in before and not left.get(_RUNTIMES):
        left.pop(_RUNTIMES, None)
    return left


def default_of(config: Mapping[str, Any]) -> str:
    """Return the default runtime that a configuration names, else dockerd's own; the gate counts as none."""
    name = str(config.get(_DEFAULT) or STOCK)
    return STOCK if name == RUNTIME else name


def has_gate(config: Mapping[str, Any]) -> bool:
    """Tell whether anything of the gate stands in a configuration."""
    return config.get(_DEFAULT) == RUNTIME or RUNTIME in config.get(_RUNTIMES, {})


def script_of(config: Mapping[str, Any]) -> str | None:
    """Return the path of the gate's script that a configuration names."""
    entry = config.get(_RUNTIMES, {}).get(RUNTIME)
    path = entry.get("path") if isinstance(entry, dict) else None
    return path if isinstance(path, str) else None


def dump(config: Mapping[str, Any], like: str) -> str:
    """Write a configuration, indented as `like` is."""
    indented = re.search(r"^([ \t]+)\S", like, re.MULTILINE)
    indent: str | int | None = indented[1] if indented else (None if like.strip() and "\n" not in like.strip() else 2)
    return json.dumps(config, indent=indent, ensure_ascii=False) + "\n"


def set_variables(text: str, values: Mapping[str, str | None]) -> str:
    """Set or take out variables in a file of a shell's; other lines stay as they are."""
    lines = [line for line in text.splitlines() if line.partition("=")[0].strip() not in values]
    lines += [f"{name}={value}" for name, value in values.items() if value is not None]
    return "".join(f"{line}\n" for line in lines)
