"""Takes a command line apart, as Docker hands it to a plugin or as a user writes it, and runs the command in it."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from compose_ext import __version__, approval, check, choices, deploy, gate, ps, renewal, swarm, usage
from compose_ext.deployed import WITHOUT
from compose_ext.engine import Docker, choose
from compose_ext.errors import DockerError, UsageError
from compose_ext.files import Named, from_environment, split
from compose_ext.flags import Flag, Parsed, parse

OK = 0
DOCKER_FAILED = 1
"""The input was good; Docker, the Swarm, or the agent asked through it, was not."""
BAD_INPUT = 2
"""The command line or the files are wrong; Docker was not asked for anything."""

_DOCKER_FLAGS = (
    Flag("config"),
    Flag("context", "c"),
    Flag("debug", "D", takes_value=False),
    Flag("host", "H"),
    Flag("log-level", "l"),
    Flag("tls", takes_value=False),
    Flag("tlscacert"),
    Flag("tlscert"),
    Flag("tlskey"),
    Flag("tlsverify", takes_value=False),
)
"""Docker's global flags."""
# Behind our name -c is a compose file; the other flags are taken everywhere.
_OUR_FLAGS = tuple(Flag(flag.name, flag.short.replace("c", ""), flag.takes_value) for flag in _DOCKER_FLAGS)
_GLOBAL = tuple(flag.name for flag in _DOCKER_FLAGS)
_HELP = Flag("help", "h", takes_value=False)
_NAME = "linkwire"
_HELP_WORD = "help"
_FILES = Flag("compose-file", "c")
_ENV_FILE = Flag("env-file")
_FORMATS = ("table", "json")
_TEXT_OR_JSON = ("text", "json")


@dataclass(frozen=True, slots=True)
class Command:
    """One command: what runs it, which flags it has, how many arguments."""

    run: Callable[[Docker, Parsed], int]
    flags: tuple[Flag, ...] = ()
    arguments: tuple[int, int] = (0, 0)
    """Fewest and most."""


def main(arguments: Sequence[str]) -> int:
    """Run a command line; returns the exit code."""
    try:
        return _run(_split(arguments))
    except UsageError as error:
        print(f"docker linkwire: {error}\nSee 'docker linkwire --help'.", file=sys.stderr)
        return BAD_INPUT
    except deploy.BadFilesError:
        return BAD_INPUT
    except DockerError as error:
        print(f"docker linkwire: {error}", file=sys.stderr)
        return DOCKER_FAILED


@dataclass(slots=True)
class _Line:
    """A command line, taken apart."""

    flags: list[str]
    """Docker's global flags."""
    command: str = ""
    rest: tuple[str, ...] = ()
    help: bool = False


def _run(line: _Line) -> int:
    command = COMMANDS.get(line.command)
    if command is None and line.command:
        raise UsageError(f"there is no command {line.command!r}; there are: {', '.join(COMMANDS)}")
    if command is None or line.help:
        sys.stdout.write(usage.text(line.command))
        return OK if line.help else BAD_INPUT
    parsed = parse(line.rest, (*command.flags, *_OUR_FLAGS, _HELP))
    if parsed.is_on(_HELP.name):
        sys.stdout.write(usage.text(line.command))
        return OK
    fewest, most = command.arguments
    if not fewest <= len(parsed.rest) <= most:
        _suggest_file(line.command, command, parsed.rest)
        raise UsageError(f"wrong number of arguments; it goes: {usage.line(line.command)}")
    docker = choose([*line.flags, *parsed.written(_GLOBAL)])
    try:
        return command.run(docker, parsed)
    except DockerError as error:
        raise swarm.explained(docker, error) from None


def _split(arguments: Sequence[str]) -> _Line:
    """Find the command: Docker gives a plugin its own line, `-H HOST linkwire deploy` or `help linkwire deploy`."""
    line = _Line([], rest=tuple(arguments))
    for word, flags in ((_HELP_WORD, _DOCKER_FLAGS), (_NAME, _DOCKER_FLAGS), (_HELP_WORD, _OUR_FLAGS)):
        _take_flags(line, flags)
        if line.rest[:1] == (word,):
            line.rest = line.rest[1:]
            line.help = line.help or word == _HELP_WORD
    _take_flags(line, _OUR_FLAGS)
    if line.rest:
        line.command, line.rest = line.rest[0], line.rest[1:]
    return line


def _take_flags(line: _Line, flags: tuple[Flag, ...]) -> None:
    parsed = parse(line.rest, (*flags, _HELP), stop_at_word=True)
    line.flags += parsed.written(_GLOBAL)
    line.help = line.help or parsed.is_on(_HELP.name)
    line.rest = parsed.rest


def _deploy(docker: Docker, parsed: Parsed) -> int:
    flags = parsed.written(deploy.PASSED_ON)
    code = deploy.deploy(docker, _files(parsed), parsed.rest[0], flags, alone=parsed.is_on(WITHOUT))
    if code != 0:
        swarm.need_manager(docker)  # Docker has said why; where this is no manager, say which one there is
        return DOCKER_FAILED
    return OK


def _check(docker: Docker, parsed: Parsed) -> int:
    stack, as_json = parsed.last("stack") or None, _format(parsed, _TEXT_OR_JSON) == "json"
    if parsed.all(_FILES.name):
        return check.check(docker, _files(parsed), stack, as_json=as_json)
    if parsed.all(_ENV_FILE.name):
        raise UsageError("--env-file is for compose files: name them with -c FILE")
    return check.check_swarm(docker, stack, as_json=as_json)


def _render(_docker: Docker, parsed: Parsed) -> int:
    deploy.render(_files(parsed), parsed.rest[0])
    return OK


def _files(parsed: Parsed) -> Named:
    """Return the files of a command line; where it names none those of COMPOSE_FILE, as docker compose does."""
    values = parsed.all(_FILES.name)
    found = [] if values else from_environment()
    if found:
        print(f"linkwire: no -c: taking COMPOSE_FILE, {' '.join(found)}", file=sys.stderr)
    return Named(tuple(found or split(values)), tuple(parsed.all(_ENV_FILE.name)))


def _format(parsed: Parsed, formats: tuple[str, ...]) -> str:
    form = parsed.last("format", formats[0])
    if form not in formats:
        raise UsageError(f"--format is {' or '.join(formats)}, not {form!r}")
    return form


def _suggest_file(name: str, command: Command, words: Sequence[str]) -> None:
    """Say how files are named, to who names one without -c. Raises UsageError."""
    file = next((word for word in words if word.endswith((".yml", ".yaml", ".json")) or Path(word).is_file()), None)
    if file and _FILES in command.flags:
        stack = " STACK" if command.arguments[0] else ""
        raise UsageError(f"a compose file is named with -c: docker linkwire {name} -c {file}{stack}")


def _ps(docker: Docker, parsed: Parsed) -> int:
    form = _format(parsed, _FORMATS)
    stack = deploy.stack_name(parsed.rest[0]) if parsed.rest else None
    answer = ps.ask(docker, stack)
    sys.stdout.write(json.dumps(answer.raw, indent=2) + "\n" if form == "json" else ps.table(answer))
    return OK


def _install(docker: Docker, parsed: Parsed) -> int:
    from compose_ext import install  # noqa: PLC0415 - its cryptography is slow to import, and seldom needed

    install.install(docker, parsed, _say)
    return OK


def _uninstall(docker: Docker, parsed: Parsed) -> int:
    from compose_ext import install  # noqa: PLC0415 - likewise

    install.uninstall(docker, parsed, _say)
    return OK


def _rotate(docker: Docker, parsed: Parsed) -> int:
    every = parsed.is_on("all")
    if every and parsed.rest:
        raise UsageError("name link keys, or say --all")
    renewal.rotate(docker, parsed.rest, every=every, say=_say)
    return OK


def _renew(docker: Docker, parsed: Parsed) -> int:
    from compose_ext import renew  # noqa: PLC0415 - likewise

    if parsed.is_on("check"):
        return OK if renew.check(docker, print) else DOCKER_FAILED
    renew.renew(docker, parsed, _say)
    return OK


def _say(text: str) -> None:
    print(f"linkwire: {text}", flush=True)


def _node(docker: Docker, parsed: Parsed) -> int:
    match parsed.rest:
        case ("ls",):
            sys.stdout.write(approval.ls(docker))
        case ("approve", name):
            approval.approve(docker, name, parsed.last("fingerprint") or None)
        case _:
            raise UsageError(f"it goes: {usage.line('node')}")
    return OK


def _gate(docker: Docker, parsed: Parsed) -> int:
    return OK if gate.command(docker, parsed, _say) else DOCKER_FAILED


def _version(_docker: Docker, _parsed: Parsed) -> int:
    print(f"Linkwire {__version__}")
    return OK


COMMANDS = {
    "check": Command(_check, (_FILES, _ENV_FILE, Flag("stack"), Flag("format"))),
    "render": Command(_render, (_FILES, _ENV_FILE), (1, 1)),
    "deploy": Command(
        _deploy,
        (
            _FILES,
            _ENV_FILE,
            Flag(WITHOUT, takes_value=False),
            Flag("with-registry-auth", takes_value=False),
            Flag("prune", takes_value=False),
            Flag("resolve-image"),
            Flag("detach", "d", takes_value=False),
            Flag("quiet", "q", takes_value=False),
        ),
        (1, 1),
    ),
    "ps": Command(_ps, (Flag("format"),), (0, 1)),
    "install": Command(
        _install,
        (
            *choices.FLAGS,
            *choices.ETCD_FILES,
            Flag("gate", takes_value=False),
            Flag("detach", "d", takes_value=False),
        ),
    ),
    "uninstall": Command(
        _uninstall, (Flag("yes", "y", takes_value=False), Flag("keep-secrets", takes_value=False), Flag("image"))
    ),
    "gate": Command(_gate, gate.FLAGS, (1, 10_000)),
    "node": Command(_node, (Flag("fingerprint"),), (1, 2)),
    "rotate": Command(_rotate, (Flag("all", "a", takes_value=False),), (0, 1000)),
    "renew": Command(_renew, tuple(Flag(name, takes_value=False) for name in ("check", "signing-key", "drop-old"))),
    "version": Command(_version),
}
