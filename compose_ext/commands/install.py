"""`docker linkwire install`, `upgrade`, `renew` and `uninstall`: the flags of what `compose_ext.install` does.

That is imported when one of them runs: its cryptography is slow to import.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import click

from compose_ext.completion import ANY_FILE
from compose_ext.diagnostics import UsageError
from compose_ext.docker_cli import Docker
from compose_ext.pflag import Bare, Command, Seconds, form, pass_docker, switch
from compose_ext.terminal import leave, line, say, show, show_json

_MOST_WAIT = 86_400
_NODE_WAIT = 300
_MODES = ("prefer", "strict", "all", "off")
_LEVELS = ("debug", "info", "warning", "error")


def _values(rows: Mapping[str, tuple[str, str]]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add flags with a value: name to the value's name and the text."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for name, (metavar, text) in reversed(list(rows.items())):
            kind = ANY_FILE if metavar == "FILE" else str
            function = click.option(f"--{name}", metavar=metavar, help=text, type=kind)(function)
        return function

    return add


@click.command(
    "install",
    cls=Command,
    usage="docker linkwire install [OPTIONS]",
    examples="""
        docker linkwire install --image registry.example/linkwire:1
        docker linkwire install --image registry.example/linkwire:1 --gate
        docker linkwire install --image registry.example/linkwire:1 --check
        docker linkwire install --etcd https://10.0.0.1:2379 --etcd-ca ca.pem --etcd-cert c.pem --etcd-key c.key
    """,
)
@_values(
    {
        "image": ("IMAGE", "Image of controller, agent and etcd (default linkwire:latest)"),
        "etcd-address": (
            "IP",
            "Address at which nodes reach etcd (default: the one its node advertises)",
        ),
        "etcd-port": ("PORT", "TCP port of etcd (default 2379)"),
        "etcd-nodes": ("NUMBER", "Nodes that etcd runs on: 1, 3 or 5; it outlives the loss of 0, 1 or 2 (default 1)"),
        "etcd": ("URL[,URL]", "etcds of your own, instead: https://HOST:PORT"),
        "etcd-ca": ("FILE", "CA bundle that etcd's certificate must chain to"),
        "etcd-cert": ("FILE", "Client certificate of the controllers"),
        "etcd-key": ("FILE", "Private key of --etcd-cert"),
        "etcd-agent-cert": ("FILE", "Client certificate of the agents (default: the controllers')"),
        "etcd-agent-key": ("FILE", "Private key of --etcd-agent-cert"),
    }
)
@switch("--etcd-insecure", help="Allow http:// endpoints: anyone on the path can read and modify the traffic")
@_values(
    {
        "subnet": ("SUBNET", "Addresses of the mesh, fixed at first use (default 100.96.0.0/16)"),
        "controllers": ("NUMBER", "Number of controllers, on managers (default 2)"),
        "ports": ("FIRST-LAST", "UDP ports of each node for its tasks (default 51820-53819)"),
        "metrics": ("HOST:PORT", "Address at which each agent answers Prometheus, or off (default 127.0.0.1:9586)"),
        "controller-metrics": ("HOST:PORT", "The same for each controller (default 127.0.0.1:9587)"),
        "etcd-metrics": ("HOST:PORT", "The same for etcd (default 127.0.0.1:9588)"),
    }
)
@click.option(
    "--node-encryption",
    cls=Bare,
    bare="prefer",
    metavar="MODE",
    help="Encrypt overlay packets between nodes, of all stacks: alone or =prefer, =strict, =all, =off (default off)",
    shell_complete=lambda _ctx, _option, word: [mode for mode in _MODES if mode.startswith(word)],
)
@_values(
    {
        "node-key-rotation": (
            "DURATION",
            "Age at which nodes get new keys for it: 30d, 24h, or off (default off)",
        ),
        "address-rest": ("SECONDS", "Seconds before a released address may be reused (default 600)"),
    }
)
@click.option(
    "--log-level",
    metavar="LEVEL",
    help="debug, info, warning or error (default info)",
    shell_complete=lambda _ctx, _option, word: [level for level in _LEVELS if level.startswith(word)],
)
@switch("--gate", help="Put the start gate into every node's Docker as well: see docker linkwire gate")
@switch("--check", help="Only look whether every node is fit; exits with 1 if one is not")
@switch("--force", help="Install also where the pre-flight finds problems")
@switch("-d", "--detach", help="Do not wait until everything runs, and test no link")
@pass_docker
def install_command(docker: Docker, **given: str | bool | None) -> int:
    """Install Linkwire on a Swarm, or update it, with its keys.

    Makes the secrets that Linkwire needs, as Docker secrets, and deploys the stack `linkwire`: etcd, controllers, and
    an agent on every node. Run again, it makes what is missing and updates the stack; a flag that is not given keeps
    the value that it had. Before anything is changed the image is run on every node, and looks at its ports, subnet,
    MTU, WireGuard, firewall and clock; --check does only that. At the end a link of its own is tried. etcd runs on
    the nodes with the label linkwire.etcd=true, which managers get, this one first, where too few nodes have it.
    """
    from compose_ext.health import node_encryption  # noqa: PLC0415 - see the module's docstring
    from compose_ext.install import fitness, install, preflight  # noqa: PLC0415

    with_gate, detach = bool(given.pop("gate")), bool(given.pop("detach"))
    only_check, force = bool(given.pop("check")), bool(given.pop("force"))
    texts = {
        name: value if isinstance(value, str) else str(value).lower()
        for name, value in given.items()
        if value is not None
    }
    if only_check:
        findings = install.check(docker, texts, say)
        show(preflight.table(findings))
        return 1 if preflight.lines(findings, fitness.PROBLEM) else 0
    if texts.get("node_encryption", "off") != "off":
        for text in node_encryption.overlays(docker).problems():
            say(f"warning: {text}")
    install.install(docker, texts, with_gate=with_gate, detach=detach, say=say, force=force)
    return 0


@click.command(
    "upgrade",
    cls=Command,
    usage="docker linkwire upgrade --image IMAGE [OPTIONS]",
    examples="""
        docker linkwire upgrade --image registry.example/linkwire:2
        docker linkwire upgrade --image registry.example/linkwire:2 --timeout 600
    """,
)
@click.option("--image", metavar="IMAGE", help="The new image, of controller, agent and etcd")
@click.option(
    "--timeout",
    type=Seconds(_MOST_WAIT),
    default=f"{_NODE_WAIT}",
    metavar="SECONDS",
    help=f"How long each node may take until all links are good again (default {_NODE_WAIT})",
)
@switch("--force", help="Upgrade also where the pre-flight finds problems")
@pass_docker
def upgrade_command(docker: Docker, image: str | None, timeout: str, *, force: bool | None) -> None:
    """Upgrade Linkwire, one node at a time, and go back where a node is not good.

    Looks at every node first, as `install` does. Then it replaces the agents one after the other, and waits after
    each until every link that was good before is good again; then the controllers, and etcd. Where that does not
    come, it puts everything back and exits with 1. Broken off, it goes on when it is run again.
    """
    from compose_ext.install import upgrade  # noqa: PLC0415 - see the module's docstring

    if not image:
        raise UsageError("upgrade to which image? name it with --image")
    upgrade.upgrade(docker, image, seconds=float(timeout), force=bool(force), say=say)


@click.command(
    "renew",
    cls=Command,
    usage="docker linkwire renew [OPTIONS]",
    examples="""
        docker linkwire renew --check
        docker linkwire renew --check --format json
        docker linkwire renew
        docker linkwire renew --signing-key
        docker linkwire renew --link-seed
    """,
)
@switch("--check", help="Show keys and certificates; exits with 1 if one expires within 30 days")
@switch(
    "--drop-old",
    help="At the end restart controllers and agents once more, to accept no certificate of the old authority; "
    "otherwise that ends with the old certificates' time",
)
@switch("--link-seed", help="Renew the link seed instead, and with it the secret of every link key")
@switch("--signing-key", help="Renew the signing key instead")
@form("text", "json")
@pass_docker
def renew_command(
    docker: Docker,
    *,
    check: bool | None,
    drop_old: bool | None,
    link_seed: bool | None,
    signing_key: bool | None,
    form: str,
) -> int:
    """Renew Linkwire's certificates, signing key or link seed, or show when they expire.

    Without a flag: new certificates for etcd, controllers and agents, of a new authority, in steps in which nobody
    is refused. Broken off, it goes on when it is run again. Links carry traffic meanwhile.
    """
    from compose_ext.install import renew  # noqa: PLC0415 - see the module's docstring

    if check:
        stored, problems = renew.check(docker)
        ok = not problems and not any(one.remedy for one in stored)
        if form == "json":
            show_json({"ok": ok, "stored": [asdict(one) for one in stored], "problems": problems})
        else:
            for one in (*stored, *problems):
                print(line(str(one)))
        return 0 if ok else 1
    if form == "json":
        raise UsageError("--format json goes with --check")
    if link_seed and (signing_key or drop_old):
        raise UsageError("--link-seed goes with no other flag: run one renewal after the other")
    renew.renew(docker, signing_key=bool(signing_key), drop_old=bool(drop_old), say=say, link_seed=bool(link_seed))
    return 0


@click.command(
    "uninstall",
    cls=Command,
    usage="docker linkwire uninstall [OPTIONS]",
    examples="""
        docker linkwire uninstall
        docker linkwire uninstall --keep-secrets --yes
    """,
)
@switch("--keep-secrets", help="Remove the stack alone: `install` takes up all the rest again")
@click.option(
    "--image", metavar="IMAGE", help="Of the containers that clean up the nodes, where the stack is gone already"
)
@switch("-y", "--yes", help="Do not ask")
@pass_docker
def uninstall_command(docker: Docker, *, keep_secrets: bool | None, image: str | None, yes: bool | None) -> int:
    """Remove Linkwire from a Swarm.

    Removes the stack `linkwire`, its secrets and configs; and on every node that is up its volumes, and the links of
    tasks that run. Exits with 3 where something is left to do, such as on nodes that it did not reach, or with tasks
    that started with the gate: the last lines say what, with the commands.
    """
    from compose_ext.install.install import uninstall  # noqa: PLC0415 - see the module's docstring

    return leave(uninstall(docker, yes=bool(yes), keep=bool(keep_secrets), image=image or "", say=say))
