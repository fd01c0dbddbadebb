"""Lists of a Swarm in which something ends between Docker's list and its description."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from compose_ext.diagnostics import DockerError
from compose_ext.docker_cli import Docker
from compose_ext.swarm import queries

# Lists a1 and gone1, then a1 and gone2, ...; describes a1, and fails for all where one is gone, as Docker does. What
# is gone stays listed as often as FILE says.
DOCKER = """#!{python}
import pathlib, sys
left, words = pathlib.Path({file!r}), sys.argv[1:]
if "--quiet" in words:
    number = int(left.read_text())
    left.write_text(str(number - 1))
    print("a1" + (f" gone{{number}}" if number > 0 else ""))
elif gone := [word for word in words if word.startswith("gone")]:
    print('[{{"ID": "a1"}}]')
    sys.exit(f"Error: no such object: {{gone[0]}}")
else:
    print('[{{"ID": "a1"}}]')
"""


def docker(folder: Path, times: int) -> Docker:
    (folder / "left").write_text(str(times))
    program = folder / "docker"
    program.write_text(DOCKER.format(python=sys.executable, file=str(folder / "left")))
    program.chmod(0o755)
    return Docker(str(program))


@pytest.mark.parametrize("times", [0, 1, 2])
def test_what_ends_meanwhile_hides_nothing_else(tmp_path: Path, times: int) -> None:
    assert queries.tasks(docker(tmp_path, times), "web") == [{"ID": "a1"}]
    assert queries.services(docker(tmp_path, times)) == [{"ID": "a1"}]
    assert queries.nodes(docker(tmp_path, times)) == [{"ID": "a1"}]


def test_list_that_never_holds_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DockerError, match="no such object: gone"):
        queries.tasks(docker(tmp_path, 9), "web")
