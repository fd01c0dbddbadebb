"""`docker linkwire rotate`: new secrets of link keys, requested by a label of the services whose links have them.

And new keys of the nodes themselves, requested by a setting of the controllers.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace

import click

from compose_ext import completion
from compose_ext.commands.node_encryption import await_keys, renew_keys
from compose_ext.diagnostics import DockerError, UsageError, absent
from compose_ext.docker_cli import Docker
from compose_ext.pflag import Command, Seconds, pass_docker, switch
from compose_ext.swarm import listings
from compose_ext.swarm.link_states import TIMEOUT
from compose_ext.terminal import say
from mesh.model.labels.consent import NAMESPACE, own_key, stack_of
from mesh.model.labels.link_labels import LINKS, PREFIX, RENEW, decode, key_name

_MILLISECONDS = 1000
_WAIT, _MOST = 300, 86_400


def rotate(docker: Docker, keys: Iterable[str], *, every: bool, say: Callable[[str], None]) -> None:
    """Request new secrets for some keys. The controller makes them when the nodes that have the keys are up.

    Tasks are not restarted by it: the label is the service's and not its containers'. It asks for all keys of that
    service's links, which may be more than were named; the progress names them.

    Args:
        docker: of a manager.
        keys: full names, as `docker linkwire ps` shows them; a link's own is CONSUMER:PROVIDER.
        every: all keys of all links.
        say: prints a line of progress.

    Raises:
        UsageError: no key is named, or one that no link has.
        DockerError: Docker did not do it.
    """
    found = _keys(docker)
    wanted = sorted(found) if every else sorted(set(keys))
    if not wanted:
        raise UsageError("no link has a key yet" if every else "name the link keys to rotate, or give --all")
    for key in wanted:
        if key not in found:
            raise absent("link key", key, found)
    asked: dict[str, set[str]] = {}
    for key in wanted:
        if not any(key in others for others in asked.values()):
            service = min(found[key])  # one is enough
            asked[service] = {other for other, services in found.items() if service in services}
    token = f"{int(time.time() * _MILLISECONDS):x}"
    for service in asked:
        docker.ask(["service", "update", "--detach", "--label-add", f"{RENEW}={token}", service], TIMEOUT)
    for key in sorted(set().union(*asked.values())):
        say(f"requested a new secret for {key}" + ("" if key in wanted else " too"))


def _keys(docker: Docker) -> dict[str, set[str]]:
    """Return link key -> the services whose links have it."""
    found: dict[str, set[str]] = {}
    try:
        for service in listings.services(docker):
            name, labels = str(service["Spec"]["Name"]), service["Spec"].get("Labels") or {}
            stack = stack_of(name, labels.get(NAMESPACE))
            if LINKS in labels:
                ours = {label: str(text) for label, text in labels.items() if label.lower().startswith(PREFIX)}
                for label in decode(ours)[0].links:
                    link = replace(label, key=own_key(label.key, stack) if label.key is not None else None)
                    found.setdefault(key_name(name, link), set()).add(name)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DockerError(f"unexpected answer of docker ({type(error).__name__}: {error})") from None
    return found


def _candidates(ctx: click.Context, parameter: click.Parameter, word: str) -> list[str]:
    with suppress(DockerError):
        return completion.beginning(ctx, parameter, _keys(completion.docker(ctx)), word)
    return []


@click.command(
    "rotate",
    cls=Command,
    usage="docker linkwire rotate KEY... | --all | --nodes",
    examples="""
        docker linkwire rotate shop_web:shop_db
        docker linkwire rotate --all
        docker linkwire rotate --nodes
    """,
)
@switch("-a", "--all", help="All keys of all links")
@switch("--nodes", help="The nodes' own keys, of node encryption, instead")
@click.option(
    "--timeout",
    type=Seconds(_MOST),
    default=str(_WAIT),
    metavar="SECONDS",
    help=f"With --nodes: how long to wait at most (default {_WAIT})",
)
@switch("-d", "--detach", help="With --nodes: do not wait until every node has its new key")
@click.argument("keys", metavar="KEY", nargs=-1, shell_complete=_candidates)
@pass_docker
def rotate_command(docker: Docker, keys: Sequence[str], timeout: str, **given: bool | None) -> None:
    """Give link keys new secrets, or nodes new keys, now.

    For a key that somebody may know: a node was removed, or broken into. What runs is not interrupted, and nothing is
    restarted; from the next handshake of each pair of tasks on, some two minutes later, the old secret is of no use.
    KEY is its full name as `docker linkwire ps` shows it; the own key of a link is CONSUMER:PROVIDER.

    With --nodes every node makes itself a new key of node encryption, on a second device; when all send by it, the
    old devices and keys go. Nothing is lost by it. Nodes that are down get theirs when they are back.
    """
    every = bool(given["all"])
    if given["nodes"]:
        if every or keys:
            raise UsageError("name link keys, or give --all, or --nodes")
        since = renew_keys(docker, say)
        if not given["detach"]:
            await_keys(docker, since, float(timeout), say)
        return
    if every and keys:
        raise UsageError("name link keys, or give --all")
    rotate(docker, keys, every=every, say=say)
