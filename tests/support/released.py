"""The programs of deploy/release: what tests import of them, and how they are run."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from spdx_tools.spdx.model.document import Document
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

from tests.support.locks import PROJECT

FOLDER = PROJECT / "deploy/release"


@cache
def module(name: str) -> Any:  # noqa: ANN401 - deploy/ holds programs, which mypy does not see
    """A module of deploy/release, which is no package."""
    spec = importlib.util.spec_from_file_location(f"linkwire_release_{name}", FOLDER / f"{name}.py")
    if spec is None or spec.loader is None:
        raise ImportError(name)
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded  # a dataclass looks itself up
    sys.path.insert(0, str(FOLDER))  # as for a program: make.py imports the others
    try:
        spec.loader.exec_module(loaded)
    finally:
        sys.path.remove(str(FOLDER))
    return loaded


def program(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program of deploy/release."""
    argv = [str(FOLDER / name), *map(str, arguments)]
    if name.endswith(".py"):
        argv.insert(0, sys.executable)
    return subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def read_spdx(written: bytes, folder: Path) -> tuple[Document, list[str]]:
    """A document as spdx-tools reads it, and what it finds wrong."""
    path = folder / "document.spdx.json"
    path.write_bytes(written)
    document = parse_file(str(path))
    return document, [message.validation_message for message in validate_full_spdx_document(document, "SPDX-2.3")]
