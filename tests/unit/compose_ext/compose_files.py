"""Compose files for tests: read from texts, and given to the real docker programs that are installed."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from compose_ext.diagnostics import Report
from compose_ext.document.loader import Document, Source, load
from compose_ext.language.schema import read
from compose_ext.language.validation import Links, check

STACK_CONFIG = 23
"""The first docker CLI with `docker stack config`."""


def document(text: str | bytes, file: str = "a.yml", report: Report | None = None) -> Document:
    """Read one file that must be readable."""
    report = report or Report()
    data = text.encode() if isinstance(text, str) else text
    found = load(Source(file, data, rereadable=True), report)
    assert found, report.errors
    return found


def links(*texts: str, environment: Mapping[str, str] | None = None) -> tuple[Links | None, Report]:
    """Read files a.yml, b.yml, ... and check them together."""
    report = Report(files=[f"{chr(ord('a') + number)}.yml" for number in range(len(texts))])
    documents = [document(text, file) for text, file in zip(texts, report.files, strict=True)]
    project = read(documents, environment or {}, report)
    return (check(project, report) if project else None), report


def told(report: Report) -> list[str]:
    """Return all problems as they are printed."""
    return [str(problem) for problem in (*report.warnings, *report.errors)]


def docker_programs() -> dict[str, tuple[int, ...]]:
    """Find the docker programs on PATH, each with its version."""
    found: dict[str, tuple[int, ...]] = {}
    for folder in os.get_exec_path():
        program = Path(folder) / "docker"
        if shutil.which(str(program)) and str(program.resolve()) not in {
            str(Path(known).resolve()) for known in found
        }:
            said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
            version = re.search(r"version ([0-9]+)\.([0-9]+)", said)
            assert version, said
            found[str(program)] = (int(version[1]), int(version[2]))
    return found


def newest_docker() -> str | None:
    """Return a docker program that has `docker stack config`, if there is one."""
    programs = {program: version for program, version in docker_programs().items() if version[0] >= STACK_CONFIG}
    return max(programs, key=lambda program: programs[program], default=None)
