"""`docker linkwire node encryption`: WireGuard between nodes, under the overlay networks of all stacks."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace

import click

from compose_ext.commands.encryption_prepare import prepare_command
from compose_ext.diagnostics import DockerError
from compose_ext.docker_cli import Docker, printable
from compose_ext.health import facts, node_encryption
from compose_ext.health.judgement import Facts
from compose_ext.health.node_encryption import Encryption, NodeState
from compose_ext.install.options import Options, read_label
from compose_ext.pflag import Group, OneOf, Seconds, form, pass_docker, switch
from compose_ext.swarm import installation, listings
from compose_ext.terminal import Table, age, amount, lasting, line, say, show, show_json
from mesh.model.encryption.status import MODES

VARIABLE = "LINKWIRE_NODE_ENCRYPTION"
_SERVICE = f"{installation.STACK}_controller"
_UPDATE = ("service", "update", "--detach", "--update-failure-action=continue")
"""Of the controllers' settings alone. Where one of them ends within five seconds, for whatever reason, Swarm would
roll the service back, as after an upgrade that fails, and what was asked for would be lost without a word."""
_HEADER = ("NODE", "STEP", "PEERS", "READY", "HANDSHAKE", "RECEIVED", "SENT", "REFUSED", "KEY")
_WAIT, _MOST = 300, 86_400
_LOOK_EVERY = 1.0


def switch_to(docker: Docker, mode: str, say: Callable[[str], None]) -> None:
    """Have the controllers switch node encryption over.

    Args:
        docker: a manager's.
        mode: `prefer`, `strict`, `all` or `off`.
        say: prints a line of progress.

    Raises:
        DockerError: the endpoint is no manager, Linkwire is not installed, or Docker refused.
    """
    listings.manager(docker)
    deployed = installation.deployed(docker)
    if "controller" not in deployed.services:
        raise DockerError(_NOT_INSTALLED)
    options = read_label(deployed.options) if deployed.options else Options()
    label = replace(options, node_encryption=mode).label()
    words = [*_UPDATE, "--env-add", f"{VARIABLE}={mode}"]
    docker.ask([*words, "--label-add", f"{installation.OPTIONS_LABEL}={label}", _SERVICE], listings.TIMEOUT)
    say(f"node encryption: {mode} is asked for")


def look_first(docker: Docker, mode: str, say: Callable[[str], None], *, force: bool) -> None:
    """Look on every node whether it can take part, before anything is switched.

    Args:
        docker: a manager's.
        mode: `prefer`, `strict` or `all`.
        say: prints a line of progress.
        force: name what is wrong, and go on.

    Raises:
        DockerError: a node cannot, with all that is wrong; or Docker failed.
    """
    from compose_ext.install import fitness, preflight  # noqa: PLC0415 - they import what is slow to import

    swarm = listings.manager(docker)
    deployed = installation.deployed(docker)
    if "controller" not in deployed.services:
        raise DockerError(_NOT_INSTALLED)
    options = read_label(deployed.options) if deployed.options else Options()
    options = replace(options, node_encryption=mode, image=deployed.image or options.image)
    for text in node_encryption.overlays(docker).problems():
        say(f"warning: {text}")
    say("looking on every node whether it can take part")
    _, findings = preflight.look(docker, swarm, deployed, options, seconds=_WAIT, say=say)
    about = [one for one in findings if one.check in {fitness.ENCRYPTION, fitness.IMAGE}]
    for text in preflight.lines(about, fitness.WARNING):
        say(f"warning: {text}")
    problems = [*preflight.lines(about, fitness.PROBLEM), *_other_agents(docker, deployed, mode)]
    if problems and not force:
        listed = "\n  ".join(problems)
        raise DockerError(
            f"not every node can take part in node encryption, so nothing was switched:\n  {listed}\n"
            "Mend it and run this again; --force asks for it all the same"
        )
    for text in problems:
        say(f"in spite of: {text}")


def _other_agents(docker: Docker, deployed: installation.Deployed, mode: str) -> list[str]:
    """Name the nodes whose agents are of another version than the service's: nobody knows whether they know the mode.

    An agent that does not know it would act on nothing new.
    """
    if mode != "all":
        return []
    agent = deployed.services["agent"]
    names = {str(node["ID"]): printable(str(node["Description"]["Hostname"])) for node in listings.nodes(docker)}
    tasks = listings.tasks(docker, str(agent["Spec"]["Name"]), wanted="desired-state=running")
    others = {str(task.get("NodeID", "")) for task in tasks if not listings.is_current(task, agent)}
    text = "its agent was not replaced when others were, and may not know mode all: docker linkwire upgrade"
    return [f"{name}: {text}" for name in sorted(names.get(node, node) for node in others)]


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
        waiting = next(node_encryption.problems(found), f"node encryption: {found.summary}") if found else _UNKNOWN
        if time.monotonic() > until:
            raise DockerError(f"not reached after {seconds:g} s, and it goes on: {waiting}")
        if waiting != told:
            told = waiting
            say(f"waiting: {waiting}")
        time.sleep(_LOOK_EVERY)


def renew_keys(docker: Docker, say: Callable[[str], None]) -> int:
    """Have the controllers give every node a new key for node encryption.

    Args:
        docker: a manager's.
        say: prints a line of progress.

    Returns:
        The time from which on nodes' keys are to be, in seconds since 1970.

    Raises:
        DockerError: as `switch_to`, or node encryption is off.
    """
    listings.manager(docker)
    deployed = installation.deployed(docker)
    if "controller" not in deployed.services:
        raise DockerError(_NOT_INSTALLED)
    if node_encryption.wanted(deployed) == "off":
        raise DockerError("node encryption is off: nodes have no keys to rotate")
    found = None
    with suppress(DockerError):
        found = look(docker)[1]
    since = renewed_since(int(time.time()), found.epoch if found is not None else 0)
    words = [*_UPDATE, "--env-add", f"{installation.NODE_KEYS_SINCE}={since}", _SERVICE]
    docker.ask(words, listings.TIMEOUT)
    say("requested new keys of all nodes")
    return since


def renewed_since(now: int, epoch: int) -> int:
    """Return the time from which on keys are to be, so that those of an epoch, which may be the future's, are older.

    That is an epoch by a clock that was wrong, or is wrong here.
    """
    return now if epoch <= now else epoch + 1


def await_keys(docker: Docker, since: int, seconds: float, say: Callable[[str], None]) -> None:
    """Wait until every node that is up has a key of that time or later, and no other.

    Raises:
        DockerError: it took longer, with what is waited for.
    """
    until, told = time.monotonic() + seconds, ""
    while True:
        found = look(docker)[1]
        waiting = _UNKNOWN
        if found is not None:
            begun = found.epoch >= since
            if begun and not found.behind:
                say("all nodes have new keys")
                return
            waiting = node_encryption.rotation(found) if begun else "the controllers have not begun"
        if time.monotonic() > until:
            raise DockerError(f"not done after {seconds:g} s, and it goes on: {waiting}")
        if waiting != told:
            told = waiting
            say(f"waiting: {waiting}")
        time.sleep(_LOOK_EVERY)


_NOT_INSTALLED = "Linkwire is not installed in this Swarm: docker linkwire install"
_UNKNOWN = "the agent here does not say how far node encryption is: it is of an earlier version, or reaches no etcd"


def look(docker: Docker) -> tuple[Facts, Encryption | None]:
    """Ask how far node encryption is. Raises DockerError."""
    known = facts.gather(docker)
    return known, known.encryption


@click.group(
    "encryption",
    cls=Group,
    usage="docker linkwire node encryption on [--mode MODE] | off | status | prepare",
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
        docker linkwire node encryption on --mode all
    """,
)
@click.option(
    "--mode",
    type=OneOf(MODES),
    default=MODES[0],
    metavar="MODE",
    help="prefer: plain to nodes that are not ready; strict: refused then; all: also what nodes send one another "
    "themselves (default prefer)",
)
@click.option(
    "--timeout",
    type=Seconds(_MOST),
    default=str(_WAIT),
    metavar="SECONDS",
    help=f"How long to wait at most (default {_WAIT})",
)
@switch("--force", help="Ask for it also where a node cannot take part")
@switch("-d", "--detach", help="Do not wait until every node does it")
@pass_docker
def _on(docker: Docker, mode: str, timeout: str, *, detach: bool | None, force: bool | None) -> None:
    """Encrypt overlay packets between nodes.

    The same as `docker linkwire install --node-encryption`, and kept by later installs. The two UDP ports before
    those of `install --ports`, by default 51818 and 51819, have to be open between the nodes. `strict` begins to
    refuse plain packets only when every node reaches all others by its device. `all` is `strict`, and TCP and UDP
    that nodes send one another themselves go through it as well, but for SSH, etcd and Swarm's own: plain to nodes
    that are not ready. For machines that join later see `docker linkwire node encryption prepare`.

    Before anything is switched each node is looked at: its ports, firewall, reverse path filter and addresses.
    """
    look_first(docker, mode, say, force=bool(force))
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
    its devices know, READY those that answer there; HANDSHAKE is the age of the oldest last one, RECEIVED and SENT
    are the devices' bytes, REFUSED plain packets that it refused. KEY is how long ago its key was asked for, and
    `+ new` while it has a second one (`docker linkwire rotate --nodes`). Exits with 1 if anything is wrong, or not
    every node does what was asked for.
    """
    known, found = look(docker)
    if found is None:
        raise DockerError(known.unanswered or _UNKNOWN)
    fits = node_encryption.fitting(docker)
    overlays = node_encryption.overlays(docker, fits) if fits is not None else node_encryption.OverlayNetworks()
    wrong = [*node_encryption.problems(found), *overlays.problems()]
    if form == "json":
        nodes = [asdict(node) for node in found.nodes]
        record = {"wanted": found.wanted, "mode": found.mode, "step": found.step, "generation": found.generation}
        told = {"reached": found.is_reached, "nodes": nodes, "problems": wrong, "costs": [*overlays.costs()]}
        told |= {"epoch": found.epoch, "since": found.since, "rotation": node_encryption.rotation(found)}
        told["peers"] = node_encryption.peers(known.control)
        show_json({**record, **told})
    else:
        print(line(f"node encryption: {found.summary}"))
        if rotation := node_encryption.rotation(found):
            print(line(rotation))
        show(table(found, tuple(wrong), time.time()))
        for text in overlays.costs():
            print(line(text))
    return 1 if wrong or not found.is_reached else 0


encryption_command.add_command(prepare_command)


def table(found: Encryption, wrong: tuple[str, ...], now: float) -> Table:
    """Return the nodes as a table, with everything that is wrong under it; `now` in seconds since 1970."""
    rows = tuple(
        (
            *(node.hostname, node.step, str(node.peers), str(node.ready)),
            *(*figures(node), str(node.refused), _key(found, node, now)),
        )
        for node in found.nodes
    )
    return Table(_HEADER, rows, wrong)


def _key(found: Encryption, node: NodeState, now: float) -> str:
    """Say how long ago a node's key was asked for; of the first keys nobody knows once there are later ones."""
    if node.step == "off":
        return "-"
    first, *later = node.epochs or (0,)
    began = found.since if first == found.epoch else first
    return f"{lasting(now - began) if began else 'first'}{' + new' if later else ''}"


def figures(node: NodeState) -> tuple[str, str, str]:
    """Return the cells of a node's devices: the age of the oldest last handshake, and the bytes received and sent."""
    if not node.peers:
        return "-", "-", "-"
    return age(node.handshake_age), amount(node.received), amount(node.sent)
