"""What Docker waits for at each `docker --help`: the plugin's metadata, out of few modules."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

PLUGIN = Path(sys.executable).parent / "docker-linkwire"
PROJECT = Path(__file__).resolve().parents[3]
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


@pytest.mark.parametrize("words", ["linkwire version", "docker-cli-plugin-metadata"])
def test_output_that_cannot_be_written(words: str) -> None:
    closed = subprocess.run(["sh", "-c", f"'{PLUGIN}' {words} <&- >&-"], capture_output=True, text=True, check=True)
    assert closed.stderr == ""
    with Path("/dev/full").open("w") as full:
        failed = subprocess.run([PLUGIN, *words.split()], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (failed.returncode, failed.stderr) == (
        1,
        "docker linkwire: the output cannot be written: No space left on device\n",
    )


IMPORTED = """
import importlib, pkgutil, sys
import compose_ext
for module in pkgutil.walk_packages(compose_ext.__path__, "compose_ext."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_the_plugins_lock_has_all_imports() -> None:
    """The one file of `make plugin` has what requirements/plugin.txt names, and nothing else."""
    said = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True).stdout
    lock = (PROJECT / "requirements/plugin.txt").read_text()
    locked = {name.lower() for name in re.findall(r"(?m)^([A-Za-z0-9._-]+)==", lock)}
    installed = packages_distributions()
    names = {name.lower().replace("_", "-") for module in said.split() for name in installed.get(module, ())}
    needed = names - {"linkwire", "sniffio"}  # anyio takes sniffio where a test has it
    assert {"click", "cryptography", "pyyaml"} <= needed
    assert needed - locked - {"setuptools"} == set()
