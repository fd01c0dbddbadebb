"""Reads command lines the way Docker's do (pflag), which argparse cannot: `-Dc file`, `-c=file`, `--tls=false`."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from compose_ext.errors import UsageError

# Go's strconv.ParseBool
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag a command knows."""

    name: str
    short: str = ""
    takes_value: bool = True
    """False: a switch; `--name=false` turns it off."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a command line said."""

    given: tuple[tuple[Flag, str], ...] = ()
    """Flags in their order with their values; a switch's is `true` or `false`."""
    rest: tuple[str, ...] = field(default=())

    def all(self, name: str) -> list[str]:
        """Return every value given for a flag."""
        return [value for flag, value in self.given if flag.name == name]

    def last(self, name: str, default: str = "") -> str:
        """Return the value given last: it counts."""
        return next(reversed(self.all(name)), default)

    def is_on(self, name: str) -> bool:
        """Whether a switch is on."""
        return self.last(name) == "true"

    def written(self, names: Iterable[str] | None = None) -> list[str]:
        """Write the flags down again, for a program that knows them too; `names` chooses."""
        wanted = None if names is None else set(names)
        return [f"--{flag.name}={value}" for flag, value in self.given if wanted is None or flag.name in wanted]


def parse(arguments: Iterable[str], flags: Iterable[Flag], *, stop_at_word: bool = False) -> Parsed:
    """Read arguments.

    Args:
        arguments: what stands on the command line.
        flags: what may stand there.
        stop_at_word: leave everything from the first word that is no flag to the caller, as Docker does before
            the name of a command.

    Raises:
        UsageError: a flag is unknown, lacks its value or has a bad one.
    """
    known = {f"--{flag.name}": flag for flag in flags} | {f"-{flag.short}": flag for flag in flags if flag.short}
    given: list[tuple[Flag, str]] = []
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--":
            rest += words
        elif word.startswith("--"):
            name, equals, value = word.partition("=")
            given.append(_take(known, name, value if equals else None, words))
        elif word.startswith("-") and word != "-":
            given += _cluster(known, word[1:], words)
        else:
            rest.append(word)
            if stop_at_word:
                rest += words
    return Parsed(tuple(given), tuple(rest))


def _cluster(known: dict[str, Flag], letters: str, words: Iterator[str]) -> Iterator[tuple[Flag, str]]:
    """Read `-Dc file`, `-cfile`, `-c=file`."""
    while letters:
        name, letters = f"-{letters[0]}", letters[1:]
        flag = known.get(name)
        if letters.startswith("=") or (flag and flag.takes_value and letters):
            value, letters = letters.removeprefix("="), ""
            yield _take(known, name, value, words)
        else:
            yield _take(known, name, None, words)


def _take(known: dict[str, Flag], name: str, value: str | None, words: Iterator[str]) -> tuple[Flag, str]:
    flag = known.get(name)
    if flag is None:
        import difflib  # noqa: PLC0415 - rarely needed, and it is slow to import

        near = difflib.get_close_matches(name, known, n=1)
        raise UsageError(f"unknown flag: {name}" + (f"; did you mean {near[0]}?" if near else ""))
    if flag.takes_value:
        if value is None:
            value = next(words, None)
        if value is None:
            raise UsageError(f"the flag {name} needs a value")
        return flag, value
    if value is None or value in _TRUE:
        return flag, "true"
    if value in _FALSE:
        return flag, "false"
    raise UsageError(f"the flag {name} is a switch: true or false, not {value!r}")
