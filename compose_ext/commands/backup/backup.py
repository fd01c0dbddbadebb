"""`docker linkwire backup`: all that is signed in etcd, at one revision, sealed to a key that the user keeps."""

import base64
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import click

from compose_ext.commands.backup.files import read_key, taken, write_whole
from compose_ext.completion import ANY_FILE
from compose_ext.diagnostics import INCOMPLETE, DockerError, UsageError
from compose_ext.docker_cli import Docker, printable
from compose_ext.pflag import Command, form, pass_docker, switch
from compose_ext.swarm import link_states
from compose_ext.terminal import complain, line, say, show_json
from mesh.crypto import sealed_stream
from mesh.crypto.hpke import NodeKey, NodePublicKey
from mesh.model.backup import key_files

QUIET_S = 60.0
"""Seconds without a part after which the agent counts as one that does not answer: it reads the whole store first."""
_SHOWN = 16


def make_keys(path: str) -> tuple[str, str]:
    """Make an identity file, and its recipient file beside it; returns the latter's path and the fingerprint.

    Raises:
        UsageError: one of them is there: an identity that is lost opens no backup any more.
        DockerError: they cannot be written.
    """
    public = f"{path}.pub"
    if problems := [problem for each in (path, public) if (problem := taken(each, "--keygen"))]:
        raise UsageError("; ".join(problems))
    key = NodeKey.generate()
    write_whole(path, "--keygen", [key_files.identity_text(key).encode()])
    write_whole(public, "--keygen", [key_files.recipient_text(key.public).encode()], mode=0o644)
    return public, key.public.fingerprint


def sealed_parts(docker: Docker, recipient: NodePublicKey, told: dict[str, Any]) -> Iterator[bytes]:
    """Yield a backup's file as the agent on the endpoint makes it.

    Args:
        docker: the endpoint.
        recipient: the key that it is sealed to.
        told: filled with what the agent says of it at the end.

    Raises:
        DockerError: the agent does not answer, or says what is wrong.
    """
    agent = link_states.container(docker)
    asked = {"recipient": str(recipient)}
    documents = link_states.stream(docker, agent, "backup", asked, quiet_s=QUIET_S, waits=lambda: None)
    first = True
    for document in documents:
        if "backup" in document:
            told.update(document)
            continue
        try:
            part = base64.b64decode(str(document["part"]), validate=True)
            if first and sealed_stream.recipient(part) != recipient.fingerprint:
                raise DockerError("the agent sealed it to another key")
        except (KeyError, ValueError, sealed_stream.SealedStreamError):
            raise DockerError("the agent's answer is no backup") from None
        first = False
        yield part
    if not isinstance(told.get("backup"), dict) or first:
        raise DockerError("the agent's answer ended before the backup was whole")


def described(document: dict[str, Any]) -> str:
    """Say in one line what a backup is of."""
    try:
        made = datetime.fromtimestamp(float(document["made"]), UTC).isoformat(timespec="seconds")
    except (OverflowError, ValueError, OSError):
        made = "a time that no clock shows"
    return line(
        f"{document['records']} records of the Swarm {document['cluster']} at revision {document['revision']}, "
        f"generation {document['generation']}, of {made}"
    )


@click.command(
    "backup",
    cls=Command,
    usage="docker linkwire backup --to FILE --recipient KEYFILE | --keygen KEYFILE",
    examples="""
        docker linkwire backup --keygen backup.key
        docker linkwire backup --to linkwire.backup --recipient backup.key.pub
        docker linkwire backup --force --to linkwire.backup --recipient backup.key.pub --format json
    """,
)
@click.option("--to", metavar="FILE", type=ANY_FILE, help="The file to write, for you alone to read")
@click.option("--recipient", metavar="KEYFILE", type=ANY_FILE, help="The .pub file of the key that it is sealed to")
@click.option("--keygen", metavar="KEYFILE", type=ANY_FILE, help="Make a key instead: KEYFILE and KEYFILE.pub")
@switch("-f", "--force", help="Replace FILE where it is there already")
@form("text", "json")
@pass_docker
def backup_command(
    docker: Docker, to: str | None, recipient: str | None, keygen: str | None, form: str, *, force: bool | None
) -> int:
    """Write all that is signed in etcd into one file, sealed to a key that you keep.

    Services, VIPs, addresses, keys sealed to nodes, the audit log: with `docker linkwire restore` they come back
    after the loss of etcd and of every volume. Neither Swarm's secrets nor any node's own key are in it. Make the key
    once, with --keygen, and keep KEYFILE away from the Swarm: it opens the backups, and nothing else does.
    KEYFILE.pub may lie anywhere. Links do not notice a backup. The file is whole, or not written.
    """
    if keygen is not None:
        if to is not None or recipient is not None:
            raise UsageError("--keygen makes a key and no backup: give it alone")
        public, fingerprint = make_keys(keygen)
        if form == "json":
            show_json({"identity": keygen, "recipient": public, "fingerprint": fingerprint})
        else:
            say(f"{keygen}: opens backups: keep it secret, away from the Swarm, and do not lose it")
            say(f"{public}: for docker linkwire backup --recipient; fingerprint {fingerprint[:_SHOWN]}")
        return 0
    key, path = _arguments(to, recipient, replace=bool(force))
    told: dict[str, Any] = {}
    size = write_whole(path, "--to", sealed_parts(docker, key, told), replace=bool(force))
    return _report(path, size, key, told, form)


def _arguments(to: str | None, recipient: str | None, *, replace: bool) -> tuple[NodePublicKey, str]:
    """Check all that is given before Docker is asked. Raises UsageError, with everything that is wrong."""
    problems, key = [], None
    if to is None:
        problems.append("name the file to write: --to FILE")
    elif problem := taken(to, "--to", replace=replace):
        problems.append(problem + (": --force replaces it" if problem.endswith("already") else ""))
    if recipient is None:
        problems.append("name the key that it is sealed to: --recipient KEYFILE.pub (--keygen KEYFILE makes one)")
    else:
        try:
            key = read_key(recipient, "--recipient", key_files.read_recipient)
        except UsageError as error:
            problems.append(str(error))
    if problems or key is None or to is None:
        raise UsageError("; ".join(problems))
    return key, to


def _report(path: str, size: int, key: NodePublicKey, told: dict[str, Any], form: str) -> int:
    made, left_out = told["backup"], [printable(str(each)) for each in told.get("left_out") or ()]
    if form == "json":
        show_json({"file": path, "bytes": size, **made, "recipient": key.fingerprint, "left_out": left_out})
    else:
        say(f"{path}: {described(made)}")
        say(f"{size} bytes, sealed to the key {key.fingerprint[:_SHOWN]}")
        for each in left_out:
            complain(f"docker linkwire: left out, since it cannot be believed: {each}", "yellow")
    return INCOMPLETE if left_out else 0
