"""Command lines are read as Docker reads its own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compose_ext.errors import UsageError
from compose_ext.flags import Flag, parse

FLAGS = (
    Flag("file", "c"),
    Flag("debug", "D", takes_value=False),
    Flag("prune", takes_value=False),
    Flag("host", "H"),
)


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
    parsed = parse(words.split(), FLAGS)
    assert [f"{flag.name}={value}" for flag, value in parsed.given] == given_flags
    assert list(parsed.rest) == rest
    assert parsed.written() == [f"--{flag}" for flag in given_flags]


def test_what_counts() -> None:
    parsed = parse(["-c", "a", "-D", "-c", "b", "--debug=false"], FLAGS)
    assert (parsed.all("file"), parsed.last("file"), parsed.last("host", "none")) == (["a", "b"], "b", "none")
    assert (parsed.is_on("debug"), parsed.is_on("prune")) == (False, False)
    assert parsed.written(["debug"]) == ["--debug=true", "--debug=false"]


def test_what_follows_a_command_is_left_to_it() -> None:
    parsed = parse(["-D", "deploy", "-x", "--", "-D"], FLAGS, stop_at_word=True)
    assert (parsed.written(), parsed.rest) == (["--debug=true"], ("deploy", "-x", "--", "-D"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--pruen", "unknown flag: --pruen; did you mean --prune?"),
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
        parse(words.split(), FLAGS)
    assert str(caught.value) == message


@given(st.lists(st.text(max_size=6) | st.sampled_from(["-c", "--file", "-D", "--", "-", "--debug=", "-=", "--="])))
def test_nothing_makes_a_traceback(words: list[str]) -> None:
    try:
        parsed = parse(words, FLAGS)
    except UsageError:
        return
    assert parse([*parsed.written(), "--", *parsed.rest], FLAGS) == parsed
