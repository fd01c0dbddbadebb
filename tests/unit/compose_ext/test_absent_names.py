"""Names that the Swarm does not have, given to every command that takes one: an error, with what was meant.

The commands and their arguments are those of the command line itself: a new one is tried here too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click
import pytest

from compose_ext.cli import BAD_INPUT, linkwire
from compose_ext.completion import complete

CONTAINER = "0123abcd" * 8
SERVICES = ("linkwire_agent", "linkwire_controller", "shop_db", "shop_web")
GOOD = "shop_web"
NAMES = {"shop", *SERVICES, "worker1", "shop_web:shop_db"}
"""All that the Swarm has, by which arguments that take such names are known."""
CREATING = {"deploy", "render"}
"""Commands that name a stack which need not be there."""
METAVARS = {"STACK", "SERVICE", "NODE", "TASK", "KEY", "NAME"}
"""Of options that take such names."""
FORMS: Mapping[str, Sequence[tuple[str, ...]]] = {
    "check": ((), ("--upgrade",), ("--live",)),
    "test": (("--all-links",),),
    "top": (("--no-stream",),),
}
"""Further words with which a command takes the name."""
LABELS = {"linkwire.links": "shop_db:db", "com.docker.stack.namespace": "shop"}
NODE = {
    "ID": "n" * 25,
    "Description": {"Hostname": "worker1"},
    "Spec": {"Role": "worker", "Availability": "active"},
    "Status": {"State": "ready", "Addr": "10.0.0.1"},
}
TASK = {
    "ID": "agenttask",
    "NodeID": NODE["ID"],
    "Status": {"State": "running", "ContainerStatus": {"ContainerID": CONTAINER}},
}
ANSWER = {"version": 1, "links": [], "problems": [], "stacks": ["shop"]}
EVENT = {"v": 1, "time": 1_800_000_000, "kind": "link created", "details": {"consumer": "shop_web"}}
DOCKER = """\
#!/bin/sh
# docker, on a manager of a Swarm of one node, with a stack of two services and Linkwire
[ -z "$WORKER" ] || case "$1" in
  node|service|stack) echo "This node is not a swarm manager." >&2; exit 1 ;;
  ps) echo "$CONTAINER id"; exit ;;
esac
case "$*" in
  "info --format {{.SystemTime}}") echo 2026-11-29T22:07:56.123456789+01:00 ;;
  info*) echo '{"Swarm": {"LocalNodeState": "active", "ControlAvailable": true, "NodeID": "m"}}' ;;
  "stack ls"*) echo shop ;;
  "node ls --quiet"*) echo "$NODE_ID" ;;
  "node ls --format {{.ID}} "*) echo "$NODE_ID worker1" ;;
  "node ls"*) echo worker1 ;;
  "node inspect $NODE_ID") cat "$FOLDER/nodes" ;;
  "node inspect"*) echo "Error: No such node: $3" >&2; exit 1 ;;
  "service ls --quiet"|*namespace=linkwire) echo id ;;
  "service ls --quiet"*) ;;
  "service ls"*"name="*) ;;
  "service ls"*) printf '%s\\n' $SERVICES ;;
  "service inspect"*) cat "$FOLDER/services" ;;
  "service ps"*) echo agenttask ;;
  "service logs"*) ;;
  "inspect --type task agenttask") cat "$FOLDER/tasks" ;;
  *events*) cat "$FOLDER/events" ;;
  *"linkwire-ask sweep"*) ;;
  *linkwire-ask*) cat "$FOLDER/answer" ;;
  *) echo "Error: No such object: $*" >&2; exit 1 ;;
esac
"""


Words = tuple[str, ...]


def commands(command: click.Command = linkwire, path: Words = ()) -> Iterator[tuple[Words, click.Command]]:
    """Yield each command that has none under it, with its words."""
    if not isinstance(command, click.Group):
        yield path, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        under = command.get_command(context, name)
        assert under is not None
        yield from commands(under, (*path, name))


def is_named(parameter: click.Parameter) -> bool:
    """Tell whether a parameter is for a name, as far as the command line itself says so."""
    if isinstance(parameter, click.Argument):
        return parameter.type is click.STRING
    return parameter.metavar in METAVARS


def lines() -> Iterator[tuple[Words, int]]:
    """Yield command lines up to where the name goes, and the number of words after it."""
    for path, command in commands():
        names = [each for each in command.params if is_named(each)]
        arguments = [each for each in names if isinstance(each, click.Argument)]
        for parameter in () if path[0] in CREATING else names:
            for form in FORMS.get(" ".join(path), ((),)):
                if isinstance(parameter, click.Argument):
                    place = arguments.index(parameter)
                    yield (*path, *form, *[GOOD] * place), sum(one.required for one in arguments[place + 1 :])
                else:
                    yield (*path, *form, parameter.opts[-1]), 0


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the environment needs for a docker with a Swarm behind it."""
    folder = tmp_path_factory.mktemp("swarm")
    program = folder / "docker"
    program.write_text(DOCKER)
    program.chmod(0o755)
    container = {"Image": "linkwire"}
    specs = [{"Name": name, "Labels": LABELS if name == "shop_web" else {}} for name in SERVICES]
    services = [
        {"ID": spec["Name"], "Spec": {**spec, "TaskTemplate": {"ContainerSpec": container}}} for spec in specs
    ]
    for name, document in (
        *(("services", services), ("nodes", [NODE]), ("tasks", [TASK])),
        *(("answer", ANSWER), ("events", EVENT)),
    ):
        (folder / name).write_text(json.dumps(document) + "\n")
    played = {
        "LINKWIRE_DOCKER": str(program),
        "FOLDER": str(folder),
        "NODE_ID": str(NODE["ID"]),
        "CONTAINER": CONTAINER,
    }
    return {**os.environ, **played, "SERVICES": " ".join(SERVICES)}


def offered(environment: Mapping[str, str], words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """What a shell is offered for the word after some."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return set(complete(linkwire, "__completeNoDesc", ["linkwire", *words, ""]).splitlines()) & NAMES


@pytest.mark.parametrize(
    ("words", "after"), list(lines()), ids=lambda each: " ".join(each) if isinstance(each, tuple) else ""
)
def test_absent_name_is_refused_with_a_near_one(
    swarm: dict[str, str], words: Words, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = max(offered(swarm, words, monkeypatch), default="")
    assert good, "an argument for a name has to have shell_complete, which offers those that there are"
    wrong = good[:-2] + good[-1] + good[-2]
    command = [sys.executable, "-m", "compose_ext", *words, wrong, *[GOOD] * after]
    done = subprocess.run(command, env=swarm, capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr.startswith("docker linkwire: this Swarm has no "), done.stdout + done.stderr
    assert done.stderr.endswith(f" {wrong!r}; did you mean {good!r}?\n")
    assert (done.returncode, done.stdout) == (BAD_INPUT, "")


def test_every_option_for_a_name_is_tried(swarm: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that offer names of the Swarm's have one of the metavars by which the test above knows them."""
    options = [(path, one) for path, command in commands() for one in command.params if isinstance(one, click.Option)]
    for path, option in options:
        if not option.is_flag and offered(swarm, (*path, option.opts[-1]), monkeypatch):
            assert is_named(option), f"{' '.join(path)} {option.opts[-1]}"


@pytest.mark.parametrize("words", [("logs", "-f"), ("events", "-f")], ids=" ".join)
def test_absent_name_that_is_followed_is_told(swarm: dict[str, str], words: Words) -> None:
    """It may come while it is waited for."""
    command = [sys.executable, "-m", "compose_ext", *words, "shpo"]
    done = subprocess.run(command, env=swarm, capture_output=True, text=True, check=False, timeout=60)
    first = done.stderr.splitlines()[0]
    assert first.startswith("docker linkwire: this Swarm has no stack, service")
    assert first.endswith("'shpo'; did you mean 'shop'?")


def test_each_absent_name_of_several_is_told(swarm: dict[str, str]) -> None:
    """Beside the events of one that there is."""
    command = [sys.executable, "-m", "compose_ext", "events", "shpo", "shop_web", "shop", "wroker1"]
    done = subprocess.run(command, env=swarm, capture_output=True, text=True, check=False, timeout=60)
    assert "link created" in done.stdout
    assert (done.returncode, done.stdout.count("\n")) == (BAD_INPUT, 1)
    kinds = "docker linkwire: this Swarm has no stack, service, task or node"
    assert done.stderr.splitlines() == [
        f"{kinds} 'shpo'; did you mean 'shop'?",
        f"{kinds} 'wroker1'; did you mean 'worker1'?",
    ]


@pytest.mark.parametrize("words", [("flows", "--for", "1"), ("events",), ("events", "-f")], ids=" ".join)
def test_worker_says_that_a_name_is_unknown(swarm: dict[str, str], words: Words) -> None:
    """It knows what is linked alone; a stack that is linked is known to it."""
    command = [sys.executable, "-m", "compose_ext", *words]
    worker = swarm | {"WORKER": "1"}
    done = subprocess.run([*command, "shpo"], env=worker, capture_output=True, text=True, check=False, timeout=60)
    kinds = "stack or service" if words[0] == "flows" else "stack, service, task or node"
    said = f"docker linkwire: no {kinds} 'shpo' takes part in links; did you mean 'shop'?, and this Docker knows no"
    assert (done.stderr, done.stdout) == (f"{said} others: ask a manager\n", "")
    assert done.returncode == (0 if "-f" in words else 1)
    if words[0] == "events":
        done = subprocess.run([*command, "shop"], env=worker, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("words", [("status",), ("check",), ("check", "--live"), ("ps",)], ids=" ".join)
def test_absent_provider_is_told_with_a_near(swarm: dict[str, str], tmp_path: Path, words: Words) -> None:
    """A label that names the service without its stack, and mistyped."""
    for name in ("services", "nodes", "tasks", "events"):
        (tmp_path / name).write_text((Path(swarm["FOLDER"]) / name).read_text())
    text = "service shop_web: links to dbb, which does not exist (yet)"
    (tmp_path / "answer").write_text(json.dumps({**ANSWER, "problems": [text]}) + "\n")
    command = [sys.executable, "-m", "compose_ext", *words]
    environment = swarm | {"FOLDER": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert f"{text}; did you mean 'shop_db'?" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("words", [("ps",), ("check", "--stack")], ids=" ".join)
def test_worker_does_not_call_a_stack_absent(swarm: dict[str, str], words: Words) -> None:
    """It knows those with links alone."""
    command = [sys.executable, "-m", "compose_ext", *words, "blog"]
    done = subprocess.run(
        command, env=swarm | {"WORKER": "1"}, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (1, "")
    said = (
        "docker linkwire: no stack 'blog' has linked services, and this Docker knows no other stacks: ask a manager"
    )
    assert done.stderr == f"{said}\n"
