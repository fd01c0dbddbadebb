"""`docker linkwire render` and `deploy`: compose files with the labels that their links need."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import click

from compose_ext.commands.arguments import compose_files, named_files, stack_name
from compose_ext.completion import stacks
from compose_ext.diagnostics import INCOMPLETE, BadFilesError, DockerError, Report
from compose_ext.docker_cli import Docker, printable
from compose_ext.document import networks
from compose_ext.language.compose_files import Files, Named, open_all
from compose_ext.language.override import compile_override, dump
from compose_ext.language.validation import Links
from compose_ext.pflag import Command, Seconds, pass_docker, switch
from compose_ext.swarm import linked_stacks, listings
from compose_ext.swarm.compose_handover import handed
from compose_ext.terminal import complain
from mesh.model.labels.absent_services import near_service

MAX_TOLD = 100
"""Problems that are printed one by one."""

DEFAULT_WAIT = 300.0
"""Seconds; an image may have to be pulled by every node."""
_MOST_WAIT = 86_400
_HELP_TIMEOUT = 20.0
_EXITED = "non-zero exit"
"""In what Docker says of a task whose program failed."""

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


@dataclass(frozen=True, slots=True)
class Waiting:
    """How to wait for a stack's links.

    Attributes:
        detach: not at all; None: not said.
        seconds: at most.
        quiet: say nothing meanwhile; None: not said.
    """

    detach: bool | None = True
    seconds: float = DEFAULT_WAIT
    quiet: bool | None = None


def deploy(
    docker: Docker,
    named: Named,
    stack: str,
    flags: Sequence[str],
    *,
    alone: bool = False,
    waiting: Waiting = Waiting(),
) -> int:
    """Have Docker deploy the files together with the override, and wait until their links are wired.

    Args:
        docker: the program.
        named: the files.
        stack: its name.
        flags: passed on.
        alone: also where the Swarm has no Linkwire that would wire the links.
        waiting: for the links.

    Returns:
        The exit code: 1 where Docker failed, INCOMPLETE where not every link is wired.

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
    watched = None if alone or waiting.detach else files.links
    flags = [*flags, *_docker_flags(docker, waiting, waits=watched is not None)]
    with (
        _interrupted(f"Docker may have deployed a part of {stack}; deploy again to complete it"),
        handed(docker, files.sources, override, _sizes(docker, files, stack)) as handover,
    ):
        code = handover.docker.run(["stack", "deploy", *handover.arguments, *flags, stack], handover.stdin)
    if code:
        listings.manager(docker)  # Docker has said why; where this is no manager, say which one there is
        return 1
    with _interrupted(
        f"{stack} is deployed, only the waiting has ended: its links are wired all the same. To see them: "
        f"docker linkwire ps {stack}. To wait again, deploy again"
    ):
        if not alone:
            linked_stacks.remember(docker, stack, files.links, say)
        return _wait(docker, stack, watched, waiting) if watched else 0


@contextmanager
def _interrupted(text: str) -> Iterator[None]:
    """Say what an interruption leaves behind, by Ctrl-C or by a signal to end (`plugin` makes it a SystemExit)."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        say(text)
        raise


def _docker_flags(docker: Docker, waiting: Waiting, *, waits: bool) -> list[str]:
    """Return the flags about waiting for a Docker that has them: from 26 on. Where we wait, Docker need not."""
    given = {"--detach": True if waits else waiting.detach, "--quiet": waiting.quiet}
    said = [f"{flag}={str(value).lower()}" for flag, value in given.items() if value is not None]
    if not said:
        return []
    with suppress(DockerError):
        known = docker.ask(["stack", "deploy", "--help"], _HELP_TIMEOUT)
        return [flag for flag in said if flag.partition("=")[0] in known]
    return said


def _wait(docker: Docker, stack: str, links: Links, waiting: Waiting) -> int:
    """Wait until every link is wired; returns the exit code."""
    from compose_ext.convergence import display, poller  # noqa: PLC0415 - `render` and `--detach` need neither

    names = {f"{stack}_{name}" for name in links.project.services}
    watched = poller.Stack(docker, stack, names, {f"{stack}_{name}" for name in links.linked})
    began = time.monotonic()
    with display.Display(quiet=bool(waiting.quiet)) as shown:
        judgement = watched.wait(waiting.seconds, shown.show)
    took = time.monotonic() - began
    if judgement.done:
        idle = f"; nobody answers on links to {', '.join(judgement.idle)}: scaled to 0" if judgement.idle else ""
        which = "every other provider" if judgement.idle else "every provider"
        say(f"{stack}: every link is wired, and {which} has a ready task, after {took:.0f} s{idle}")
        return 0
    complain(f"{stack} is deployed, and not complete after {took:.0f} s:")
    told = judgement.missing[:MAX_TOLD]
    there = listings.known_services(docker) if any(missing.absent for _, missing in told) else ()
    for service, missing in told:
        near = near_service(service, missing.absent, there) if missing.absent else ""
        complain(f"  {service}: {missing.text}{near}")
        if _EXITED in missing.text:
            complain(f"  {service}: its program ended; what it wrote: docker service logs {service}")
    complain(f"Nothing was undone. See docker linkwire check --stack {stack}, or deploy again to go on waiting")
    return INCOMPLETE


def tell(report: Report, consequence: str = "", tell_one: Callable[[str, str], None] = complain) -> None:
    """Print every problem, by `tell_one`; raises BadFilesError if there are errors."""
    errors, warnings = report.errors, report.warnings
    for problems, style in ((warnings, "yellow"), (errors, "red")):
        for problem in problems[:MAX_TOLD]:
            tell_one(str(problem), style)
        if len(problems) > MAX_TOLD:
            tell_one(f"... and {len(problems) - MAX_TOLD} more", style)
    if errors:
        tell_one(f"{len(errors)} error{'s' if len(errors) > 1 else ''}{consequence}", "red")
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


def _sizes(docker: Docker, files: Files, stack: str) -> str:
    """Return the file that gives networks an MTU with which their packets fit into node encryption, where it is on.

    Networks that are there keep theirs, whatever a file says: Docker makes only those that are missing.
    """
    from compose_ext.health import node_encryption  # noqa: PLC0415 - `render` needs none of it

    found = networks.overlays(files.documents, {**os.environ, **files.variables}, stack)
    if not found:
        return ""
    try:
        mtu = node_encryption.fitting(docker)
        listed = docker.ask(["network", "ls", "--format", "{{.Name}}"], listings.TIMEOUT) if mtu is not None else ""
    except DockerError:  # Docker says why, when it deploys
        return ""
    missing = [network for network in found if network.name not in listed.splitlines()]
    if mtu is None or not missing:
        return ""
    names = ", ".join(network.name for network in missing)
    say(f"{names}: made with an MTU of {mtu}, so that packets fit into node encryption")
    return networks.with_mtu(missing, mtu, files.documents)


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
        docker linkwire deploy -c shop.yml --timeout 60 shop
        docker -H ssh://manager linkwire deploy --detach -c shop.yml shop
    """,
)
@compose_files
@switch("-d", "--detach", help="Do not wait until every link is wired")
@click.option(
    "--timeout",
    type=Seconds(_MOST_WAIT),
    default=f"{DEFAULT_WAIT:g}",
    metavar="SECONDS",
    help=f"How long to wait for that (default {DEFAULT_WAIT:g})",
)
@switch("--prune", help="Remove services that the files no longer have (passed on)")
@switch("-q", "--quiet", help="Suppress progress output")
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
    timeout: str,
    *,
    without_linkwire: bool | None,
    detach: bool | None,
    quiet: bool | None,
    **passed_on: str | bool | None,
) -> int:
    """Deploy a stack, or update it, with its links, and wait until they are wired.

    Hands a file of its own, and then yours, to `docker stack deploy`; only yours if none of them has x-wireguard.
    With node encryption one more goes behind them, by which networks are made with an MTU that fits into it.
    Without -c it reads the files in COMPOSE_FILE. Then it waits until all tasks run, every link is wired and every
    provider has a ready task; Ctrl-C ends the waiting and leaves the stack as it is. Exits with 0 if all went well,
    with 1 if Docker failed or the Swarm has no Linkwire, with 2 if the files or the command line are wrong, in which
    case nothing is deployed, with 3 if the stack is deployed and something is missing, and with 130 after Ctrl-C.
    """
    flags = [
        f"--{name.replace('_', '-')}={value if isinstance(value, str) else str(value).lower()}"
        for name in ("prune", "with_registry_auth", "resolve_image")
        if (value := passed_on[name]) is not None
    ]
    waiting = Waiting(detach, float(timeout), quiet)
    named = named_files(compose_file, env_file)
    return deploy(docker, named, stack, flags, alone=bool(without_linkwire), waiting=waiting)
