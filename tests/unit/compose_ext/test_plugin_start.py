"""What Docker waits for at each `docker --help`: the plugin's metadata, out of few modules."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
ASKED = """
import sys
before = frozenset(sys.modules)
sys.path.insert(0, sys.argv.pop(1))
from compose_ext.plugin import main
main()
print(*sorted(frozenset(sys.modules) - before))
"""


def test_the_metadata_waits_for_two_modules() -> None:
    argv = [sys.executable, "-IS", "-c", ASKED, str(PROJECT), "docker-cli-plugin-metadata"]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    metadata, _, imported = said.rpartition("}\n")
    assert json.loads(metadata + "}")["SchemaVersion"] == "0.1.0"
    assert imported.split() == ["compose_ext", "compose_ext.plugin"]
