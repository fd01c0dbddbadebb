"""`docker linkwire check`: everything that is wrong with compose files, or in the Swarm."""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress

import click

from compose_ext.commands import deploy
from compose_ext.commands.arguments import compose_files, named_files, stack_name
from compose_ext.completion import stacks
from compose_ext.diagnostics import DockerError, Problem, Report, UsageError
from compose_ext.docker_cli import Docker, printable
from compose_ext.document.cursor import Context, Cursor
from compose_ext.document.loader import Document
from compose_ext.health import missing_tasks, node_keys
from compose_ext.health.facts import about
from compose_ext.health.judgement import NOTHING_SEEN, judge
from compose_ext.language.compose_files import Files, Named, open_all
from compose_ext.language.override import check_labels, compile_override
from compose_ext.language.project import EXTENSION
from compose_ext.language.unsupported import report_ignored
from compose_ext.language.validation import Links
from compose_ext.pflag import Command, form, pass_docker, switch
from compose_ext.swarm import consents, gate, link_states, linked_stacks, listings, revoked_nodes
from compose_ext.swarm.compose_handover import handed
from compose_ext.terminal import say, show_finding, show_json
from compose_ext.walks import live as live_walks
from mesh.model.labels.link_labels import suggestion

OK = 0
BAD = 2

_LOOK_UP = 5.0
"""Seconds that looking for other stacks' services may take: it is a courtesy."""
_CONFIG = 25
"""The first docker CLI whose `docker stack config` says what `docker stack deploy` would say of files."""
_CONFIG_TIMEOUT = 30.0
"""Seconds; 0.04 are usual."""
_VERSION = re.compile(r"version ([0-9]+)\.")
# What Docker says of a place: services.web.depends_on must be a list
_SECTIONS = ("services", "networks", "volumes", "secrets", "configs")
_PATH = re.compile(rf"\b({'|'.join(_SECTIONS)})\.([A-Za-z0-9_-]+)(?:\.([A-Za-z0-9_-]+))?")
_ROOT = "(root) "
_ADDITIONAL = re.compile(r"Additional property (\S+) is not allowed")


def check(docker: Docker, named: Named, stack: str | None, *, as_json: bool) -> int:
    """Check files and print the result; returns the exit code.

    Args:
        docker: asked what it thinks of the files, and for the services that `external_links` name; no answer is none.
        named: the files.
        stack: whose services' names are checked too.
        as_json: say it for machines.

    Raises:
        BadFilesError: there are errors, which have been printed.
        UsageError: no file is named, or no good stack.
    """
    stack = stack_name(stack) if stack is not None else None
    report = Report()
    files = open_all(named, report)
    if files.links and not report.errors:
        if stack is None:
            check_labels(files.links, report)
        else:
            compile_override(files.links, stack, report)
    asked = False
    if files.documents:
        report_ignored(files.documents, report, linkwires=files.links is not None)
        asked = _ask_docker(docker, files, report)
    if files.links and not report.errors:
        _report_absent(docker, files.links, report)
        if stack is not None:
            _report_unwilling(docker, files.links, stack, report)
    summary = _summary(files, asked=asked)
    if as_json:
        show_json(_answer(report, summary))
        return BAD if report.errors else OK
    deploy.tell(report, tell_one=show_finding)
    print(f"ok{summary}")
    return OK


def _summary(files: Files, *, asked: bool) -> str:
    limited = "" if asked else " as far as links go (docker CLI 25 and later say more)"
    if files.links is None:
        return f"{limited}: no x-wireguard in these files; docker linkwire deploys them unchanged"
    return f"{limited}: {files.links.summary}"


def _answer(report: Report, summary: str) -> dict[str, object]:
    return {
        "ok": not report.errors,
        "summary": "" if report.errors else f"ok{summary}",
        "errors": [problem.as_record() for problem in report.errors],
        "warnings": [problem.as_record() for problem in report.warnings],
    }


def _ask_docker(docker: Docker, files: Files, report: Report) -> bool:
    """Report what Docker refuses of the files; returns whether it could be asked."""
    try:
        version = _VERSION.search(docker.ask(["--version"], _CONFIG_TIMEOUT))
    except DockerError:
        return False
    if version is None or int(version[1]) < _CONFIG:
        return False
    with handed(docker.with_variables(files.variables), files.sources, "") as handover:
        try:
            words = ["stack", "config", *handover.arguments]
            handover.docker.ask(words, _CONFIG_TIMEOUT, stdin=handover.stdin)
        except DockerError as error:
            problem = _located(str(error), files.documents)
            if problem.place is None or problem.place not in {known.place for known in report.errors}:
                report.add(problem)
    return True


def _located(refusal: str, documents: Sequence[Document]) -> Problem:
    """Return Docker's refusal with the place of the key that it names, if there is one; the last file wins."""
    report = Report()
    path = _PATH.search(refusal)
    additional = _ADDITIONAL.search(refusal)
    keys = [key for key in path.groups() if key] if path else []
    if additional and (keys or refusal.startswith(_ROOT)):
        keys.append(additional[1])
    message = f"Docker refuses this: {refusal}"
    for document in reversed(documents):
        cursor, depth = Cursor(Context(report, {}), document.file, document.root), 0
        while depth < len(keys) and (inner := cursor.get(keys[depth])):
            cursor, depth = inner, depth + 1
        if depth and depth >= len(keys) - 1:
            service = keys[1] if keys[0] == _SECTIONS[0] and len(keys) > 1 else None
            return Problem(message, place=cursor.key_place, service=service, key=keys[2] if keys[3:] else None)
    return Problem(message)


def _report_absent(docker: Docker, links: Links, report: Report) -> None:
    """Warn of links to services that the Swarm does not have, if a Swarm can be asked."""
    external = [(name, entry) for name, found in links.entries.items() for entry in found if entry.external]
    if not external:
        return
    try:
        present = set(docker.ask(["service", "ls", "--format", "{{.Name}}"], _LOOK_UP).split())
    except DockerError:
        return
    others = present - {entry.provider for _, entry in external}
    for name, entry in external:
        if entry.provider not in present:
            near = suggestion(entry.provider, others)
            message = (
                f"this Swarm has no service {entry.provider!r} (yet): the link works as soon as there is one{near}"
            )
            report.add(Problem(message, place=entry.place, service=name, key="external_links", warning=True))


def _report_unwilling(docker: Docker, links: Links, stack: str, report: Report) -> None:
    """Warn of links to services of other stacks that do not allow them, if a Swarm can be asked."""
    for name, found in links.entries.items():
        external = [entry for entry in found if entry.external]
        try:
            refusing = _unwilling(docker, [entry.provider for entry in external], f"{stack}_{name}", stack)
        except DockerError:
            return
        for entry in external:
            if entry.provider in refusing:
                line = f"`{EXTENSION}: {{allow: [{stack}_{name}]}}`"
                message = f"{entry.provider!r} does not allow it; its owner can, by {line} there"
                report.add(Problem(message, place=entry.place, service=name, key="external_links", warning=True))


def _unwilling(docker: Docker, providers: Sequence[str], consumer: str, stack: str) -> list[str]:
    if not providers:
        return []
    present = set(docker.ask(["service", "ls", "--format", "{{.Name}}"], _LOOK_UP).split())
    return consents.unwilling(docker, [name for name in providers if name in present], consumer, stack)


def check_swarm(docker: Docker, stack: str | None, *, as_json: bool, is_live: bool = False) -> int:
    """Check the Swarm and print its problems; returns the exit code.

    Raises:
        DockerError: neither the Swarm's services nor an agent can be asked.
        UsageError: the stack has no good name.
    """
    stack = stack_name(stack) if stack else None
    notes: list[str] = []
    with suppress(DockerError):  # a worker's Docker does not know
        notes = gate.notes(docker, stack)
    problems = swarm_problems(docker, stack)
    if is_live:
        shown = say if sys.stdout.isatty() and not as_json else _silently
        problems += map(str, live_walks.problems(docker, stack, shown, problems))
    # Not that every link works: a trial connects to no UDP port, and leaves out what is being deployed.
    good = ": links were tried, and nothing wrong is seen" if is_live else f": {NOTHING_SEEN}"
    if as_json:
        report = Report()
        for problem in problems:
            report.add(Problem(problem))
        for note in notes:
            report.add(Problem(note, warning=True))
        show_json(_answer(report, good))
        return 1 if problems else OK
    for note in notes:
        show_finding(f"warning: {note}", "yellow")
    for problem in problems:
        show_finding(problem)
    if not problems:
        print(f"ok{good}")
    return 1 if problems else OK


def _silently(_text: str) -> None:
    return


def check_upgrade(docker: Docker, stack: str | None, *, as_json: bool) -> int:
    """Print the links between stacks about which their provider says nothing, each provider with the line to add.

    Returns 1 if there are any.

    Raises:
        DockerError: the Swarm's services cannot be asked.
        UsageError: the stack has no good name.
    """
    services = consents.listed(docker)
    if stack:
        linked_stacks.require_stack(docker, stack_name(stack), {str(one.stack) for one in services})
    found = consents.silent(services, stack or None)
    if as_json:
        report = Report()
        for problem in found:
            report.add(Problem(problem))
        show_json(_answer(report, ": every link between stacks is allowed by its provider"))
    else:
        print("\n".join(found) or "ok: every link between stacks is allowed by its provider")
    return 1 if found else OK


def swarm_problems(docker: Docker, stack: str | None) -> list[str]:
    """Return all problems, of one stack or of all.

    Raises:
        DockerError: neither the Swarm's services nor an agent can be asked, or there is no such stack.
    """
    found: list[str] = []
    unanswered: list[str] = []
    stacks: Sequence[str] | None = None
    try:
        found += _label_problems(docker, stack)
    except DockerError as error:
        unanswered.append(f"the labels of services cannot be read: {listings.explained(docker, error)}")
    with suppress(DockerError):  # a worker's Docker does not know
        found += revoked_nodes.problems(docker)
    try:
        answer = link_states.ask(docker, stack, counted=True)
        found += answer.problems
        stacks = answer.stacks if not answer.links else None
        with suppress(DockerError):  # a worker's Docker does not know
            if stack is None:
                found += (finding.text for finding in judge(about(docker, answer)).findings)
                found += node_keys.misplaced(docker, answer)
            else:
                found += (finding.text for finding in missing_tasks.missing(docker, answer))
    except DockerError as error:
        unanswered.append(str(error))
    if len(unanswered) > 1:
        raise DockerError("\n".join(unanswered))
    if stack is not None and stacks is not None:
        linked_stacks.require_stack(docker, stack, stacks)
    return [*dict.fromkeys(found), *unanswered]


def _label_problems(docker: Docker, stack: str | None) -> Iterator[str]:
    services = consents.listed(docker)
    for service in services:
        if stack is None or service.name.startswith(f"{stack}_"):
            yield from (printable(f"service {service.name}: {error}") for error in service.errors)
    yield from consents.refused(docker, services, stack)
    linked = consents.linked(services)
    if linked:
        yield from linked_stacks.dropped(docker, linked, stack)


@click.command(
    "check",
    cls=Command,
    usage="docker linkwire check [-c FILE] [OPTIONS]",
    examples="""
        docker linkwire check -c shop.yml
        docker linkwire check -c shop.yml --stack shop --format json
        docker linkwire check
        docker linkwire check --upgrade
        docker linkwire check --live
    """,
)
@compose_files
@click.option(
    "--stack",
    metavar="STACK",
    help="Check the names that the services get in this stack as well; without a file, report only this stack",
    shell_complete=stacks,
)
@switch("--upgrade", help="List the links between stacks that end when their provider is deployed again as it is")
@switch("--live", help="Try every link as `explain` does, from inside its consumer's task")
@form("text", "json")
@pass_docker
def check_command(
    docker: Docker,
    compose_file: Sequence[str],
    env_file: Sequence[str],
    stack: str | None,
    form: str,
    *,
    upgrade: bool | None,
    live: bool | None,
) -> int:
    """Check compose files, and report everything that is wrong with them.

    Exits with 0 if nothing is wrong, else with 2. Names in external_links are looked up if a Docker endpoint
    answers; one that is absent is a warning. Docker CLI 25 and later also report what `docker stack deploy` would
    refuse.

    Without a file it checks the Swarm: labels that cannot be read, links to services that do not exist, tasks that
    are not wired, links whose packets get no answer or whose provider has no ready task, silent agents, links that a
    provider does not allow, stacks whose links `docker stack deploy` dropped. Exits with 1 if anything is wrong
    there; with --upgrade, if a link is listed. With --live it also walks along every link.
    """
    if upgrade and (compose_file or env_file):
        raise UsageError("--upgrade is about the links in the Swarm: leave -c and --env-file out")
    if upgrade:
        return check_upgrade(docker, stack or None, as_json=form == "json")
    if live and (compose_file or env_file):
        raise UsageError("--live is about the links in the Swarm: leave -c and --env-file out")
    if compose_file:
        return check(docker, named_files(compose_file, env_file), stack or None, as_json=form == "json")
    if env_file:
        raise UsageError("--env-file is for compose files: name them with -c FILE")
    return check_swarm(docker, stack or None, as_json=form == "json", is_live=bool(live))
