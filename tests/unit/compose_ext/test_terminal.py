"""Tables, progress, errors and questions on terminals of many kinds."""

import io
import json
import os
import pty
import re
import subprocess
import sys
from contextlib import suppress

import pytest

from compose_ext.terminal import Table, ask, complain, indented, say, show, words

TABLE = Table(
    ("ID", "HOSTNAME", "KEYS", "FINGERPRINT"),
    (("a1", "n1", "proven", "a" * 64), ("a2", "a-long-name", "unproven", "-")),
    ("a problem that is longer than the terminal is wide, by some words",),
)


def on_a_terminal(code: str, **environment: str) -> tuple[str, str]:
    """Run code with a terminal of 40 columns as its output; returns what it shows, and standard error."""
    master, slave = pty.openpty()
    variables = os.environ | {"COLUMNS": "40", "TERM": "xterm"} | environment
    argv = [sys.executable, "-c", f"from compose_ext.terminal import *\n{code}"]
    done = subprocess.run(argv, stdout=slave, stderr=subprocess.PIPE, check=True, env=variables, timeout=60)
    os.close(slave)
    shown = b""
    with suppress(OSError):  # at the end, the other side being closed
        while part := os.read(master, 65536):
            shown += part
    os.close(master)
    return shown.decode(), done.stderr.decode()


@pytest.mark.parametrize("call", ["complain('it failed')", "show_json({})", "show(Table(('A',), ()))"])
def test_moving_line_ends_before_other_output(call: str) -> None:
    shown, errors = on_a_terminal(f"say('waiting: for n1')\n{call}\nsys.stdout.write('END')")
    assert errors == ("it failed\n" if "complain" in call else "")
    assert "it failed" not in shown
    assert "\x1b[?25h" in shown.partition("{}")[0].partition("A")[0]  # the cursor is back
    assert shown.endswith("END")


@pytest.mark.parametrize(
    "environment", [{"TERM": "dumb"}, {"TERM": "unknown"}, {"PYTHONIOENCODING": "ascii"}, {"TTY_INTERACTIVE": "0"}]
)
def test_progress_is_lines_on_plain_terminals(environment: dict[str, str]) -> None:
    shown, _ = on_a_terminal("say('waiting: for n1')\nsay('waiting: for n2')", **environment)
    assert shown == "linkwire: waiting: for n1\r\nlinkwire: waiting: for n2\r\n"


def test_narrow_terminal_has_the_whole_table() -> None:
    shown, _ = on_a_terminal(f"show({TABLE!r})")
    assert "\x1b[32mproven" in shown
    assert re.sub(r"\x1b\[[0-9;]*m", "", shown).replace("\r\n", "\n") == str(TABLE)


def test_end_of_input_is_no_answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert ask("Continue? ") == ""
    assert capsys.readouterr().out == "Continue? \n"


@pytest.mark.parametrize("call", ["say", "complain", "show"])
def test_nothing_printed_controls_a_terminal(call: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = "a\x1b]0;owned\x07b\x9b2Jc\u202ed\re"
    match call:
        case "say":
            say(text)
        case "complain":
            complain(text)
        case _:
            show(Table(("A",), ((text,),), (text,)))
    out = "".join(capsys.readouterr())
    assert "a?]0;owned?b?2Jc?d?e" in out
    assert not {character for character in out if not character.isprintable()} - {"\n"}


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"a": []},
        {"a": {}, "b": [{}]},
        {"n": [1, -2.5, None, True, 2**63], "t": ("x", '"\\\n')},
        {"u": "Zürich\ud800"},
    ],
)
def test_documents_are_indented_as_json_does(document: dict[str, object]) -> None:
    assert indented(document) == json.dumps(document, indent=2)


def test_no_document_controls_a_terminal() -> None:
    made = indented({"a": "".join(map(chr, range(0x20))) + "\x7f\x9b"})
    assert all(character.isprintable() or character == "\n" for character in made)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("plain", "plain"),
        ("two words", '"two words"'),
        ("", '""'),
        ('{"node": "n1"}', """'{"node": "n1"}'"""),
        ("""it's "so\"""", '"it\'s \\"so\\""'),
        ('a\\"b', '"a\\\\\\"b"'),
        ('"\n', '"\\"\\n"'),
    ],
)
def test_values_are_quoted_to_be_read(value: str, written: str) -> None:
    assert words({"x": value}) == f"x={written}"
