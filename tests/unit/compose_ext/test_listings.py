"""Lists of a Swarm in which something ends between Docker's list and its description."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from compose_ext.diagnostics import DockerError
from compose_ext.docker_cli import Docker
from compose_ext.swarm import listings

# Lists gone1, a1 and gone2; describes a1, and then fails for the others with what Docker says, as Docker does.
DOCKER = """#!{python}
import sys
if "--quiet" in sys.argv:
    print("gone1 a1 gone2")
else:
    print({described!r})
    sys.exit({said!r})
"""
LONG = [{"ID": "a1", "Spec": "x" * 100_000}]


def docker(folder: Path, said: str, described: str = json.dumps(LONG)) -> Docker:
    program = folder / "docker"
    program.write_text(DOCKER.format(python=sys.executable, described=described, said=said))
    program.chmod(0o755)
    return Docker(str(program))


@pytest.mark.parametrize(
    "said",
    [
        "Error response from daemon: task gone1 not found\nError response from daemon: task gone2 not found",
        "Error: no such service: gone1\nError: no such service: gone2",
        "Error: No such object: gone1",
    ],
)
def test_what_ends_meanwhile_hides_nothing_else(tmp_path: Path, said: str) -> None:
    ask = docker(tmp_path, said)
    assert listings.tasks(ask, "web") == listings.services(ask) == listings.nodes(ask) == LONG


@pytest.mark.parametrize(
    "said",
    [
        "Error response from daemon: rpc error: code = Unknown desc = The swarm does not have a leader",
        "Error response from daemon: task gone1 not found\nCannot connect to the Docker daemon",
        "",
    ],
)
def test_any_other_failure_is_an_error(tmp_path: Path, said: str) -> None:
    with pytest.raises(DockerError):
        listings.tasks(docker(tmp_path, said, "[" if not said else "[]"), "web")
