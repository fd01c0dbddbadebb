"""`docker linkwire render` and `deploy`: compose files with the labels that their links need."""

import sys
from collections.abc import Sequence

import click

from compose_ext.commands.arguments import compose_files, named_files, stack_name
from compose_ext.completion import stacks
from compose_ext.diagnostics import BadFilesError, Report
from compose_ext.docker_cli import Docker, printable
from compose_ext.language.compose_files import Files, Named, open_all
from compose_ext.language.override import compile_override, dump
from compose_ext.pflag import Command, pass_docker, switch
from compose_ext.swarm import linked_stacks, queries
from compose_ext.swarm.handover import handed
from compose_ext.terminal import complain

MAX_TOLD = 100
"""Problems that are printed one by one."""

_NOTHING = "services: {}\n"
_FIRST = (
    "# Give this to `docker stack deploy` before your own files: -c THIS -c YOURS. Behind them Docker would drop\n"
    "# some of the ports, configs and secrets of services that stand in both (docker/cli#2407).\n"
)


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
    if files.links and (files.links.entries or files.links.declared) and not alone:
        linked_stacks.require_linkwire(docker)
    if files.links:
        say(f"{files.links.summary}; Docker says below that it ignores `links`: Linkwire does not")
    else:
        say("no x-wireguard in these files: deploying them unchanged")
    with handed(docker, files.sources, override) as handover:
        code = handover.docker.run(["stack", "deploy", *handover.arguments, *flags, stack], handover.stdin)
    if code == 0 and not alone:
        linked_stacks.remember(docker, stack, files.links, say)
    return code


def tell(report: Report, consequence: str = "") -> None:
    """Print every problem; raises BadFilesError if there are errors."""
    errors, warnings = report.errors, report.warnings
    for problems, style in ((warnings, "yellow"), (errors, "red")):
        for problem in problems[:MAX_TOLD]:
            complain(str(problem), style)
        if len(problems) > MAX_TOLD:
            complain(f"... and {len(problems) - MAX_TOLD} more", style)
    if errors:
        complain(f"{len(errors)} error{'s' if len(errors) > 1 else ''}{consequence}")
        raise BadFilesError


def say(text: str) -> None:
    """Print a line of progress, beside Docker's."""
    print(f"linkwire: {printable(text)}", file=sys.stderr)


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


@click.command(
    "render",
    cls=Command,
    usage="docker linkwire render -c FILE STACK",
    examples="""
        docker linkwire render -c shop.yml shop
        docker linkwire render -c shop.yml shop > links.yml
        docker stack deploy -c links.yml -c shop.yml shop
    """,
)
@compose_files
@click.argument("stack", shell_complete=stacks)
def render_command(compose_file: Sequence[str], env_file: Sequence[str], stack: str) -> None:
    """Print what deploy adds to the compose files: one more, with labels.

    It has to stand before yours: docker stack deploy -c THIS -c FILE STACK. Behind them Docker would drop some of the
    ports, configs and secrets of services that stand in both.
    """
    render(named_files(compose_file, env_file), stack)


@click.command(
    "deploy",
    cls=Command,
    usage="docker linkwire deploy -c FILE [OPTIONS] STACK",
    examples="""
        docker linkwire deploy -c shop.yml shop
        docker linkwire deploy -c shop.yml -c production.yml --env-file .env --prune shop
        docker -H ssh://manager linkwire deploy -c shop.yml shop
    """,
)
@compose_files
@switch("-d", "--detach", help="Do not wait for the services to converge (passed to docker stack deploy)")
@switch("--prune", help="Remove services that the files no longer have (passed on)")
@switch("-q", "--quiet", help="Suppress progress output (passed on)")
@click.option(
    "--resolve-image",
    metavar="WHEN",
    help="Resolve image digests: always, changed or never (passed on)",
    shell_complete=lambda _ctx, _option, word: [
        one for one in ("always", "changed", "never") if one.startswith(word)
    ],
)
@switch("--with-registry-auth", help="Send registry authentication to the nodes (passed on)")
@switch(f"--{linked_stacks.WITHOUT}", help="Deploy also where the Swarm has no Linkwire that would wire the links")
@click.argument("stack", shell_complete=stacks)
@pass_docker
def deploy_command(
    docker: Docker,
    compose_file: Sequence[str],
    env_file: Sequence[str],
    stack: str,
    *,
    without_linkwire: bool | None,
    **passed_on: str | bool | None,
) -> int:
    """Deploy a stack, or update it, with its links.

    Hands a file of its own, and then yours, to `docker stack deploy`; only yours if none of them has x-wireguard.
    Without -c it reads the files in COMPOSE_FILE. Exits with 0 if all went well, with 1 if Docker failed or the Swarm
    has no Linkwire, with 2 if the files or the command line are wrong; nothing is deployed then.
    """
    flags = [
        f"--{name.replace('_', '-')}={value if isinstance(value, str) else str(value).lower()}"
        for name in ("prune", "with_registry_auth", "resolve_image", "detach", "quiet")
        if (value := passed_on[name]) is not None
    ]
    if deploy(docker, named_files(compose_file, env_file), stack, flags, alone=bool(without_linkwire)):
        queries.manager(docker)  # Docker has said why; where this is no manager, say which one there is
        return 1
    return 0
