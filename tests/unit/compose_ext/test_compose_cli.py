"""The plugin under every docker program that is installed: what it is told, what it hands on, how it ends.

No engine is needed. Where `deploy` has to succeed, a few lines of shell put `docker stack config` in its place: it
reads the same files, the same way, by the same code.
"""

import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.patience import slowness
from tests.unit.compose_ext.compose_files import docker_programs, newest_docker
from tests.unit.compose_ext.test_compose_ps import answer as ps_answer

PLUGIN = Path(sys.executable).parent / "docker-linkwire"
PROGRAMS = docker_programs()
NOWHERE = "unix:///nonexistent.sock"
GOOD = 'version: "3.8"\nx-wireguard: {}\nservices: {web: {image: web, links: [db]}, db: {image: database}}\n'
LINKED = {"linkwire.links": "STACK_db:db", "linkwire.allow": ""}
"""Labels of the `web` of GOOD, in the stack STACK."""
PLAIN = 'version: "3.8"\nservices: {web: {image: web, links: [db]}, db: {image: database}}\n'
BAD = "x-wireguard: {}\nservices: {web: {image: web, links: [dbb]}, db: {image: database}}\n"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Docker's settings in a folder of our own, with the plugin, and no engine."""
    plugins = tmp_path / "config" / "cli-plugins"
    plugins.mkdir(parents=True)
    assert PLUGIN.exists(), "the project is not installed in this environment: pip install -e ."
    (plugins / "docker-linkwire").symlink_to(PLUGIN)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DOCKER_", "LINKWIRE_"))}
    return kept | {"DOCKER_CONFIG": str(plugins.parent), "DOCKER_HOST": NOWHERE, "TMPDIR": str(tmp_path)}


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(environment: dict[str, str], tmp_path: Path) -> Run:
    def start(*words: str | Path, stdin: str | None = None, **more: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            list(map(str, words)),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            env=environment | more,
            cwd=tmp_path,
            timeout=60,
        )

    return start


@pytest.fixture(params=PROGRAMS or ["none"], ids=lambda program: f"docker-{PROGRAMS.get(program, [0])[0]}")
def docker(request: pytest.FixtureRequest) -> str:
    program = request.param
    if program == "none":
        pytest.skip("NO DOCKER CLI HERE: nothing was tried under one")
    assert isinstance(program, str)
    return program


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name, text in (("good.yml", GOOD), ("plain.yml", PLAIN), ("bad.yml", BAD)):
        (tmp_path / name).write_text(text)
    return tmp_path


STAND_IN = """\
#!/bin/sh
# docker, except that `stack deploy` only shows what would be deployed
case "$*" in
  *"stack deploy --help") exec "$REAL" stack deploy --help ;;
  *"stack deploy"*) printf '%s\\n' "$@" > "$RECORD" ;;
esac
ls -l "$TMPDIR"/linkwire-*/ >> "$RECORD.files" 2>/dev/null
for word in "$@"; do
  shift
  case "$word" in
    deploy) set -- "$@" config ;;
    --prune=*|--with-registry-auth=*|--resolve-image=*|--detach=*|--quiet=*|STACK) ;;
    *) set -- "$@" "$word" ;;
  esac
done
exec "$REAL" "$@"
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> dict[str, str]:
    """Return what the environment needs for `deploy` to be answered by the newest docker's `stack config`."""
    real = newest_docker()
    if real is None:
        pytest.skip(f"NO DOCKER CLI >= 23 HERE (only {PROGRAMS}): what deploy hands on was not looked at")
    program = tmp_path / "stand-in"
    program.write_text(STAND_IN)
    program.chmod(0o755)
    return {"LINKWIRE_DOCKER": str(program), "REAL": real, "RECORD": str(tmp_path / "record")}


# --- as Docker sees the plugin


def test_docker_lists_the_plugin(docker: str, run: Run) -> None:
    shown = run(docker, "--help")
    assert "linkwire*" in shown.stdout
    assert "WireGuard between the services that a compose file links" in shown.stdout


def test_metadata(run: Run) -> None:
    shown = run(PLUGIN, "docker-cli-plugin-metadata")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert json.loads(shown.stdout) == {
        "SchemaVersion": "0.1.0",
        "Vendor": "Linkwire",
        "Version": importlib.metadata.version("linkwire"),
        "ShortDescription": "WireGuard between the services that a compose file links",
    }


def test_metadata_loads_nothing_it_does_not_need(run: Run) -> None:
    shown = run(
        sys.executable,
        "-X",
        "importtime",
        "-c",
        "from compose_ext.plugin import main; main()",
        "docker-cli-plugin-metadata",
    )
    loaded = {line.rpartition("|")[2].strip() for line in shown.stderr.splitlines()}
    ours = {name for name in loaded if name.partition(".")[0] in ("compose_ext", "mesh")}
    assert ours == {"compose_ext", "compose_ext.plugin"}
    assert not loaded & {"yaml", "nacl", "docker", "subprocess", "dataclasses", "json", "importlib.metadata"}


@pytest.mark.parametrize(
    "words", [["linkwire", "--help"], ["help", "linkwire"], ["linkwire", "help"], ["linkwire", "-h"]]
)
def test_help(docker: str, run: Run, words: list[str]) -> None:
    shown = run(docker, *words)
    assert shown.stdout.startswith("Usage:  docker linkwire COMMAND\n")
    assert shown.returncode == 0


@pytest.mark.parametrize(
    "words", [["linkwire", "deploy", "--help"], ["help", "linkwire", "deploy"], ["linkwire", "help", "deploy"]]
)
def test_help_on_a_command(docker: str, run: Run, words: list[str]) -> None:
    shown = run(docker, *words)
    assert shown.stdout.startswith("Usage:  docker linkwire deploy -c FILE [OPTIONS] STACK\n")
    assert shown.returncode == 0


def test_no_command_is_help_and_a_failure(docker: str, run: Run) -> None:
    shown = run(docker, "linkwire")
    assert (shown.returncode, shown.stdout[:22]) == (2, "Usage:  docker linkwir")


def test_version(docker: str, run: Run) -> None:
    shown = run(docker, "linkwire", "version")
    assert (shown.returncode, shown.stdout) == (0, f"Linkwire {importlib.metadata.version('linkwire')}\n")


def ok(docker: str) -> str:
    """How `check` begins when nothing is wrong: Docker itself is asked from CLI 25 on."""
    return "ok" if PROGRAMS[docker] >= (25, 0) else "ok as far as links go (docker CLI 25 and later say more)"


@pytest.mark.usefixtures("files")
def test_check(docker: str, run: Run) -> None:
    shown = run(docker, "linkwire", "check", "-c", "good.yml")
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, f"{ok(docker)}: 1 link between 2 services\n", "")
    shown = run(docker, "linkwire", "check", "-c", "plain.yml")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout == (
        "plain.yml:2:30: warning: service 'web': links: Docker ignores these, and without x-wireguard so does "
        "Linkwire: for links by WireGuard write `x-wireguard: {}` at the top of plain.yml\n"
        f"{ok(docker)}: no x-wireguard in these files; docker linkwire deploys them unchanged\n"
    )
    shown = run(docker, "linkwire", "check", "-c", "bad.yml")
    assert (shown.returncode, shown.stderr, shown.stdout) == (
        2,
        "",
        "bad.yml:2:38: service 'web': links: no service 'dbb' in these files; did you mean 'db'?\n1 error\n",
    )


def test_the_module_is_the_same_program(run: Run, files: Path) -> None:
    shown = run(sys.executable, "-m", "compose_ext", "-H", NOWHERE, "check", "-c", str(files / "good.yml"))
    assert shown.returncode == 0
    assert shown.stdout.startswith("ok")
    assert shown.stdout.endswith(": 1 link between 2 services\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["chekc"],
            "there is no command 'chekc'; did you mean 'check'?",
        ),
        (["up"], "there is no command 'up'; a stack is deployed by `docker linkwire deploy -c FILE STACK`"),
        (["down", "shop"], "there is no command 'down'; a stack is removed by `docker stack rm STACK`"),
        (["deploy", "-f", "good.yml", "shop"], "unknown flag: -f; a compose file is named with -c"),
        (["ps", "-f", "shop"], "unknown flag: -f\n"),
        (
            ["zebra"],
            "there is no command 'zebra'; there are: check, render, deploy, status, ps, install, upgrade, renew, ",
        ),
        (["render", "shop"], "which compose files? name them with -c FILE, or -c - for standard input"),
        (["check", "-c", ""], "which compose files? name them with -c FILE, or -c - for standard input"),
        (["check", "-c", '"a'], "a quote in the value of --compose-file is never closed"),
        (["check", "-c", "-", "-c", "-"], "standard input (-c -) can be read only once"),
        (
            ["check", "-c", "good.yml", "stack"],
            "wrong number of arguments; it goes: docker linkwire check [-c FILE] [OPTIONS]",
        ),
        (
            ["deploy", "-c", "good.yml"],
            "wrong number of arguments; it goes: docker linkwire deploy -c FILE [OPTIONS] STACK",
        ),
        (["deploy", "-c", "good.yml", "--prnue", "s"], "unknown flag: --prnue; did you mean --prune?"),
        (
            ["deploy", "-c", "good.yml", "a stack"],
            "'a stack' cannot name a stack: a name is made of letters, digits, ",
        ),
        (["render", "-c", "good.yml", ""], "'' cannot name a stack: a name is missing"),
        (["gate", "instal"], "there is no command 'instal'; did you mean 'install'?"),
        (["gate", "install", "--wait", "1h"], "--wait takes seconds from 1 to 86400"),
        (["gate", "remove", "--ready-wait", "5"], "unknown flag: --ready-wait"),
        (["ps", "--format", "yaml"], "--format is table or json, not 'yaml'"),
        (["ps", "a/b"], "'a/b' cannot name a stack: a name is made of letters, digits, "),
        (["-c", "good.yml", "check"], "unknown flag: -c"),
    ],
)
def test_bad_usage(docker: str, run: Run, files: Path, words: list[str], message: str) -> None:
    assert files
    shown = run(docker, "linkwire", *words)
    assert shown.returncode == 2
    assert shown.stderr.startswith(f"docker linkwire: {message}")
    assert shown.stderr.endswith("See 'docker linkwire --help'.\n")
    assert shown.stdout == ""


def test_several_files_and_standard_input(docker: str, run: Run, files: Path) -> None:
    (files / "more,or less.yml").write_text('version: "3.8"\nservices: {db: {links: [cache]}}\n')
    cache = 'version: "3.8"\nservices: {cache: {image: cache}}\n'
    shown = run(docker, "linkwire", "check", "-c", 'good.yml,"more,or less.yml"', "--compose-file=-", stdin=cache)
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, f"{ok(docker)}: 2 links between 3 services\n", "")
    shown = run(docker, "linkwire", "check", "-c", "-", stdin=BAD)
    assert shown.stdout.startswith("<stdin>:2:38: service 'web': ")


def test_all_unreadable_files_are_told(docker: str, run: Run, files: Path) -> None:
    shown = run(docker, "linkwire", "check", "-c", "no.yml", "-c", "good.yml", "-c", ".", "-c", "-", stdin="a: [\n")
    assert shown.returncode == 2
    assert shown.stdout.splitlines() == [
        "no.yml: there is no such file",
        ".: this is a directory, not a file",
        "<stdin>:2:1: this is not YAML: while parsing a flow node, did not find expected node content",
        "3 errors",
    ]
    assert files


def test_render(docker: str, run: Run, files: Path) -> None:
    shown = run(docker, "linkwire", "render", "-c", "good.yml", "shop")
    assert shown.returncode == 0
    override = yaml.safe_load(shown.stdout)
    assert override["services"]["web"]["deploy"]["labels"] == {"linkwire.links": "shop_db:db", "linkwire.allow": ""}
    shown = run(docker, "linkwire", "render", "-c", "plain.yml", "shop")
    assert shown.returncode == 0
    assert yaml.safe_load(shown.stdout) == {"version": "3.8", "services": {}}
    assert run(docker, "linkwire", "render", "-c", "bad.yml", "shop").returncode == 2
    assert files


def test_a_reader_that_has_seen_enough(run: Run, files: Path) -> None:
    services = "".join(f"  s{number}: {{links: [s{number}]}}\n" for number in range(3000))
    (files / "many.yml").write_text(f"x-wireguard: {{}}\nservices:\n{services}")
    shown = run("sh", "-c", f"{PLUGIN} linkwire render -c many.yml s | head -1")
    assert (shown.returncode, shown.stdout[:16], shown.stderr) == (0, "# Give this to `", "")


def test_a_name_the_terminal_cannot_show(run: Run, files: Path) -> None:
    shown = run(PLUGIN, "linkwire", "check", "-c", os.fsdecode(b"caf\xe9.yml"), PYTHONIOENCODING="ascii")
    assert (shown.returncode, shown.stdout) == (2, "caf\\udce9.yml: there is no such file\n1 error\n")
    assert files


def test_many_problems_are_told_shortly(run: Run, files: Path) -> None:
    names = ", ".join(f"no{number}" for number in range(5000))
    (files / "a.yml").write_text(f"x-wireguard: {{}}\nservices: {{a: {{links: [{names}]}}}}")
    lines = run(PLUGIN, "linkwire", "check", "-c", "a.yml").stdout.splitlines()
    assert len(lines) == 102
    assert lines[-2:] == ["... and 4900 more", "5000 errors"]


# --- deploy


def deployed(shown: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    assert shown.returncode == 0, shown.stderr
    merged = yaml.safe_load(shown.stdout)
    assert isinstance(merged, dict)
    return merged


def record(tmp_path: Path) -> list[str]:
    return (tmp_path / "record").read_text().splitlines()


def left_behind(tmp_path: Path) -> list[Path]:
    return list(tmp_path.glob("linkwire-*"))


def test_deploy_hands_on_files_and_flags(docker: str, run: Run, files: Path, stand_in: dict[str, str]) -> None:
    shown = run(
        docker, "-D", "--host", NOWHERE, "--tls=false", "linkwire", "deploy", "-c", "good.yml", "--prune",
        "--with-registry-auth", "--resolve-image", "never", "-d", "STACK", **stand_in,
    )  # fmt: skip
    services = deployed(shown)["services"]
    assert services["web"]["deploy"]["labels"] == LINKED
    assert "networks" not in services["db"]
    assert record(files) == [
        "--debug=true",
        f"--host={NOWHERE}",
        "--tls=false",
        "stack",
        "deploy",
        "--compose-file=-",
        f"--compose-file={files}/good.yml",
        "--prune=true",
        "--with-registry-auth=true",
        "--resolve-image=never",
        "--detach=true",
        "STACK",
    ]
    assert left_behind(files) == []


def test_files_without_the_extension_are_deployed_unchanged(
    docker: str, run: Run, files: Path, stand_in: dict[str, str]
) -> None:
    shown = run(docker, "linkwire", "deploy", "-c", "plain.yml", "STACK", **stand_in)
    assert "networks" not in deployed(shown)
    assert record(files) == ["stack", "deploy", "--compose-file=plain.yml", "STACK"]
    assert "linkwire: no x-wireguard in these files: deploying them unchanged" in shown.stderr.splitlines()


def test_standard_input_is_handed_on(docker: str, run: Run, files: Path, stand_in: dict[str, str]) -> None:
    first = 'version: "3.8"\nservices: {db: {image: first}}\n'
    (files / "first.yml").write_text(first)
    for order, image in ((("first.yml", "-"), "database"), (("-", "first.yml"), "first")):
        named = [word for name in order for word in ("-c", name)]
        services = deployed(run(docker, "linkwire", "deploy", "-d", *named, "STACK", stdin=GOOD, **stand_in))[
            "services"
        ]
        assert services["web"]["deploy"]["labels"] == LINKED
        assert services["db"]["image"] == image
        override, *named = [word.removeprefix("--compose-file=") for word in record(files) if "-file=" in word]
        assert override == "-"
        assert [name.rpartition("/")[2] for name in named] == [
            "first.yml" if name == "first.yml" else f"{number}.yml" for number, name in enumerate(order)
        ]
        assert left_behind(files) == []


def test_large_standard_input_is_handed_on(run: Run, stand_in: dict[str, str]) -> None:
    padding = "# " + "x" * 200_000 + "\n"
    services = deployed(run(PLUGIN, "linkwire", "deploy", "-dc", "-", "STACK", stdin=padding + GOOD, **stand_in))[
        "services"
    ]
    assert list(services) == ["db", "web"]


def test_a_pipe_is_handed_on(run: Run, files: Path, stand_in: dict[str, str]) -> None:
    shown = run("bash", "-c", f"{PLUGIN} linkwire deploy -d -c <(cat good.yml) STACK", **stand_in)
    assert deployed(shown)["services"]["web"]["deploy"]["labels"] == {
        "linkwire.links": "STACK_db:db",
        "linkwire.allow": "",
    }
    assert left_behind(files) == []


def test_long_depends_on_is_kept_and_passed_short(
    docker: str, run: Run, files: Path, stand_in: dict[str, str]
) -> None:
    long = GOOD.replace("links: [db]", "links: [db], depends_on: {db: {condition: service_healthy}}")
    assert long != GOOD
    (files / "long.yml").write_text(long)
    web = deployed(run(docker, "linkwire", "deploy", "-dc", "long.yml", "STACK", **stand_in))["services"]["web"]
    assert web["labels"] == {"linkwire.gate": "auto", "linkwire.gate.ready": "STACK_db"}
    assert web["depends_on"] == ["db"]
    assert left_behind(files) == []


def test_file_names_with_commas_and_quotes_pass(run: Run, files: Path, stand_in: dict[str, str]) -> None:
    name = 'a,"b".yml'
    (files / name).write_text(GOOD)
    quoted = '"a,""b"".yml"'
    assert deployed(run(PLUGIN, "linkwire", "deploy", "-dc", quoted, "STACK", **stand_in))["services"]["web"][
        "deploy"
    ]
    assert f'--compose-file="{files}/a,""b"".yml"' in record(files)


def test_bad_files_are_not_deployed(docker: str, run: Run, files: Path, stand_in: dict[str, str]) -> None:
    shown = run(docker, "linkwire", "deploy", "-c", "bad.yml", "STACK", **stand_in)
    assert shown.returncode == 2
    assert shown.stderr.endswith("1 error; nothing was deployed\n")
    assert not (files / "record").exists()


def test_a_failing_docker_is_another_exit_code(docker: str, run: Run, files: Path) -> None:
    for name in ("good.yml", "plain.yml"):
        shown = run(docker, "linkwire", "deploy", "-c", name, "shop")
        assert shown.returncode == 1
        assert "nonexistent.sock" in shown.stderr  # Docker's own words
    assert left_behind(files) == []


@pytest.mark.parametrize("version", ["3.4", "3.6", "3.7", "3.9"])
def test_every_docker_takes_the_override(docker: str, run: Run, files: Path, version: str) -> None:
    """Docker reads and checks all files before it looks for an engine."""
    (files / "old.yml").write_text(GOOD.replace("3.8", version))
    shown = run(docker, "linkwire", "deploy", "-c", "old.yml", "shop")
    assert shown.returncode == 1
    assert "nonexistent.sock" in shown.stderr
    (files / "worse.yml").write_text(GOOD.replace("3.8", version) + "volumes: 7\n")
    shown = run(docker, "linkwire", "deploy", "-c", "worse.yml", "shop")
    assert "volumes must be a mapping" in shown.stderr


def test_docker_runs_itself_again(docker: str, run: Run, files: Path) -> None:
    """Under `/usr/bin/docker` the deployment is `/usr/bin/docker`'s, whatever comes first on PATH."""
    (files / "three.yml").write_text(GOOD.replace('"3.8"', '"3"'))
    path = f"/nonexistent:{Path(sys.executable).parent}"
    shown = run(docker, "linkwire", "deploy", "-c", "three.yml", "shop", PATH=path)
    assert shown.returncode == 1
    # Only programs of before CLI 23 mean version 3.0 by "3", which has no x-*.
    words = "Additional property x-wireguard is not allowed" if PROGRAMS[docker] < (23, 0) else "nonexistent.sock"
    assert words in shown.stderr


def test_no_docker_at_all(run: Run, files: Path) -> None:
    shown = run(PLUGIN, "linkwire", "deploy", "-c", "good.yml", "s", LINKWIRE_DOCKER="/nonexistent/docker")
    assert shown.returncode == 1
    assert shown.stderr.splitlines()[-1] == (
        "docker linkwire: cannot run '/nonexistent/docker' (No such file or directory); "
        "LINKWIRE_DOCKER in the environment names the docker program"
    )
    assert left_behind(files) == []


WAITING = """\
#!/bin/sh
# docker, of a Swarm with Linkwire, whose deployment takes long
case "$*" in
  *"stack deploy --help") ;;
  *"stack deploy"*) echo $$ > "$RECORD"; exec sleep 600 ;;
  *"service ls"*) printf 'linkwire_agent\\nlinkwire_controller\\n' ;;
esac
"""


DEPLOYED = """\
#!/bin/sh
# docker, of a Swarm with Linkwire, which has deployed the stack and then is slow to say how it is
case "$*" in
  *"stack deploy"*) ;;
  *"service inspect s_"*) echo $$ > "$RECORD"; exec sleep 600 ;;
  *"service ls"*) printf 'linkwire_agent\\nlinkwire_controller\\n' ;;
esac
"""


@contextmanager
def waiting_deploy(
    environment: dict[str, str], files: Path, script: str = WAITING, **more: str
) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a deployment that does not end: its docker reads a pipe that nobody writes to."""
    program = files / "slow"
    program.write_text(script)
    program.chmod(0o755)
    process = subprocess.Popen(
        [PLUGIN, "linkwire", "deploy", "-c", "good.yml", "s"],
        env=environment | {"LINKWIRE_DOCKER": str(program), "RECORD": str(files / "record")} | more,
        cwd=files,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 20
        while not ((files / "record").exists() and (files / "record").read_text().strip()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its docker too, should it have been left
        process.communicate()


@pytest.mark.parametrize(("number", "to_all"), [(signal.SIGTERM, False), (signal.SIGINT, True)])
def test_a_signal_leaves_nothing_behind(
    environment: dict[str, str], files: Path, number: signal.Signals, to_all: bool
) -> None:
    with waiting_deploy(environment, files) as process:
        child = int((files / "record").read_text())
        assert len(left_behind(files)) == 1
        if to_all:
            os.killpg(process.pid, number)  # as a terminal does
        else:
            process.send_signal(number)
        assert process.wait(timeout=20) == 128 + number
        assert process.stderr
        assert b"Traceback" not in process.stderr.read()
        assert left_behind(files) == []
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)


ONLY_WAITING = (
    "linkwire: s is deployed, only the waiting has ended: its links are wired all the same. To see them: "
    "docker linkwire ps s. To wait again, deploy again"
)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("script", "last"),
    [
        (WAITING, "linkwire: Docker may have deployed a part of s; deploy again to complete it"),
        (DEPLOYED, ONLY_WAITING),
    ],
    ids=["deploying", "waiting"],
)
def test_interrupted_deploy_says_what_stays(
    environment: dict[str, str], files: Path, number: signal.Signals, script: str, last: str
) -> None:
    with waiting_deploy(environment, files, script) as process:
        os.killpg(process.pid, number)
        assert process.wait(timeout=20) == 128 + number
        assert process.stderr
        assert process.stderr.read().decode().splitlines()[-1] == last


INTERRUPTED = """
import os, signal, subprocess, sys
from compose_ext import docker_cli

class Interrupted(subprocess.Popen):
    def __init__(self, *words, **more):
        super().__init__(*words, **more)
        print(self.pid, flush=True)
        os.kill(os.getpid(), signal.SIGINT)

subprocess.Popen = Interrupted
docker_cli.Docker("sleep").run(["600"])
"""


def test_signal_during_docker_start_leaves_nothing(run: Run) -> None:
    shown = run(sys.executable, "-c", INTERRUPTED)
    assert "KeyboardInterrupt" in shown.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(shown.stdout), 0)


# --- asking Docker

CONTAINER = "0123abcd" * 8
AGENT = """\
#!/bin/sh
# docker, on an endpoint where an agent runs
printf '%s\\n' "$*" >> "$RECORD"
case "$*" in
  *"service ps"*) printf "$CONTAINERS" ;;
  *"inspect --type task"*) printf '%s' "$TASK" ;;
  *exec*) cat "$ANSWER"; exit "${CODE:-0}" ;;
  *"service ls --quiet"*) [ -z "$WORKER" ] || { echo "not a manager" >&2; exit 1; }; printf "id1\\nid2\\n" ;;
  *"service inspect"*) printf '%s' "$SERVICES" ;;
  *"service ls"*) printf 'other_mail\\nshop_db\\n' ;;
  *SystemTime*) echo "2026-11-29T22:07:56.123456789+01:00" ;;
esac
"""


@pytest.fixture
def agent(tmp_path: Path) -> dict[str, str]:
    program = tmp_path / "agent"
    program.write_text(AGENT)
    program.chmod(0o755)
    (tmp_path / "answer").write_text(json.dumps({"version": 1, "links": [], "problems": ["a problem"]}))
    return {
        "LINKWIRE_DOCKER": str(program),
        "CONTAINERS": "agenttask\\n",
        "TASK": json.dumps([{"Status": {"State": "running", "ContainerStatus": {"ContainerID": CONTAINER}}}]),
        "ANSWER": str(tmp_path / "answer"),
        "RECORD": str(tmp_path / "record"),
    }


def test_ps(run: Run, tmp_path: Path, agent: dict[str, str]) -> None:
    shown = run(PLUGIN, "-H", NOWHERE, "linkwire", "ps", "shop", **agent)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.splitlines()[-1] == "  a problem"
    assert [line for line in record(tmp_path) if " node " not in line][:3] == [
        f"--host={NOWHERE} service ps --quiet --no-trunc --filter node=self linkwire_agent",
        f"--host={NOWHERE} inspect --type task agenttask",
        f'--host={NOWHERE} exec {CONTAINER} linkwire-ask links {{"stack": "shop", "columns": true, "totals": true}}',
    ]


def test_ps_is_narrow_on_a_terminal_alone(run: Run, tmp_path: Path, agent: dict[str, str]) -> None:
    (tmp_path / "answer").write_text(json.dumps(ps_answer()))
    ask = f"{PLUGIN} linkwire ps --pairs"

    def shown(command: str) -> list[str]:
        on_terminal = ["script", "-qec", f"stty cols 120; {command}", "/dev/null"]
        lines = re.sub(r"\x1b\[[0-9;]*m", "", run(*on_terminal, **agent, TERM="xterm").stdout).splitlines()
        return [line.rstrip() for line in lines]

    piped = run(PLUGIN, "linkwire", "ps", "--pairs", **agent).stdout.splitlines()
    assert "shop_web.1.k3v9x1a7b2c4d5e6f7g8h9i0j" in piped[1]
    assert shown(f"{ask} --no-trunc") == piped
    header, first = shown(ask)
    assert header.startswith("LINK                      CONSUMER  PROVIDER  STATE")
    assert max(len(header), len(first)) <= 120


def test_ps_as_json(run: Run, agent: dict[str, str]) -> None:
    shown = run(PLUGIN, "linkwire", "ps", "--format=json", **agent)
    assert json.loads(shown.stdout) == {"version": 1, "links": [], "problems": ["a problem"]}


def test_ps_names_a_near_stack(run: Run, tmp_path: Path, agent: dict[str, str]) -> None:
    (tmp_path / "answer").write_text('{"version": 1, "links": [], "problems": [], "stacks": ["blog", "shop"]}')
    shown = run(PLUGIN, "linkwire", "ps", "shpo", **agent)
    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr == "docker linkwire: this Swarm has no stack 'shpo'; did you mean 'shop'?\n"
    shown = run(PLUGIN, "linkwire", "ps", "blog", **agent)
    assert (shown.returncode, shown.stderr) == (0, ""), "it is there, and nobody links to it"


def test_check_of_an_absent_stack_fails(run: Run, tmp_path: Path, agent: dict[str, str]) -> None:
    (tmp_path / "answer").write_text('{"version": 1, "links": [], "problems": [], "stacks": ["blog", "shop"]}')
    shown = run(PLUGIN, "linkwire", "check", "--stack", "other", **agent, SERVICES="[]")
    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr == "docker linkwire: this Swarm has no stack 'other'; there are: blog, shop\n"
    shown = run(PLUGIN, "linkwire", "check", "--stack", "blog", **agent, SERVICES="[]")
    assert (shown.returncode, shown.stderr) == (0, ""), "it is there, and nobody links to it"


def test_ps_without_an_agent(run: Run, agent: dict[str, str]) -> None:
    shown = run(PLUGIN, "linkwire", "ps", **agent | {"CONTAINERS": ""})
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr.startswith("docker linkwire: no Linkwire agent runs on this Docker endpoint.")


def test_ps_with_a_failing_agent(run: Run, agent: dict[str, str]) -> None:
    shown = run(PLUGIN, "linkwire", "ps", **agent, CODE="3")
    assert (shown.returncode, shown.stderr) == (1, "docker linkwire: docker failed with exit code 3\n")


def test_ps_with_an_older_agent(run: Run, tmp_path: Path, agent: dict[str, str]) -> None:
    said = 'OCI runtime exec failed: exec failed: exec: "linkwire-ask": executable file not found in $PATH: unknown\n'
    (tmp_path / "answer").write_text(said)  # as Docker 20.10 and 27 hand it on: the program's output
    shown = run(PLUGIN, "linkwire", "ps", **agent, CODE="126")
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr.startswith("docker linkwire: the agent on this Docker endpoint is older than this program")


def test_ps_without_an_engine(docker: str, run: Run) -> None:
    shown = run(docker, "linkwire", "ps")
    assert shown.returncode == 1
    assert shown.stderr.startswith("docker linkwire: ")
    assert "nonexistent.sock" in shown.stderr


SERVICES = [
    {"Spec": {"Name": "shop_web", "Labels": {"linkwire.links": "shop db", "com.docker.stack.image": "x"}}},
    {"Spec": {"Name": "mail", "Labels": None}},
    {"Spec": {"Name": "mail_mx", "Labels": {"linkwire.liks": "x"}}},
]
WEB_PROBLEM = (
    "service shop_web: label 'linkwire.links': 'shop db': "
    "a name is made of letters, digits, '-' and '_', and begins and ends with a letter or digit"
)
MAIL_PROBLEM = "service mail_mx: label 'linkwire.liks': 'x': no such label; did you mean 'linkwire.links'?"


def test_check_of_the_swarm(run: Run, agent: dict[str, str], tmp_path: Path) -> None:
    swarm = agent | {"SERVICES": json.dumps(SERVICES)}
    shown = run(PLUGIN, "linkwire", "check", **swarm)
    assert (shown.returncode, shown.stderr) == (1, "")
    assert shown.stdout.splitlines() == [MAIL_PROBLEM, WEB_PROBLEM, "a problem"]
    assert "service inspect id1 id2" in record(tmp_path)
    shown = run(PLUGIN, "linkwire", "check", "--stack", "shop", **swarm)
    assert shown.stdout.splitlines() == [WEB_PROBLEM, "a problem"]
    assert record(tmp_path)[-1] == f'exec {CONTAINER} linkwire-ask links {{"stack": "shop", "counted": true}}'


@pytest.mark.parametrize(
    ("live", "said"),
    [
        ((), "nothing wrong is seen; check --live tries every link"),
        (("--live",), "links were tried, and nothing wrong is seen"),
    ],
)
def test_check_of_a_swarm_in_order(
    run: Run, agent: dict[str, str], tmp_path: Path, live: tuple[str, ...], said: str
) -> None:
    """Neither says that all is well: the first tries nothing, the second no UDP port."""
    (tmp_path / "answer").write_text('{"version": 1, "links": [], "problems": []}')
    shown = run(PLUGIN, "linkwire", "check", *live, **agent, SERVICES="[]")
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, f"ok: {said}\n", "")


def test_check_of_the_swarm_asks_both(run: Run, agent: dict[str, str]) -> None:
    shown = run(PLUGIN, "linkwire", "check", **agent, WORKER="1")
    assert shown.returncode == 1
    assert shown.stdout.splitlines() == ["a problem", "the labels of services cannot be read: not a manager"]
    shown = run(PLUGIN, "linkwire", "check", **agent | {"SERVICES": json.dumps(SERVICES), "CONTAINERS": ""})
    assert shown.stdout.splitlines()[:2] == [MAIL_PROBLEM, WEB_PROBLEM]
    assert shown.stdout.splitlines()[2].startswith("no Linkwire agent runs on this Docker endpoint.")
    shown = run(PLUGIN, "linkwire", "check", **agent | {"CONTAINERS": ""}, WORKER="1")
    assert shown.returncode == 1
    assert shown.stderr.startswith("docker linkwire: the labels of services cannot be read: not a manager\n")


STACKED = "com.docker.stack.namespace"
ACROSS = [
    {"ID": "1", "Spec": {"Name": "blog_web", "Labels": {STACKED: "blog", "linkwire.links": "shop_db,shop_api"}}},
    {"ID": "2", "Spec": {"Name": "shop_db", "Labels": {STACKED: "shop"}}},
    {"ID": "3", "Spec": {"Name": "shop_api", "Labels": {STACKED: "shop", "linkwire.allow": ""}}},
    {"ID": "4", "Spec": {"Name": "far_web", "Labels": {STACKED: "far", "linkwire.from": "shop"}}},
]
NOT_ALLOWED = (
    "service blog_web: its link to shop_api is refused: shop_api does not allow it; its owner can, by "
    "`x-wireguard: {allow: [blog_web]}` in shop_api"
)
NOT_ACCEPTED = (
    "service far_web: its link from shop is refused: no service of that name accepts it; the owner of shop can, by "
    "`x-wireguard: {accept: true}`"
)
TO_ADD = (
    "service shop_db: blog_web links to it from outside its stack. To go on with that, write in shop_db: "
    "`x-wireguard: {allow: [blog_web]}`, before it is deployed again"
)


def test_check_shows_refused_links(run: Run, agent: dict[str, str]) -> None:
    swarm = agent | {"SERVICES": json.dumps(ACROSS)}
    shown = run(PLUGIN, "linkwire", "check", **swarm)
    assert sorted(shown.stdout.splitlines()) == ["a problem", NOT_ALLOWED, NOT_ACCEPTED]
    shown = run(PLUGIN, "linkwire", "check", "--stack", "blog", **swarm)
    assert shown.stdout.splitlines() == [NOT_ALLOWED, "a problem"]


@pytest.mark.parametrize(("second", "told"), [("47", False), ("46", True)])
def test_check_waits_for_a_link_to_be_accepted(run: Run, agent: dict[str, str], second: str, told: bool) -> None:
    """The consumer's stack may be deployed a moment after the provider's."""
    new = [*ACROSS[:3], {**ACROSS[3], "UpdatedAt": f"2026-11-29T21:07:{second}.123456789Z"}]
    shown = run(PLUGIN, "linkwire", "check", **agent, SERVICES=json.dumps(new))
    assert (NOT_ALLOWED in shown.stdout, NOT_ACCEPTED in shown.stdout) == (True, told)


def test_check_upgrade_gives_the_line_to_add(run: Run, agent: dict[str, str]) -> None:
    swarm = agent | {"SERVICES": json.dumps(ACROSS)}
    shown = run(PLUGIN, "linkwire", "check", "--upgrade", **swarm)
    assert (shown.returncode, shown.stdout, shown.stderr) == (1, f"{TO_ADD}\n", "")
    shown = run(PLUGIN, "linkwire", "check", "--upgrade", "--format", "json", **swarm)
    assert [one["message"] for one in json.loads(shown.stdout)["errors"]] == [TO_ADD]
    shown = run(PLUGIN, "linkwire", "check", "--upgrade", **agent, SERVICES=json.dumps(ACROSS[2:]))
    assert (shown.returncode, shown.stdout) == (0, "ok: every link between stacks is allowed by its provider\n")
    shown = run(PLUGIN, "linkwire", "check", "--upgrade", "-c", "a.yml", **swarm)
    assert (shown.returncode, "leave -c and --env-file out" in shown.stderr) == (2, True)


EXTERNAL = "x-wireguard: {}\nservices: {a: {image: web, external_links: [other_mail, other_news]}}\n"


def test_check_tells_of_absent_services(run: Run, files: Path, agent: dict[str, str]) -> None:
    (files / "a.yml").write_text(EXTERNAL)
    shown = run(PLUGIN, "linkwire", "check", "-c", "a.yml", **agent)
    assert shown.returncode == 0
    warning, summary = shown.stdout.splitlines()
    assert summary.endswith(": 2 links between 3 services")
    assert warning == (
        "a.yml:2:57: warning: service 'a': external_links: this Swarm has no service 'other_news' (yet): "
        "the link works as soon as there is one"
    )


def test_check_names_a_service_that_is_near(run: Run, files: Path, agent: dict[str, str]) -> None:
    (files / "a.yml").write_text(EXTERNAL.replace("other_mail, other_news", "other_mial"))
    shown = run(PLUGIN, "linkwire", "check", "-c", "a.yml", **agent)
    assert shown.stdout.splitlines()[0].endswith("as soon as there is one; did you mean 'other_mail'?")


def test_check_tells_of_unwilling_providers(run: Run, files: Path, agent: dict[str, str]) -> None:
    (files / "a.yml").write_text(EXTERNAL)
    mail = [{"ID": "1", "Spec": {"Name": "other_mail", "Labels": {STACKED: "other", "linkwire.allow": "far"}}}]
    shown = run(PLUGIN, "linkwire", "check", "-c", "a.yml", "--stack", "shop", **agent, SERVICES=json.dumps(mail))
    assert shown.returncode == 0
    assert (
        "a.yml:2:45: warning: service 'a': external_links: 'other_mail' does not allow it; its owner can, by "
        "`x-wireguard: {allow: [shop_a]}` there\n"
    ) in shown.stdout


def test_check_asks_nobody_without_need(run: Run, files: Path, agent: dict[str, str]) -> None:
    run(PLUGIN, "linkwire", "check", "-c", "good.yml", **agent)
    assert record(files) == ["--version"]


def test_check_is_quiet_where_there_is_no_engine(docker: str, run: Run, files: Path) -> None:
    (files / "a.yml").write_text(EXTERNAL)
    began = time.monotonic()
    shown = run(docker, "linkwire", "check", "-c", "a.yml")
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, f"{ok(docker)}: 2 links between 3 services\n", "")
    assert time.monotonic() - began < 5 * slowness()


# --- rotating link keys


def with_key(name: str, *keys: str) -> dict[str, object]:
    """A service that links to as many others, each link with a key; an empty one is the link's own."""
    links = {"linkwire.links": ",".join(f"p{number}" for number in range(len(keys)))}
    keyed = {f"linkwire.link.p{number}.key": key for number, key in enumerate(keys) if key}
    return {"Spec": {"Name": name, "Labels": {STACKED: "s"} | links | keyed}}


KEYED = json.dumps(
    [with_key("s_web", "s_shop"), with_key("s_app", "", "s_shop"), {"Spec": {"Name": "p0", "Labels": None}}]
)


@pytest.mark.parametrize(
    ("words", "services", "keys"),
    [
        ("s_app:p0", ["s_app"], ["s_app:p0", "s_shop too"]),
        ("s_shop", ["s_app"], ["s_app:p0 too", "s_shop"]),
        ("--all", ["s_app"], ["s_app:p0", "s_shop"]),
    ],
)
def test_rotate(agent: dict[str, str], run: Run, words: str, services: list[str], keys: list[str]) -> None:
    shown = run(PLUGIN, "linkwire", "rotate", words, **agent, SERVICES=KEYED)
    assert shown.returncode == 0, shown.stderr
    updates = [line for line in Path(agent["RECORD"]).read_text().splitlines() if "service update" in line]
    assert [line.split()[-1] for line in updates] == services
    assert all("--detach --label-add linkwire.renew=" in line for line in updates)
    assert shown.stdout.splitlines() == [f"linkwire: requested a new secret for {key}" for key in keys]


def test_rotate_what_there_is_not(run: Run, agent: dict[str, str]) -> None:
    shown = run(PLUGIN, "linkwire", "rotate", "s_shop", "s_app:p1", **agent, SERVICES=KEYED)
    assert shown.returncode == 2
    assert "this Swarm has no link key 's_app:p1'; did you mean 's_app:p0'?" in shown.stderr
    for words in ([], ["--all", "s_shop"]):
        assert run(PLUGIN, "linkwire", "rotate", *words, **agent, SERVICES=KEYED).returncode == 2
    assert run(PLUGIN, "linkwire", "rotate", "--all", **agent, SERVICES="[]").returncode == 2
    assert "update" not in Path(agent["RECORD"]).read_text()
