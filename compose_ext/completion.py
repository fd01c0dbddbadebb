"""Shell completion, in the protocol by which Docker's own completion asks its plugins (cobra's `__complete`).

bash, zsh and fish ask `docker __complete linkwire WORD...`, and Docker hands that on to the plugin. The answer is a
line a candidate, with a tab before its description, and a last line with a colon and a directive.
"""

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress

import click
from click.shell_completion import CompletionItem, ShellComplete

from compose_ext.diagnostics import DockerError, UsageError
from compose_ext.docker_cli import Docker, choose
from compose_ext.pflag import context_of, docker_flags, named, options_of, unbundle

REQUESTS = ("__complete", "__completeNoDesc")
# github.com/spf13/cobra completions.go, ShellCompDirective
_ERROR = 1
_NO_FILES = 4
_FILE_EXTENSIONS = 8
_ANY_FILE = 0
_SECONDS = 3.0
"""A shell waits for the answer."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_EXTENSION = "extension"
_MANY = -1
"""Of click's: an argument that may be given many times."""


class _Compose(click.ParamType[str]):
    name = "file"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002 - click's
        return [CompletionItem(extension, type=_EXTENSION) for extension in ("yml", "yaml", "json")]


class _Any(click.ParamType[str]):
    name = "file"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002 - click's
        return [CompletionItem(incomplete, type="file")]


COMPOSE_FILE, ANY_FILE = _Compose(), _Any()


def complete(command: click.Command, request: str, words: Sequence[str]) -> str:
    """Answer one request.

    Args:
        command: of our name.
        request: one of REQUESTS.
        words: behind it: our name, what stands before the cursor, and the word at the cursor, which may be empty.
    """
    *before, word = words[1:] or [""]
    try:
        found = named(command, before)
        items = [] if found is None else _items(command, found, before, word)
    except (click.ClickException, UsageError):
        return f":{_ERROR}\n"
    kinds = {item.type for item in items}
    if "file" in kinds:
        return f":{_ANY_FILE}\n"
    lines = [_line(item, described=request == REQUESTS[0]) for item in items]
    return "".join([*lines, f":{_FILE_EXTENSIONS if _EXTENSION in kinds else _NO_FILES}\n"])


def _items(command: click.Command, found: click.Command, before: Sequence[str], word: str) -> list[CompletionItem]:
    """Return the candidates for a word of the command that was found."""
    options = options_of(found.get_params(context_of(found)))
    name, equals, value = word.partition("=")
    if equals and (option := options.get(name)) and option.is_flag:
        return [CompletionItem(text) for text in ("true", "false") if text.startswith(value)]
    # click knows a flag that waits for its value only where it stands alone.
    cluster, value = unbundle(options, word)
    if cluster and value:
        return _candidates(command, [*before, *cluster], value)
    cluster, value = unbundle(options, before[-1]) if before else ([], "")
    return _candidates(command, [*before[:-1], *cluster] if cluster and not value else before, word)


def _candidates(command: click.Command, before: Sequence[str], word: str) -> list[CompletionItem]:
    return ShellComplete(command, {}, "docker linkwire", "").get_completions(list(before), word)


def _line(item: CompletionItem, *, described: bool) -> str:
    text = (item.help or "").partition("\n")[0].removesuffix(".")
    return f"{item.value}\t{text}\n" if described and text else f"{item.value}\n"


def stacks(ctx: click.Context, parameter: click.Parameter, word: str) -> list[str]:
    """Return the names of the Swarm's stacks that begin with a word."""
    return _asked(ctx, parameter, ["stack", "ls", "--format", "{{.Name}}"], word)


def services(ctx: click.Context, parameter: click.Parameter, word: str) -> list[str]:
    """Return the names of the Swarm's services that begin with a word."""
    return _asked(ctx, parameter, ["service", "ls", "--format", "{{.Name}}"], word)


def subjects(ctx: click.Context, parameter: click.Parameter, word: str) -> list[str]:
    """Return the names of the Swarm's stacks and services that begin with a word."""
    return [*stacks(ctx, parameter, word), *services(ctx, parameter, word)]


def nodes(ctx: click.Context, parameter: click.Parameter, word: str) -> list[str]:
    """Return the names of the Swarm's nodes that begin with a word."""
    return _asked(ctx, parameter, ["node", "ls", "--format", "{{.Hostname}}"], word)


def docker(ctx: click.Context) -> Docker:
    """Return the docker program that a command line aims at."""
    return choose(docker_flags(ctx))


def beginning(ctx: click.Context, parameter: click.Parameter, names: Iterable[str], word: str) -> list[str]:
    """Return the names that begin with a word, each once, but those that the command line has already."""
    given = (ctx.params.get(parameter.name or "") or ()) if parameter.nargs == _MANY else ()
    return sorted({name for name in names if name.startswith(word)}.difference(given))


def _asked(ctx: click.Context, parameter: click.Parameter, question: Sequence[str], word: str) -> list[str]:
    with suppress(DockerError):
        names = docker(ctx).ask(question, _SECONDS).split()
        # A node says its name itself, and what is returned here goes to the user's shell.
        return beginning(ctx, parameter, filter(_NAME.fullmatch, names), word)
    return []
