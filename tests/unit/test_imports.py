"""Every module can be the first one that a process imports: none relies on what another one has set up."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Imported once, for speed. mesh's modules only for the other packages: they never import etcd3, which
# mesh.store.etcd_channel has to set up first.
LIBRARIES = ["cryptography.x509", "docker", "grpc", "immutables", "nacl.bindings", "pyroute2", "structlog", "yaml"]
PROGRAM = """
import gc, importlib, os, sys, traceback
gc.disable()  # a child would walk, and so copy, all that it shares
for library in sys.argv[1].split():
    importlib.import_module(library)
failed = []
for name in sys.argv[2:]:
    child = os.fork()
    if not child:
        try:
            importlib.import_module(name)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        failed.append(name)
sys.exit(f"cannot be imported first: {failed}" if failed else 0)
"""


def modules(package: str) -> list[str]:
    paths = [path.relative_to(ROOT).with_suffix("") for path in (ROOT / package).rglob("*.py")]
    return sorted(".".join(path.parts).removesuffix(".__init__") for path in paths if path.name != "__main__")


@pytest.mark.parametrize("package", ["mesh", "controller", "agent", "compose_ext"])
def test_every_module_can_be_imported_first(package: str) -> None:
    names = modules(package)
    assert package in names
    libraries = LIBRARIES if package == "mesh" else [*LIBRARIES, *modules("mesh")]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PROTOCOL_BUFFERS", "GRPC_"))}
    command = [sys.executable, "-c", PROGRAM, " ".join(libraries), *names]
    done = subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("daemon", ["agent", "controller"])
def test_daemon_starts_without_the_command_lines_library(daemon: str) -> None:
    """structlog imports rich where it finds it: a tenth of the start of every agent and controller."""
    command = [sys.executable, "-X", "importtime", "-m", daemon, "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "structlog.tracebacks" in imported
    assert not {name for name in imported if name.partition(".")[0] == "rich"} - {"rich"}
