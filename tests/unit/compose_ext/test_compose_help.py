"""Help texts, their width and their examples, for every command."""

import re
import shlex
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path

import click
import pytest

from compose_ext.cli import linkwire, main
from compose_ext.pflag import Command, context_of
from tests.support import backup_files


def commands(command: click.Command = linkwire) -> Iterator[Command]:
    assert isinstance(command, Command)
    yield command
    if isinstance(command, click.Group):
        for name in command.list_commands(context_of(command)):
            inner = command.get_command(context_of(command), name)
            assert inner
            yield from commands(inner)


@pytest.mark.parametrize(
    ("words", "usage"),
    [
        ("--help ps", "ps "),
        ("-h gate status", "gate status "),
        ("gate --help status", "gate status "),
        ("-D --help gate", "gate install | "),
        ("help ps", "ps "),
        ("help help", "COMMAND"),
        ("help help gate help status", "gate status "),
        ("ps --help=false --help", "ps "),
    ],
)
def test_help_is_the_named_commands(words: str, usage: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["linkwire", *words.split()]) == 0
    assert capsys.readouterr().out.startswith(f"Usage:  docker linkwire {usage}")


@pytest.mark.parametrize("words", ["--help nosuch", "help nosuch", "gate -h nosuch", "help help nosuch"])
def test_help_on_no_command_fails(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["linkwire", *words.split()]) == 2
    assert "there is no command 'nosuch'" in capsys.readouterr().err


def test_help_has_one_width(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["linkwire", "install", "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert 110 < max(map(len, lines)) <= 120
    assert any(line.endswith("every node's Docker as well: see docker linkwire gate") for line in lines)


def test_no_flag_stands_in_a_command_twice() -> None:
    for command in commands():
        names = [name for one in command.get_params(context_of(command)) for name in one.opts]
        assert sorted(names) == sorted(set(names)), command.name


def test_every_example_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINKWIRE_DOCKER", "/nonexistent/docker")
    monkeypatch.chdir(tmp_path)
    for file in ("shop.yml", "production.yml"):
        (tmp_path / file).write_text('version: "3.8"\nx-wireguard: {}\nservices: {web: {image: web}}\n')
    (tmp_path / ".env").touch()
    lines = {line for command in commands() for line in cleandoc(command.examples).splitlines()}
    examples = [shlex.split(line.partition(" > ")[0])[1:] for line in lines if "linkwire" in line.split()]
    assert len(examples) > 20
    for words in examples:
        filled = [
            "f" * 64 if re.fullmatch(r"[A-Z]+", word) and words[words.index(word) - 1] == "--fingerprint" else word
            for word in words
        ]
        backup_files.prepare(tmp_path, words)
        assert main(filled) != 2, words
