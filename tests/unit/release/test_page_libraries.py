"""The JavaScript that others wrote: committed as npm gave it by the lock's hashes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[3]
SUMS = PROJECT / "deploy/ui/SHA256SUMS"
LOCK = PROJECT / "deploy/ui/package-lock.json"
FOLDERS = ("compose_ext/ui/static/vendor", "tests/ui/vendor")


def test_each_file_is_as_it_was_vendored() -> None:
    listed = {path: digest for digest, path in (line.split() for line in SUMS.read_text().splitlines())}
    found = {
        str(path.relative_to(PROJECT)): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in FOLDERS
        for path in (PROJECT / folder).iterdir()
    }
    assert found == listed


def test_the_files_are_of_the_locks_versions() -> None:
    packages = json.loads(LOCK.read_text())["packages"]
    cytoscape, axe = (packages[f"node_modules/{name}"]["version"] for name in ("cytoscape", "axe-core"))
    assert f'version="{cytoscape}"' in (PROJECT / FOLDERS[0] / "cytoscape.min.js").read_text()
    assert (PROJECT / FOLDERS[1] / "axe.min.js").read_text().startswith(f"/*! axe v{axe}")
    assert all("integrity" in package for name, package in packages.items() if name)
    assert "resolved" not in LOCK.read_text()  # npm asks the registry that its user has configured
