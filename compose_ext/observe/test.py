"""`docker linkwire test`: everything that links promise, tried between all nodes."""

from dataclasses import asdict

import click

from compose_ext.completion import stacks
from compose_ext.connectivity import run
from compose_ext.connectivity.all_links import sweep
from compose_ext.connectivity.run import Tested
from compose_ext.connectivity.stack import SECONDS
from compose_ext.diagnostics import DockerError, UsageError
from compose_ext.docker_cli import Docker
from compose_ext.pflag import Command, Seconds, form, pass_docker, switch
from compose_ext.swarm import installation, listings
from compose_ext.terminal import Table, say, show, show_json

FAILED = 1

_MOST = 3600

_HEADER = ("CASE", "TRIED", "OK", "MS", "RESULT")


def table(tested: Tested) -> Table:
    """Return the result as a table, with every failure under it."""
    rows = [
        (
            case.name,
            str(case.tried),
            str(case.ok),
            "-" if case.ms is None else f"{case.ms:g}",
            _word(case.ok, case.tried),
        )
        for case in tested.cases
    ]
    if tested.load:
        requests, lost = int(tested.load["requests"]), int(tested.load["lost"])
        name = f"a rolling update under load, longest gap {tested.load['longest_gap_ms']:g} ms"
        rows.append((name, str(requests), str(requests - lost), "-", _word(requests - lost, requests)))
    failed = [f"{one['node']} -> {one['to']}: {one['case']}: {one['said']}" for one in tested.failures]
    told = {f"{one['node']}: {one['case']}: {one['to']}: {one['said']}" for one in tested.failures}
    return Table(_HEADER, tuple(rows), (*failed, *(text for text in tested.problems if text not in told)))


def _word(ok: int, tried: int) -> str:
    return "ok" if ok == tried else "failed"


@click.command(
    "test",
    cls=Command,
    usage="docker linkwire test [OPTIONS] [STACK]",
    examples="""
        docker linkwire test
        docker linkwire test --quick
        docker linkwire test --all-links shop
        docker linkwire test --format json
    """,
)
@form("table", "json")
@click.option(
    "--timeout",
    type=Seconds(_MOST),
    default=f"{SECONDS:g}",
    metavar="SECONDS",
    help=f"How long the first answers may take (default {SECONDS:g})",
)
@switch("--quick", help="No rolling update under load: done in half the time")
@switch("--keep", help="Leave the stack linkwire-test there, to look at it")
@switch("--all-links", help="Deploy nothing, and try the links that there are: a packet between each two tasks")
@click.argument("stack", required=False, shell_complete=stacks)
@pass_docker
def test_command(
    docker: Docker, stack: str | None, form: str, *, quick: bool, keep: bool, all_links: bool, timeout: str
) -> int:
    """Try between all nodes what links promise, with a stack that is removed again.

    Every node asks every node over a link: TCP and UDP, IPv4 and IPv6, small, full and fragmented packets, a virtual
    IP, and a rolling update under load. What no link allows is tried too, and must fail. With --all-links it tries
    the links of all stacks, or of STACK, instead. Exits with 1 if anything is not as it should be.
    """
    if all_links:
        if quick or keep:
            raise UsageError("--all-links deploys nothing: leave --quick and --keep out")
        return _all_links(docker, stack, as_json=form == "json")
    if stack is not None:
        raise UsageError(f"{stack!r}: a stack can be named with --all-links only; without it, test deploys its own")
    image = installation.deployed(docker).image if listings.manager(docker) else None
    if not image:
        raise DockerError("Linkwire is not installed on this Swarm: docker linkwire install")
    tested = run.test(
        docker, image, say if form == "table" else _nothing, seconds=float(timeout), load=not quick, keep=keep
    )
    if form == "json":
        show_json({"ok": not tested.problems, **asdict(tested)})
    else:
        show(table(tested))
        result = "not all is as it should be" if tested.problems else "ok"
        say(f"{len(tested.nodes)} nodes, {tested.seconds:g} s: {result}")
    return FAILED if tested.problems else 0


def _all_links(docker: Docker, stack: str | None, *, as_json: bool) -> int:
    links, unanswered = sweep(docker, stack)
    if as_json:
        show_json(
            {"ok": not unanswered, "links": list(map(asdict, links)), "failures": list(map(asdict, unanswered))}
        )
    else:
        rows = [
            (
                f"{one.consumer} -> {one.provider}",
                str(one.tried),
                str(one.ok),
                one.problem or _word(one.ok, one.tried),
            )
            for one in links
        ]
        show(Table(("LINK", "PAIRS", "OK", "RESULT"), tuple(rows), tuple(map(str, unanswered))))
    return FAILED if unanswered else 0


def _nothing(_text: str) -> None:
    return
