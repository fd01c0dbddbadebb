"""`docker linkwire node encryption`: WireGuard between nodes, under the overlay networks of all stacks."""

import time
from collections.abc import Callable
from dataclasses import asdict, replace

import click

from compose_ext.diagnostics import DockerError
from compose_ext.docker_cli import Docker
from compose_ext.health import encryption, facts
from compose_ext.health.encryption import Encryption
from compose_ext.health.judgement import Facts
from compose_ext.install.options import Options, read_label
from compose_ext.pflag import Group, OneOf, Seconds, form, pass_docker, switch
from compose_ext.swarm import installation, queries
from compose_ext.terminal import Table, line, say, show, show_json
from mesh.model.encryption.status import MODES

VARIABLE = "LINKWIRE_NODE_ENCRYPTION"
_SERVICE = f"{installation.STACK}_controller"
_HEADER = ("NODE", "STEP", "PEERS", "READY", "REFUSED")
_WAIT, _MOST = 300, 86_400
_LOOK_EVERY = 1.0


def switch_to(docker: Docker, mode: str, say: Callable[[str], None]) -> None:
    """Have the controllers switch node encryption over.

    Args:
        docker: a manager's.
        mode: `prefer`, `strict` or `off`.
        say: prints a line of progress.

    Raises:
        DockerError: the endpoint is no manager, Linkwire is not installed, or Docker refused.
    """
    queries.manager(docker)
    deployed = installation.deployed(docker)
    if "controller" not in deployed.services:
        raise DockerError("Linkwire is not installed in this Swarm: docker linkwire install")
    options = read_label(deployed.options) if deployed.options else Options()
    label = replace(options, node_encryption=mode).label()
    words = ["service", "update", "--detach", "--env-add", f"{VARIABLE}={mode}"]
    docker.ask([*words, "--label-add", f"{installation.OPTIONS_LABEL}={label}", _SERVICE], queries.TIMEOUT)
    say(f"node encryption: {mode} is asked for")


def wait(docker: Docker, mode: str, seconds: float, say: Callable[[str], None]) -> None:
    """Wait until every node that is up does what was asked for.

    Raises:
        DockerError: it took longer, with what is waited for.
    """
    until, told = time.monotonic() + seconds, ""
    while True:
        found = look(docker)[1]
        if found is not None and found.wanted == mode and found.is_reached:
            say(f"node encryption: {found.summary}")
            return
        waiting = next(encryption.problems(found), f"node encryption: {found.summary}") if found else _UNKNOWN
        if time.monotonic() > until:
            raise DockerError(f"not reached after {seconds:g} s, and it goes on: {waiting}")
        if waiting != told:
            told = waiting
            say(f"waiting: {waiting}")
        time.sleep(_LOOK_EVERY)


_UNKNOWN = "the agent here does not say how far node encryption is: it is of an earlier version, or reaches no etcd"


def look(docker: Docker) -> tuple[Facts, Encryption | None]:
    """Ask how far node encryption is. Raises DockerError."""
    known = facts.gather(docker)
    return known, known.encryption


@click.group(
    "encryption",
    cls=Group,
    usage="docker linkwire node encryption on [--mode MODE] | off | status",
    examples="""
        docker linkwire node encryption on
        docker linkwire node encryption on --mode strict
        docker linkwire node encryption status
        docker linkwire node encryption off
    """,
)
def encryption_command() -> None:
    """Encrypt overlay packets between nodes.

    Every node gets one WireGuard device, and Swarm's VXLAN packets between nodes go through it: those of all stacks,
    whether they use links or not; their names and tasks stay as they are. It is switched in steps, each when every
    node that is up has taken the one before: no packet is lost by it. All need a manager.
    """


@encryption_command.command(
    "on",
    usage="docker linkwire node encryption on [OPTIONS]",
    examples="""
        docker linkwire node encryption on
        docker linkwire node encryption on --mode strict
    """,
)
@click.option(
    "--mode",
    type=OneOf(MODES),
    default=MODES[0],
    metavar="MODE",
    help="prefer: plain to nodes that are not ready; strict: refused then (default prefer)",
)
@click.option(
    "--timeout",
    type=Seconds(_MOST),
    default=str(_WAIT),
    metavar="SECONDS",
    help=f"How long to wait at most (default {_WAIT})",
)
@switch("-d", "--detach", help="Do not wait until every node does it")
@pass_docker
def _on(docker: Docker, mode: str, timeout: str, *, detach: bool | None) -> None:
    """Encrypt overlay packets between nodes.

    The same as `docker linkwire install --node-encryption`, and kept by later installs. UDP 51819 has to be open
    between the nodes. `strict` begins to refuse plain packets only when every node reaches all others by its device.
    """
    switch_to(docker, mode, say)
    if not detach:
        wait(docker, mode, float(timeout), say)


@encryption_command.command(
    "off",
    usage="docker linkwire node encryption off [OPTIONS]",
    examples="""
        docker linkwire node encryption off
    """,
)
@click.option(
    "--timeout",
    type=Seconds(_MOST),
    default=str(_WAIT),
    metavar="SECONDS",
    help=f"How long to wait at most (default {_WAIT})",
)
@switch("-d", "--detach", help="Do not wait until every node has stopped")
@pass_docker
def _off(docker: Docker, timeout: str, *, detach: bool | None) -> None:
    """Stop encrypting overlay packets between nodes, by the same steps.

    At the end devices, routes and rules are gone from every node.
    """
    switch_to(docker, "off", say)
    if not detach:
        wait(docker, "off", float(timeout), say)


@encryption_command.command(
    "status",
    usage="docker linkwire node encryption status [OPTIONS]",
    examples="""
        docker linkwire node encryption status
        docker linkwire node encryption status --format json
    """,
)
@form("table", "json")
@pass_docker
def _status(docker: Docker, form: str) -> int:
    """Show how far node encryption is on every node, and what is wrong.

    STEP is what the node does: accept encrypted packets, send them too, or enforce them. PEERS are other nodes that
    its device knows, READY those that answer there, REFUSED plain packets that it refused. Exits with 1 if anything
    is wrong, or not every node does what was asked for.
    """
    known, found = look(docker)
    if found is None:
        raise DockerError(known.unanswered or _UNKNOWN)
    overlays = encryption.overlays(docker) if found.wanted != "off" else encryption.OverlayNetworks()
    wrong = [*encryption.problems(found), *overlays.problems()]
    if form == "json":
        nodes = [asdict(node) for node in found.nodes]
        record = {"wanted": found.wanted, "mode": found.mode, "step": found.step, "generation": found.generation}
        told = {"reached": found.is_reached, "nodes": nodes, "problems": wrong, "costs": [*overlays.costs()]}
        show_json({**record, **told})
    else:
        print(line(f"node encryption: {found.summary}"))
        show(table(found, tuple(wrong)))
        for text in overlays.costs():
            print(line(text))
    return 1 if wrong or not found.is_reached else 0


def table(found: Encryption, wrong: tuple[str, ...]) -> Table:
    """Return the nodes as a table, with everything that is wrong under it."""
    rows = tuple(
        (node.hostname, node.step, str(node.peers), str(node.ready), str(node.refused)) for node in found.nodes
    )
    return Table(_HEADER, rows, wrong)
