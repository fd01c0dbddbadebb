"""What `render` and `deploy` do with compose files."""

import sys
from collections.abc import Sequence

from compose_ext import deployed
from compose_ext.engine import Docker
from compose_ext.errors import Report, UsageError
from compose_ext.files import Files, Named, open_all
from compose_ext.handover import handed
from compose_ext.override import compile_override, dump
from mesh.labels import check_service_name

PASSED_ON = ("with-registry-auth", "prune", "resolve-image", "detach", "quiet")
"""Flags of `docker stack deploy` that are none of our business."""
MAX_TOLD = 100
"""Problems that are printed one by one."""

_NOTHING = "services: {}\n"
_FIRST = (
    "# Give this to `docker stack deploy` before your own files: -c THIS -c YOURS. Behind them Docker would drop\n"
    "# some of the ports, configs and secrets of services that stand in both (docker/cli#2407).\n"
)


class BadFilesError(Exception):
    """The files have errors, which the user has been told."""


def render(named: Named, stack: str) -> None:
    """Print the override that `deploy` would add.

    Raises:
        BadFilesError: there are errors.
        UsageError: no file is named, or no good stack.
    """
    files, override = _compile(named, stack_name(stack), "")
    sys.stdout.write(_FIRST + (override or _empty(files)))


def deploy(docker: Docker, named: Named, stack: str, flags: Sequence[str], *, alone: bool = False) -> int:
    """Have Docker deploy the files together with the override; returns Docker's exit code.

    Args:
        docker: the program.
        named: the files.
        stack: its name.
        flags: passed on.
        alone: also where the Swarm has no Linkwire that would wire the links.

    Raises:
        BadFilesError: there are errors, and nothing was deployed.
        DockerError: docker cannot be run, or the Swarm has no Linkwire; nothing was deployed.
        UsageError: no file is named, or no good stack.
    """
    stack = stack_name(stack)
    files, override = _compile(named, stack, "; nothing was deployed")
    docker = docker.with_variables(files.variables)
    if files.links and files.links.entries and not alone:
        deployed.require_linkwire(docker)
    if files.links:
        say(f"{files.links.summary}; Docker says below that it ignores `links`: Linkwire does not")
    else:
        say("no x-wireguard in these files: deploying them unchanged")
    with handed(docker, files.sources, override) as handover:
        code = handover.docker.run(["stack", "deploy", *handover.arguments, *flags, stack], handover.stdin)
    if code == 0 and not alone:
        deployed.remember(docker, stack, files.links, say)
    return code


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


def tell(report: Report, consequence: str = "") -> None:
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


def say(text: str) -> None:
    """Print a line of progress, beside Docker's."""
    print(f"linkwire: {text}", file=sys.stderr)


def _compile(named: Named, stack: str, consequence: str) -> tuple[Files, str]:
    """Return the files and the text of the override, which is empty if none is needed."""
    report = Report()
    files = open_all(named, report)
    override = compile_override(files.links, stack, report) if files.links and not report.errors else {}
    tell(report, consequence)
    return files, dump(override) if override.get("services") else ""


def _empty(files: Files) -> str:
    """Return an override that changes nothing, and that Docker takes beside the files: of their version."""
    version = files.documents[0].root.entries.get("version") if files.documents else None
    if version is None:
        return _NOTHING
    return dump({"version": getattr(version.value, "text", "")}) + _NOTHING
