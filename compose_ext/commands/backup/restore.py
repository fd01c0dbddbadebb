"""`docker linkwire restore`: what etcd and every volume lost comes back from a backup, while links go on."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from compose_ext.commands.backup.backup import described
from compose_ext.commands.backup.files import read_key
from compose_ext.completion import ANY_FILE
from compose_ext.diagnostics import DockerError, UsageError
from compose_ext.docker_cli import Docker, printable
from compose_ext.pflag import Command, form, pass_docker, switch
from compose_ext.swarm import installation, listings, node_jobs
from compose_ext.swarm.installation import STACK
from compose_ext.terminal import complain, say, show_json
from mesh.crypto.sealed_stream import SealedStreamError, opened
from mesh.model.backup import key_files
from mesh.model.backup.contents import PURPOSE, Backup, BackupError, decoded

TIMEOUT = 600.0
"""Seconds for a restore to end; 10,000 tasks take some."""
JOB = f"{STACK}_restore"
_STAYS = "3600"
"""Seconds after which the job's container ends by itself, if nobody takes it away."""


def read_backup(path: str, identity: str) -> tuple[Backup, bytes]:
    """Open a backup's file; returns it decoded, and its opened bytes.

    Raises:
        UsageError: one of the files cannot be read, or is something else; with everything that is wrong.
    """
    problems, key, data = [], None, None
    try:
        key = read_key(identity, "--identity", key_files.read_identity)
    except UsageError as error:
        problems.append(str(error))
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        problems.append(f"{path}: {error.strerror}")
    if key is None or data is None:
        raise UsageError("; ".join(problems))
    try:
        plain = opened(data, key, PURPOSE)
        return decoded(plain), plain
    except (SealedStreamError, BackupError) as error:
        raise UsageError(f"{path}: {error}") from None


def restore(
    docker: Docker, plain: bytes, *, force: bool, dry_run: bool, say: Callable[[str], None]
) -> Mapping[str, Any]:
    """Restore a backup by a container with what the controllers have; returns what it says.

    Args:
        docker: a manager's.
        plain: the opened backup.
        force: whether to go on where something that runs would change.
        dry_run: whether to write nothing.
        say: prints a line of progress.

    Raises:
        DockerError: Docker or the restore failed; the text has all that is wrong with the backup.
    """
    manager = listings.manager(docker)
    controller = installation.deployed(docker).services.get("controller")
    if controller is None:
        raise DockerError("Linkwire is not installed in this Swarm: docker linkwire install, and then restore")
    asked = json.dumps({"force": force, "dry_run": dry_run}).encode() + b"\n"
    with node_jobs.as_controller(docker, JOB, controller, manager.node, "sleep", [_STAYS]):
        say("starting a container with the controllers' certificates on this manager")
        container = node_jobs.container_here(docker, JOB)
        try:
            text = docker.ask(["exec", "-i", container, "linkwire-controller", "restore"], TIMEOUT, asked + plain)
        except DockerError as error:
            text = error.output
            if not text.strip():
                raise
    return _outcome(text)


def _outcome(text: str) -> Mapping[str, Any]:
    try:
        outcome = dict(json.loads(text.strip().splitlines()[-1]))
        problems = [printable(str(problem)) for problem in outcome["problems"]]
    except (IndexError, KeyError, TypeError, ValueError):
        raise DockerError("the restore ended without saying how: docker linkwire logs, or try again") from None
    if problems:
        raise DockerError("nothing was restored:\n  " + "\n  ".join(problems))
    return outcome


@click.command(
    "restore",
    cls=Command,
    usage="docker linkwire restore --identity KEYFILE [OPTIONS] FILE",
    examples="""
        docker linkwire restore --identity backup.key --dry-run linkwire.backup
        docker linkwire restore --identity backup.key linkwire.backup
    """,
)
@click.option("--identity", metavar="KEYFILE", type=ANY_FILE, help="The file that `backup --keygen` made")
@switch("--dry-run", help="Say what would come back and what would change, and write nothing")
@switch("-f", "--force", help="Go on where tasks that run would get another VIP, address or key")
@form("text", "json")
@click.argument("file", metavar="FILE", type=ANY_FILE)
@pass_docker
def restore_command(
    docker: Docker, file: str, identity: str | None, form: str, *, dry_run: bool | None, force: bool | None
) -> int:
    """Put back from a backup what etcd lost.

    Links go on meanwhile: agents act on nothing half restored. The signed set counts as a whole, and the newer one of
    the backup's and etcd's stays: no key goes back to an earlier one. An older backup gives what is missing and
    nobody else knows: the audit log, addresses that rested, nodes' accepted keys. Where etcd holds a mesh that began
    anew, it says which tasks would get another VIP, address or key, and needs --force. It may be run again at any
    time. Needs a manager, and Linkwire installed with the signing key that signed the backup. KEYFILE does not leave
    this machine.
    """
    if identity is None:
        raise UsageError("name the key that opens it: --identity KEYFILE")
    backup, plain = read_backup(file, identity)
    quiet = form == "json"
    if not quiet:
        say(f"{file}: {described(backup.described())}")
    outcome = restore(docker, plain, force=bool(force), dry_run=bool(dry_run), say=(lambda _: None) if quiet else say)
    if quiet:
        show_json({"backup": backup.described(), "dry_run": bool(dry_run), **outcome})
    else:
        _show(outcome)
    refused = bool(outcome["lost"]) and not outcome["written"] and not dry_run
    if refused and not quiet:
        complain("docker linkwire: nothing was restored: give --force to have it so, or leave the mesh as it runs")
    return 1 if refused else 0


def _show(outcome: Mapping[str, Any]) -> None:
    written = bool(outcome["written"])
    for text in outcome["lost"]:
        say(printable(f"{'changed' if written else 'would change'}: {text}"))
    counts = ", ".join(f"{count} {name}" for name, count in outcome["restored"].items())
    say(printable(f"{'put back' if written else 'would come back'}: {counts or 'nothing, it is all there'}"))
    for text in outcome["kept"]:
        say(printable(text))
