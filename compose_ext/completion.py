"""Shell completion, in the protocol by which Docker's own completion asks its plugins (cobra's `__complete`).

bash, zsh and fish ask `docker __complete linkwire WORD...`, and Docker hands that on to the plugin. The answer is a
line a candidate, with a tab before its description, and a last line with a colon and a directive.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress

import click
from click.shell_completion import CompletionItem, ShellComplete

from compose_ext.diagnostics import DockerError, UsageError
from compose_ext.docker_cli import Docker, choose
from compose_ext.pflag import docker_flags

REQUESTS = ("__complete", "__completeNoDesc")
# github.com/spf13/cobra completions.go, ShellCompDirective
_ERROR = 1
_NO_FILES = 4
_FILE_EXTENSIONS = 8
_ANY_FILE = 0
_SECONDS = 3.0
"""A shell waits for the answer."""
_EXTENSION = "extension"


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
        items = ShellComplete(command, {}, "docker linkwire", "").get_completions(list(before), word)
    except (click.ClickException, UsageError):
        return f":{_ERROR}\n"
    kinds = {item.type for item in items}
    if "file" in kinds:
        return f":{_ANY_FILE}\n"
    lines = [_line(item, described=request == REQUESTS[0]) for item in items]
    return "".join([*lines, f":{_FILE_EXTENSIONS if _EXTENSION in kinds else _NO_FILES}\n"])


def _line(item: CompletionItem, *, described: bool) -> str:
    text = (item.help or "").partition("\n")[0].removesuffix(".")
    return f"{item.value}\t{text}\n" if described and text else f"{item.value}\n"


def stacks(ctx: click.Context, _parameter: click.Parameter, word: str) -> list[str]:
    """Return the names of the Swarm's stacks that begin with a word."""
    return _asked(ctx, ["stack", "ls", "--format", "{{.Name}}"], word)


def nodes(ctx: click.Context, _parameter: click.Parameter, word: str) -> list[str]:
    """Return the names of the Swarm's nodes that begin with a word."""
    return _asked(ctx, ["node", "ls", "--format", "{{.Hostname}}"], word)


def docker(ctx: click.Context) -> Docker:
    """Return the docker program that a command line aims at."""
    return choose(docker_flags(ctx))


def beginning(names: Iterable[str], word: str) -> list[str]:
    """Return the names that begin with a word, each once."""
    return sorted({name for name in names if name.startswith(word)})


def _asked(ctx: click.Context, question: Sequence[str], word: str) -> list[str]:
    with suppress(DockerError):
        return beginning(docker(ctx).ask(question, _SECONDS).split(), word)
    return []
