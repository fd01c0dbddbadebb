"""`docker linkwire support-bundle`: one file for those who are asked for help."""

import io
import os
import tarfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import click

from compose_ext.completion import ANY_FILE
from compose_ext.diagnostics import DockerError, UsageError
from compose_ext.docker_cli import Docker
from compose_ext.observe.diagnosis.bundle_parts import gathered
from compose_ext.observe.diagnosis.redaction import Redactor
from compose_ext.pflag import Command, form, moment, pass_docker
from compose_ext.swarm import listings
from compose_ext.terminal import complain, say, show_json

_SINCE = "24h"
_README = """\
Support bundle of Linkwire, made {at}

about.json         versions of this program and of Docker
nodes.json         the Swarm's nodes: names, roles, states, addresses, labels that begin with linkwire.
services.json      Linkwire's own services: image, options, update, names of secrets
tasks.json         their tasks: states and errors
certificates.json  names of Linkwire's secrets and configs, and when they expire
links.json         all links with their tasks, as `docker linkwire ps --format json` has them
records.jsonl      records in etcd; of sealed boxes only how long they are
events.jsonl       the audit log
logs.jsonl         logs of controllers, agents and etcd

In it are names of stacks, services and nodes, addresses, and public keys as short fingerprints.
Not in it: secrets, keys, environments and labels of your services, what your services say or send.
{removed} texts that could have been a key or a password were removed from the parts.
"""


def archive(folder: str, texts: Mapping[str, str], at: float) -> bytes:
    """Return a compressed tar archive of some files in a folder."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        for name, text in texts.items():
            data = text.encode()
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size, member.mtime, member.mode = len(data), int(at), 0o600
            tar.addfile(member, io.BytesIO(data))
    return made.getvalue()


def _write(path: Path, data: bytes) -> None:
    """Write a new file that only this user can read. Raises DockerError."""
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
    except FileExistsError:
        raise UsageError(f"{path} is there already: give another file with --output") from None
    except OSError as error:
        raise DockerError(f"cannot write {path}: {error.strerror}") from None


@click.command(
    "support-bundle",
    cls=Command,
    usage="docker linkwire support-bundle [OPTIONS]",
    examples="""
        docker linkwire support-bundle
        docker linkwire support-bundle --since 2h --output help.tar.gz
    """,
)
@click.option(
    "-o", "--output", metavar="FILE", type=ANY_FILE, help="The file to write (default linkwire-support-TIME.tar.gz)"
)
@click.option("--since", metavar="TIME", default=_SINCE, help=f"Logs from then on (default {_SINCE} ago)")
@form("text", "json")
@pass_docker
def support_bundle_command(docker: Docker, output: str | None, since: str, form: str) -> None:
    """Write all that helps to find out what is wrong into one file, without keys or passwords.

    Versions, nodes, Linkwire's own services and tasks, links, records, audit log and logs. Its README.txt says what
    is in it; look through it before you send it. Asks a manager. A part that cannot be had is named, and left out.
    """
    at = time.time()
    first = moment(since, at, "--since")
    stamp = datetime.fromtimestamp(at, UTC).strftime("%Y%m%dT%H%M%SZ")
    folder = f"linkwire-support-{stamp}"
    path = Path(output or f"{folder}.tar.gz")
    if path.exists():
        raise UsageError(f"{path} is there already: give another file with --output")
    listings.manager(docker)
    redact, texts, problems = Redactor(), {}, []
    for name, text, problem in gathered(docker, first):
        if problem is None:
            texts[name] = redact(text)
        else:
            problems.append(redact(f"{name}: {problem}"))
        if form == "text":
            say(f"{name}: {problem or f'{len(texts[name])} bytes'}")
    if problems:
        texts["missing.txt"] = "".join(f"{problem}\n" for problem in problems)
    readme = _README.format(at=datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds"), removed=redact.removed)
    data = archive(folder, {"README.txt": readme, **texts}, at)
    _write(path, data)
    if form == "json":
        sizes = [{"name": name, "bytes": len(text.encode())} for name, text in texts.items()]
        show_json(
            {"file": str(path), "bytes": len(data), "parts": sizes, "removed": redact.removed, "problems": problems}
        )
        return
    for problem in problems:
        complain(f"docker linkwire: left out: {problem}", "yellow")
    say(f"{path}: {len(data)} bytes; look through it before you send it")
