"""pflag's dialect on top of click: `-Dc file`, `-c=file`, `--tls=false`, as Docker's own command line reads them."""

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import wraps
from itertools import dropwhile
from typing import Any

import click
from click.shell_completion import CompletionItem

from compose_ext import help as help_text
from compose_ext.diagnostics import UsageError
from compose_ext.docker_cli import choose
from mesh.model.labels.durations import parse_duration

# Go's strconv.ParseBool
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})
_HELP_WORD = "help"
_DOCKER_FLAGS = "compose_ext.docker_flags"
"""Key of a context's shared memory."""
_OFF = "--no-"
"""Prefix by which click knows that a switch is off; users write `--name=false`."""

Option = Callable[[Callable[..., Any]], Callable[..., Any]]
"""A decorator that gives a command one more flag or argument."""


class Switch(click.Option):
    """A flag without a value, or with `=true` or `=false`; None where it is not given."""

    def __init__(self, names: Sequence[str], **more: Any) -> None:  # noqa: ANN401 - click's own
        *short, name = names
        super().__init__([*short, f"{name}/{_OFF}{name.removeprefix('--')}"], default=None, **more)

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:  # noqa: ARG002 - click's
        """Return the row of the help text, without the name that only click knows."""
        return None if self.hidden else (", ".join(self.opts), self.help or "")


class Bare(click.Option):
    """A flag whose value may be left out: `--name` or `--name=value`, and never `--name value`.

    Attributes:
        bare: the value where it is left out.
    """

    def __init__(self, names: Sequence[str], *, bare: str, **more: Any) -> None:  # noqa: ANN401 - click's own
        super().__init__(names, **more)
        self.bare = bare


class OneOf(click.Choice[str]):
    """One of some words."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ARG002
        """Return the word. Raises UsageError."""
        if value not in self.choices:
            name = param.opts[-1] if param else ""
            raise UsageError(f"{name} is {' or '.join(self.choices)}, not {value!r}")
        return value


class Seconds(click.ParamType[str]):
    """A whole number of seconds, from 1 to a most."""

    name = "seconds"

    def __init__(self, most: int) -> None:
        self.most = most

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ARG002
        """Return the digits. Raises UsageError."""
        if not re.fullmatch(r"[0-9]{1,6}", value) or not 1 <= int(value) <= self.most:
            raise UsageError(f"{param.opts[0] if param else ''} takes seconds from 1 to {self.most}")
        return value


class Whole(click.ParamType[str]):
    """A whole number, from 1 to a most."""

    name = "number"

    def __init__(self, most: int) -> None:
        self.most = most

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ARG002
        """Return the digits. Raises UsageError."""
        if not re.fullmatch(r"[0-9]{1,9}", value) or not 1 <= int(value) <= self.most:
            raise UsageError(f"{param.opts[-1] if param else ''} takes a number from 1 to {self.most}")
        return value


def moment(text: str, now: float, flag: str) -> float:
    """Read a time: `90m` for so long ago, `2026-11-28T17:00`, local where it names no zone, or Unix seconds.

    Returns:
        Seconds since 1970.

    Raises:
        UsageError: it is none of these.
    """
    with suppress(ValueError):
        return float(text)
    with suppress(ValueError):
        return now - parse_duration(text)
    with suppress(ValueError, OverflowError):
        return datetime.fromisoformat(text).timestamp()
    raise UsageError(
        f"{flag} is a duration (90m, 24h, 7d), a time (2026-11-28T17:00:00+01:00) or Unix seconds: {text!r}"
    )


def switch(*names: str, help: str, hidden: bool = False) -> Option:  # noqa: A002 - click's word
    """Add a flag without a value; the long name is the last one."""
    return click.option(*names, cls=Switch, help=help, hidden=hidden)


def form(*forms: str) -> Option:
    """Add `--format`; the first form is the default."""
    text = f"{' or '.join(forms)} (default {forms[0]})"
    return click.option("--format", "form", type=OneOf(forms), default=forms[0], metavar="FORMAT", help=text)


Given = list[tuple[click.Option, str]]
"""Flags in their order with their values; a switch's is `true` or `false`."""


def read(
    words: Iterable[str], parameters: Iterable[click.Parameter], *, stop_at_word: bool = False, lenient: bool = False
) -> tuple[Given, list[str]]:
    """Take words apart into flags and arguments.

    Args:
        words: of a command line.
        parameters: of the command.
        stop_at_word: leave everything from the first argument on as it is, as Docker does before a command's name.
        lenient: skip what cannot be understood, for completion.

    Raises:
        UsageError: a flag is unknown, lacks its value or has a bad one.
    """
    options = options_of(parameters)
    given: Given = []
    rest: list[str] = []
    remaining = iter(words)
    for word in remaining:
        try:
            if word == "--":
                rest += remaining
            elif word.startswith("--"):
                name, equals, value = word.partition("=")
                given.append(_flag(options, name, value if equals else None, remaining))
            elif word.startswith("-") and word != "-":
                given += _cluster(options, word[1:], remaining)
            else:
                rest += [word, *(remaining if stop_at_word else ())]
        except UsageError:
            if not lenient:
                raise
    return given, rest


def options_of(parameters: Iterable[click.Parameter]) -> dict[str, click.Option]:
    """Return the flags by name."""
    return {name: option for option in parameters if isinstance(option, click.Option) for name in option.opts}


def unbundle(options: Mapping[str, click.Option], word: str) -> tuple[list[str], str]:
    """Take `-Dcfile` apart into `-D -c` and `file`; nothing where none of the flags takes a value."""
    flags: list[str] = []
    for end, letter in enumerate(word[1:], 2):
        option = options.get(f"-{letter}") if word.startswith("-") else None
        if option is None:
            break
        flags.append(f"-{letter}")
        if not option.is_flag:
            return flags, word[end:].removeprefix("=")
    return [], ""


def _cluster(
    options: dict[str, click.Option], letters: str, words: Iterator[str]
) -> Iterator[tuple[click.Option, str]]:
    """Read `-Dc file`, `-cfile`, `-c=file`."""
    while letters:
        name, letters = f"-{letters[0]}", letters[1:]
        option = options.get(name)
        if letters.startswith("=") or (option and not option.is_flag and letters):
            value, letters = letters.removeprefix("="), ""
            yield _flag(options, name, value, words)
        else:
            yield _flag(options, name, None, words)


def _flag(
    options: dict[str, click.Option], name: str, value: str | None, words: Iterator[str]
) -> tuple[click.Option, str]:
    option = options.get(name)
    if option is None:
        raise UsageError(f"unknown flag: {name}{help_text.of_compose(name, options) or did_you_mean(name, options)}")
    if not option.is_flag:
        if value is None:
            value = option.bare if isinstance(option, Bare) else next(words, None)
        if value is None:
            raise UsageError(f"the flag {name} needs a value")
        return option, value
    if value is None or value in _TRUE:
        return option, "true"
    if value in _FALSE:
        return option, "false"
    raise UsageError(f"the flag {name} is a switch: true or false, not {value!r}")


def did_you_mean(word: str, words: Iterable[str], quote: str = "") -> str:
    """Return `; did you mean WORD?` if one of some words is near."""
    import difflib  # noqa: PLC0415 - rarely needed, and slow to import

    near = difflib.get_close_matches(word, list(words), n=1)
    return f"; did you mean {quote}{near[0]}{quote}?" if near else ""


def _asks_for_help(option: click.Option, value: str) -> bool:
    return "--help" in option.opts and value == "true"


def _for_click(given: Given, rest: Sequence[str]) -> list[str]:
    """Write flags and arguments in the one way that click reads as we do."""
    words = []
    for option, value in given:
        name = max(option.opts, key=len)
        off = option.is_flag and value == "false"
        if off and not option.secondary_opts:
            continue  # --help=false
        words.append(option.secondary_opts[0] if off else name if option.is_flag else f"{name}={value}")
    return [*words, *(["--", *rest] if rest else [])]


_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": help_text.WIDTH}


class Command(click.Command):
    """A command that reads its words as Docker does, takes Docker's global flags, and shows its help as Docker does.

    Attributes:
        usage: how it is called, in one line.
        examples: command lines, for the help text.
    """

    def __init__(self, *words: Any, usage: str = "", examples: str = "", **more: Any) -> None:  # noqa: ANN401 - click's own
        super().__init__(*words, **{"context_settings": _SETTINGS, **more})
        self.no_args_is_help = False  # it would fail without our words
        self.usage = usage
        self.examples = examples

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the command's own parameters, `--help`, and Docker's global flags under names that are free."""
        own = super().get_params(ctx)
        taken = {name for one in own for name in one.opts}
        return [*own, *(option for option in GLOBAL if not taken & set(option.opts))]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line. Raises UsageError."""
        grouped = isinstance(self, click.Group)
        given, rest = read(args, self.get_params(ctx), stop_at_word=grouped, lenient=ctx.resilient_parsing)
        if grouped:
            given, rest = self._help_moved(ctx, given, rest)
        try:
            found = super().parse_args(ctx, _for_click(given, rest))
        except click.UsageError as error:
            if isinstance(error, click.BadParameter) and not isinstance(error, click.MissingParameter):
                raise
            self.explain_arguments(rest)
            raise UsageError(f"wrong number of arguments; it goes: {self.usage}") from None
        if grouped and not rest and not ctx.resilient_parsing:
            click.echo(ctx.get_help())
            ctx.exit(2)
        return found

    def _help_moved(self, ctx: click.Context, given: Given, rest: list[str]) -> tuple[Given, list[str]]:
        """Move `help COMMAND` and `--help COMMAND` behind the command, whose help it is that is wanted."""
        words = list(dropwhile(_HELP_WORD.__eq__, rest))
        if len(words) == len(rest) and not any(_asks_for_help(*each) for each in given):
            return given, rest
        if not words:
            return [*given, *read(["--help"], self.get_params(ctx))[0]], []
        return [each for each in given if not _asks_for_help(*each)], [words[0], "--help", *words[1:]]

    def explain_arguments(self, words: Sequence[str]) -> None:
        """Explain a wrong number of arguments. Raises UsageError where a compose file stands among them."""
        if any(parameter.name == "compose_file" for parameter in self.params):
            help_text.name_the_file(
                self.name or "", words, stack=any(isinstance(one, click.Argument) for one in self.params)
            )

    def get_help(self, ctx: click.Context) -> str:
        """Return the help text, as wide as the terminal; anywhere else of one width."""
        if not sys.stdout.isatty():
            ctx.terminal_width = help_text.WIDTH
        return super().get_help(ctx)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help text."""
        help_text.write(formatter, self, ctx)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the flags, and a group's commands, that begin with a word."""
        return [item for item in super().shell_complete(ctx, incomplete) if not item.value.startswith(_OFF)]


class Group(Command, click.Group):
    """A command that has commands."""

    command_class = Command

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        """Return the commands in the order in which they were declared."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command. Raises UsageError, with what may have been meant."""
        command = self.get_command(ctx, args[0])
        if command is None and not ctx.resilient_parsing:
            commands = self.list_commands(ctx)
            near = help_text.of_compose(args[0], commands) or did_you_mean(args[0], commands, "'")
            raise UsageError(f"there is no command {args[0]!r}{near or '; there are: ' + ', '.join(commands)}")
        return args[0], command, args[1:]


def context_of(command: click.Command) -> click.Context:
    """Return a context in which a command's parameters can be read."""
    return click.Context(command, **command.context_settings)


def named(command: click.Command, words: Sequence[str]) -> click.Command | None:
    """Return the command that words name, in a group or in groups of it; None where there is none of that name."""
    while isinstance(command, click.Group):
        context = context_of(command)
        rest = read(words, command.get_params(context), stop_at_word=True, lenient=True)[1]
        name, *words = [*dropwhile(_HELP_WORD.__eq__, rest), ""]
        if not name:
            break
        inner = command.get_command(context, name)
        if inner is None:
            return None
        command = inner
    return command


def _remember(ctx: click.Context, option: click.Parameter, value: tuple[str, ...] | bool | None) -> None:
    values = value if isinstance(value, tuple) else () if value is None else (str(value).lower(),)
    name = next(name for name in option.opts if name.startswith("--"))
    ctx.meta.setdefault(_DOCKER_FLAGS, []).extend(f"{name}={each}" for each in values)


def docker_flags(ctx: click.Context) -> list[str]:
    """Return Docker's global flags as the user gave them, before or after the command."""
    flags: list[str] = ctx.meta.get(_DOCKER_FLAGS, [])
    return flags


def pass_docker(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command's function the docker program, aimed as Docker's global flags say."""

    @click.pass_context
    @wraps(function)
    def run(ctx: click.Context, /, **values: Any) -> Any:  # noqa: ANN401 - the command's own
        return function(choose(docker_flags(ctx)), **values)

    return run


def _global(name: str, short: str = "", *, value: bool = True, **more: Any) -> click.Option:  # noqa: ANN401 - click's own
    names = [*([f"-{short}"] if short else []), f"--{name}"]
    more |= {"expose_value": False, "callback": _remember, "hidden": True}
    return click.Option(names, multiple=True, **more) if value else Switch(names, **more)


CONTEXT = _global("context", "c")
"""`-c` before our name; behind it `-c` is a compose file."""
GLOBAL = (
    _global("config"),
    _global("context"),
    _global("debug", "D", value=False),
    _global("host", "H"),
    _global("log-level", "l"),
    _global("tls", value=False),
    _global("tlscacert", type=click.Path()),
    _global("tlscert", type=click.Path()),
    _global("tlskey", type=click.Path()),
    _global("tlsverify", value=False),
)
"""Docker's global flags: a plugin takes them anywhere."""
