"""What a shell is offered: by Docker's own completion, which asks the plugin."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from compose_ext.cli import linkwire
from compose_ext.completion import complete
from compose_ext.docker_cli import choose
from tests.unit.compose_ext.compose_files import docker_programs

PROGRAMS = docker_programs()
COMPLETES = (24, 0)
"""The first docker CLI whose completion asks plugins."""
ITSELF = "as docker starts it"
PLUGIN = Path(sys.executable).parent / "docker-linkwire"
NO_FILES, EXTENSIONS, FILES = ":4", ":8", ":0"

SWARM = """\
#!/bin/sh
case "$*" in
  "--host=tcp://far stack ls --format {{.Name}}") echo far ;;
  *"stack ls"*) printf 'shop\\nshelf\\nmail\\n' ;;
  *"node ls"*) printf 'n1\\nn2\\nstore\\n' ;;
  *"service ls"*) echo id1 ;;
  *"service inspect"*) echo '[{"Spec": {"Name": "web", "Labels": {"linkwire.links": "db"}}}]' ;;
  *) exit 1 ;;
esac
"""


@pytest.fixture
def swarm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "docker"
    program.write_text(SWARM)
    program.chmod(0o755)
    monkeypatch.setenv("LINKWIRE_DOCKER", str(program))


def offered(*words: str) -> list[str]:
    return complete(linkwire, "__completeNoDesc", ["linkwire", *words]).splitlines()


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["de"], ["deploy", NO_FILES]),
        (["re"], ["render", "renew", "restore", NO_FILES]),
        (["gate", ""], ["install", "remove", "status", NO_FILES]),
        (["help", "gate", "i"], ["install", NO_FILES]),
        (["deploy", "--pr"], ["--prune", NO_FILES]),
        (["deploy", "--no-"], [NO_FILES]),
        (["deploy", "--h"], ["--help", NO_FILES]),
        (["deploy", "-c", ""], ["yml", "yaml", "json", EXTENSIONS]),
        (["deploy", "--compose-file=s"], ["yml", "yaml", "json", EXTENSIONS]),
        (["check", "--env-file", "x"], [FILES]),
        (["install", "--etcd-ca", ""], [FILES]),
        (["backup", "--recipient", ""], [FILES]),
        (["restore", "--identity", "k"], [FILES]),
        (["restore", "b"], [FILES]),
        (["restore", "--d"], ["--dry-run", NO_FILES]),
        (["install", "--log-level", ""], ["debug", "info", "warning", "error", NO_FILES]),
        (["ps", "--format=j"], ["json", NO_FILES]),
        (["deploy", "--resolve-image", "n"], ["never", NO_FILES]),
        (["version", ""], [NO_FILES]),
        (["nosuch", ""], [NO_FILES]),
        (["gate", "nosuch", ""], [NO_FILES]),
        (["-h", "re"], ["render", "renew", "restore", NO_FILES]),
        (["deploy", "--prune="], ["true", "false", NO_FILES]),
        (["deploy", "-d=f"], ["false", NO_FILES]),
        (["ps", "--tls=t"], ["true", NO_FILES]),
        (["deploy", "-csh"], ["yml", "yaml", "json", EXTENSIONS]),
        (["deploy", "-Dcsh"], ["yml", "yaml", "json", EXTENSIONS]),
        (["deploy", "-Dc", ""], ["yml", "yaml", "json", EXTENSIONS]),
        (["ps", "--tlscacert", ""], [FILES]),
        (["--tlscert", ""], [FILES]),
        (["ps", "--tlskey=a"], [FILES]),
    ],
)
def test_commands_flags_and_files(words: Sequence[str], lines: list[str]) -> None:
    assert offered(*words) == lines


@pytest.mark.usefixtures("swarm")
@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["ps", "sh"], ["shelf", "shop", NO_FILES]),
        (["deploy", "-c", "a.yml", "-d", ""], ["mail", "shelf", "shop", NO_FILES]),
        (["deploy", "shop", ""], [NO_FILES]),
        (["check", "--stack", "m"], ["mail", NO_FILES]),
        (["-H", "tcp://far", "ps", ""], ["far", NO_FILES]),
        (["ps", "--host=tcp://far", ""], ["far", NO_FILES]),
        (["node", "approve", "n"], ["n1", "n2", NO_FILES]),
        (["gate", "install", "n1", "s"], ["store", NO_FILES]),
        (["gate", "install", "n1", ""], ["n2", "store", NO_FILES]),
        (["rotate", ""], ["web:db", NO_FILES]),
        (["rotate", "web:db", ""], [NO_FILES]),
    ],
)
def test_names_in_the_swarm(words: Sequence[str], lines: list[str]) -> None:
    assert offered(*words) == lines


def test_without_a_swarm_there_are_no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINKWIRE_DOCKER", "/nonexistent/docker")
    for words in (["ps", ""], ["node", "approve", ""], ["rotate", ""]):
        assert offered(*words) == [NO_FILES]


def test_plugin_is_not_taken_for_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LINKWIRE_DOCKER", raising=False)
    for caller, program in (("/a/docker-linkwire", "docker"), ("/b/docker", "/b/docker")):
        monkeypatch.setenv("DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND", caller)
        assert choose([]).program == program


def test_descriptions_are_one_line() -> None:
    lines = complete(linkwire, "__complete", ["linkwire", "node", ""]).splitlines()
    assert lines == [
        "ls\tList nodes and whether their keys are proven",
        "approve\tApprove a node's keys",
        "revoke\tTake all links from a node's tasks",
        "encryption\tEncrypt overlay packets between nodes",
        NO_FILES,
    ]


@pytest.mark.parametrize(
    "words", [["deploy", "-c"], ["deploy", "--nonsense", ""], ["nonsense", ""], ["-x"], ["--", ""]]
)
def test_nothing_makes_a_traceback(words: Sequence[str]) -> None:
    assert offered(*words)[-1] in (NO_FILES, EXTENSIONS, FILES)


@pytest.mark.parametrize("program", [ITSELF, *PROGRAMS])
def test_docker_asks_the_plugin(program: str, tmp_path: Path) -> None:
    """With any docker here, and by the call that a newer docker makes, which needs none."""
    plugin = tmp_path / "cli-plugins" / "docker-linkwire"
    plugin.parent.mkdir()
    plugin.symlink_to(PLUGIN)
    on_path = tmp_path / "docker"
    on_path.write_text(SWARM)
    on_path.chmod(0o755)
    environment = os.environ | {"DOCKER_CONFIG": str(tmp_path), "DOCKER_HOST": "unix:///nonexistent.sock"}
    environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
    if program == ITSELF:
        # docker names the plugin itself as the docker that called it.
        environment["DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND"] = str(plugin)

    def ask(*words: str) -> list[str]:
        argv = [str(plugin) if program == ITSELF else program, "__complete", "linkwire", *words]
        shown = subprocess.run(argv, capture_output=True, text=True, check=True, env=environment, timeout=60)
        return shown.stdout.splitlines()

    if program != ITSELF and PROGRAMS[program] < COMPLETES:
        assert ask("dep") == [FILES], "an older docker does not ask, and takes no harm"
        return
    assert ask("dep") == ["deploy\tDeploy a stack, or update it, with its links", NO_FILES]
    assert ask("ps", "--format", "") == ["table", "json", NO_FILES]
    assert ask("deploy", "-c", "") == ["yml", "yaml", "json", EXTENSIONS]
    assert ask("ps", "s") == ["shelf", "shop", NO_FILES]
