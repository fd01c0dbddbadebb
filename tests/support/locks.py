"""Checks of what is installed: every package by its hash, every base image by its digest."""

from __future__ import annotations

import re
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
LOCKS = PROJECT / "requirements"
DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
INSTALL = re.compile(r"(-m pip|/pip|uv pip)( --python \S+)? (install|download|wheel)\b|\$\(PIP_INSTALL\)")
FIXED = ("--require-hashes", "--no-index", "$locked")
"""By hash, or of what is here already; `$locked` is the Dockerfile's variable with the first of them."""


def packages(lock: str) -> dict[str, str]:
    """Name and version of each package of a lock."""
    pinned = re.findall(r"(?m)^([A-Za-z0-9._-]+)==(\S+)", lock)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pinned}


def unhashed(lock: str) -> list[str]:
    """Entries of a lock that are not one version with at least one SHA-256."""
    joined = re.sub(r"\\\n\s*", " ", lock)
    entries = [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]
    whole = re.compile(r"[A-Za-z0-9._-]+==[\w.+!-]+( ;[^\\]*?)?( +--hash=sha256:[0-9a-f]{64})+\s*")
    return [entry for entry in entries if not whole.fullmatch(entry)]


def floating_bases(dockerfile: str) -> list[str]:
    """Images that a Dockerfile takes from a registry and that have no digest."""
    arguments = {name: value or "" for name, value in re.findall(r"(?m)^ARG (\w+)(?:=(\S+))?", dockerfile)}
    stages = set(re.findall(r"(?mi)^FROM .* AS (\S+)", dockerfile))
    images = [
        re.sub(r"\$\{?(\w+)\}?", lambda found: arguments.get(found[1], ""), image)
        for image in re.findall(r"(?m)^(?:FROM|COPY) (?:--platform=\S+ )?(?:--from=)?(\S+)", _images_only(dockerfile))
    ]
    return [image for image in images if image not in stages | {"scratch"} and not DIGEST.search(image)]


def _images_only(dockerfile: str) -> str:
    return "\n".join(line for line in dockerfile.splitlines() if line.startswith(("FROM ", "COPY --from=")))


def unlocked_installs(script: str) -> list[str]:
    """Commands of a script or Makefile by which pip may get what no lock has."""
    lines = re.sub(r"\\\n\s*", " ", script).splitlines()
    commands = [command for line in lines for command in re.split("&&|;", line) if not line.startswith("#")]
    found = [command for command in commands if INSTALL.search(command) and "PIP_INSTALL :=" not in command]
    return [command.strip() for command in found if not any(word in command for word in FIXED)]
