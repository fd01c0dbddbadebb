"""What `check`, `render` and `deploy` do with compose files."""

import sys
from collections.abc import Sequence

from compose_ext.engine import Docker, private_files
from compose_ext.errors import DockerError, Problem, Report, UsageError
from compose_ext.files import Files, open_all, split
from compose_ext.links import Links
from compose_ext.loader import STDIN
from compose_ext.override import compile_override, dump
from mesh.labels import check_service_name

PASSED_ON = ("with-registry-auth", "prune", "resolve-image", "detach", "quiet")
"""Flags of `docker stack deploy` that are none of our business."""
MAX_TOLD = 100
"""Problems that are printed one by one."""

_OVERRIDE = "linkwire.yml"
_LOOK_UP = 5.0
"""Seconds that looking for other stacks' services may take: it is a courtesy."""


class BadFilesError(Exception):
    """The files have errors, which the user has been told."""


def check(docker: Docker, values: Sequence[str], stack: str | None) -> None:
    """Check files and say what they come to.

    Args:
        docker: asked for the services that `external_links` name; no answer is none.
        values: of `-c`.
        stack: whose services' names are checked too.

    Raises:
        BadFilesError: there are errors.
        UsageError: no file is named, or no good stack.
    """
    stack = stack_name(stack) if stack is not None else None
    report = Report()
    files = open_all(split(values), report)
    if files.links and stack and not report.errors:
        compile_override(files.links, stack, report)
    _tell(report, "")
    if files.links is None:
        print("ok: no x-wireguard in these files; docker linkwire deploys them unchanged")
        return
    _tell_absent(docker, files.links)
    print(f"ok: {files.links.summary}")


def render(values: Sequence[str], stack: str) -> None:
    """Print the override that `deploy` would add.

    Raises:
        BadFilesError: there are errors.
        UsageError: no file is named, or no good stack.
    """
    override = _compile(values, stack_name(stack), "")[1]
    sys.stdout.write(override or "{}\n")


def deploy(docker: Docker, values: Sequence[str], stack: str, flags: Sequence[str]) -> int:
    """Have Docker deploy the files together with the override; returns Docker's exit code.

    Raises:
        BadFilesError: there are errors, and nothing was deployed.
        DockerError: docker cannot be run.
        UsageError: no file is named, or no good stack.
    """
    stack = stack_name(stack)
    files, override = _compile(values, stack, "; nothing was deployed")
    if files.links:
        _say(f"{files.links.summary}; Docker says below that it ignores `links`: Linkwire does not")
    else:
        _say("no x-wireguard in these files: deploying them unchanged")
    # A pipe is empty after the first reading: Docker gets a copy of what was in it.
    emptied = {f"{number}.yml": source.data for number, source in enumerate(files.sources) if source.is_pipe}
    with private_files(emptied | ({_OVERRIDE: override.encode()} if override else {})) as written:
        paths = [written.get(f"{number}.yml", source.path) for number, source in enumerate(files.sources)]
        paths += [written[_OVERRIDE]] if override else []
        named = [f"--compose-file={_quoted(path)}" for path in paths]
        stdin = next((source.data for source in files.sources if source.path == STDIN), None)
        return docker.run(["stack", "deploy", *named, *flags, stack], stdin)


def stack_name(name: str) -> str:
    """Check a stack's name: it begins the names of its services.

    Raises:
        UsageError: Swarm would refuse it.
    """
    try:
        check_service_name(name)
    except ValueError as error:
        raise UsageError(f"{name!r} cannot name a stack: {error}") from None
    return name


def _compile(values: Sequence[str], stack: str, consequence: str) -> tuple[Files, str]:
    """Return the files and the text of the override, which is empty if none is needed."""
    report = Report()
    files = open_all(split(values), report)
    override = compile_override(files.links, stack, report) if files.links and not report.errors else {}
    _tell(report, consequence)
    return files, dump(override) if override.get("services") else ""


def _tell(report: Report, consequence: str) -> None:
    """Print every problem; raises BadFilesError if there are errors."""
    errors, warnings = report.errors, report.warnings
    for problems in (warnings, errors):
        for problem in problems[:MAX_TOLD]:
            print(problem, file=sys.stderr)
        if len(problems) > MAX_TOLD:
            print(f"... and {len(problems) - MAX_TOLD} more", file=sys.stderr)
    if errors:
        print(f"{len(errors)} error{'s' if len(errors) > 1 else ''}{consequence}", file=sys.stderr)
        raise BadFilesError


def _tell_absent(docker: Docker, links: Links) -> None:
    """Warn of links to services that the Swarm does not have, if a Swarm can be asked."""
    external = [(name, entry) for name, found in links.entries.items() for entry in found if entry.external]
    if not external:
        return
    try:
        present = set(docker.ask(["service", "ls", "--format", "{{.Name}}"], _LOOK_UP).split())
    except DockerError:
        return
    for name, entry in external:
        if entry.provider not in present:
            message = f"this Swarm has no service {entry.provider!r} (yet): the link works as soon as there is one"
            print(
                Problem(message, place=entry.place, service=name, key="external_links", warning=True), file=sys.stderr
            )


def _say(text: str) -> None:
    print(f"linkwire: {text}", file=sys.stderr)


def _quoted(path: str) -> str:
    """Write a path as a value of --compose-file, which Docker takes for a list with commas."""
    return '"' + path.replace('"', '""') + '"' if set(path) & set(',"\r\n') else path
