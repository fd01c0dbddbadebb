"""Command lines are read as Docker reads its own."""

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compose_ext.commands.install import install_command
from compose_ext.diagnostics import UsageError
from compose_ext.pflag import Command, Switch, docker_flags, read

FLAGS = (
    click.Option(["-c", "--file"], multiple=True),
    Switch(["-D", "--debug"]),
    Switch(["--prune"]),
    click.Option(["-H", "--host"]),
)
WORDS = click.Argument(["words"], nargs=-1)


def seen(words: list[str], *, stop_at_word: bool = False) -> tuple[list[str], list[str]]:
    found, rest = read(words, FLAGS, stop_at_word=stop_at_word)
    return [f"{option.name}={value}" for option, value in found], rest


@pytest.mark.parametrize(
    ("words", "given_flags", "rest"),
    [
        ("", [], []),
        ("-c a --file b --file=c -cd -c=e", ["file=a", "file=b", "file=c", "file=d", "file=e"], []),
        ("-Dc a", ["debug=true", "file=a"], []),
        ("-Dca", ["debug=true", "file=a"], []),
        ("--prune --debug=false -D=0", ["prune=true", "debug=false", "debug=false"], []),
        ("s --prune t", ["prune=true"], ["s", "t"]),
        ("-c -", ["file=-"], []),
        ("- -c a", ["file=a"], ["-"]),
        ("--prune -- --debug -x", ["prune=true"], ["--debug", "-x"]),
        ("--file=", ["file="], []),
        ("-c --prune", ["file=--prune"], []),
        ("--file a=b", ["file=a=b"], []),
    ],
)
def test_words_become_flags(words: str, given_flags: list[str], rest: list[str]) -> None:
    assert seen(words.split()) == (given_flags, rest)
    last = dict(flag.split("=", 1) for flag in given_flags)
    params = Command("try", params=[*FLAGS, WORDS]).make_context("try", words.split()).params
    assert params["file"] == tuple(flag[5:] for flag in given_flags if flag.startswith("file="))
    assert params["words"] == tuple(rest)
    for switch in ("debug", "prune"):
        assert params[switch] == {"true": True, "false": False, None: None}[last.get(switch)]


def test_what_counts() -> None:
    command = Command("try", params=[FLAGS[0], FLAGS[2]])
    words = ["-c", "a", "--prune", "-c", "b", "--prune=false", "-H", "tcp://a", "--tls=0", "--host=tcp://b"]
    context = command.make_context("try", words)
    assert context.params == {"file": ("a", "b"), "prune": False}
    assert docker_flags(context) == ["--host=tcp://a", "--host=tcp://b", "--tls=false"]
    assert docker_flags(command.make_context("try", [])) == []


def test_own_flag_precedes_dockers_of_that_name() -> None:
    context = install_command.make_context("install", ["--log-level=debug"])
    assert (context.params["log_level"], docker_flags(context)) == ("debug", [])


def test_help_switched_off_shows_no_help() -> None:
    assert Command("try", params=[FLAGS[2]]).make_context("try", ["--help=false"]).params == {"prune": None}


def test_what_follows_a_command_is_left_to_it() -> None:
    assert seen(["-D", "deploy", "-x", "--", "-D"], stop_at_word=True) == (
        ["debug=true"],
        ["deploy", "-x", "--", "-D"],
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--pruen", "unknown flag: --pruen; did you mean --prune?"),
        ("--no-prune", "unknown flag: --no-prune; did you mean --prune?"),
        ("--zzzzzz=1", "unknown flag: --zzzzzz"),
        ("-x", "unknown flag: -x"),
        ("-Dx", "unknown flag: -x"),
        ("-c", "the flag -c needs a value"),
        ("--host", "the flag --host needs a value"),
        ("--prune=perhaps", "the flag --prune is a switch: true or false, not 'perhaps'"),
    ],
)
def test_what_is_no_flag(words: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(words.split(), FLAGS)
    assert str(caught.value) == message


@given(st.lists(st.text(max_size=6) | st.sampled_from(["-c", "--file", "-D", "--", "-", "--debug=", "-=", "--="])))
def test_nothing_makes_a_traceback(words: list[str]) -> None:
    command = Command("try", params=[*FLAGS, WORDS])
    try:
        found, rest = read(words, command.get_params(click.Context(command)))
    except UsageError:
        return
    if any(option.name == "help" for option, _ in found):
        return
    written = [f"{option.opts[-1]}={value}" for option, value in found]
    assert read([*written, "--", *rest], command.get_params(click.Context(command))) == (found, rest)
    assert command.make_context("try", words).params["words"] == tuple(rest)
