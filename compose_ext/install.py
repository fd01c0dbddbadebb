"""`docker linkwire install` and `uninstall`: Linkwire on a Swarm with all its secrets, and off it again.

Every step can be broken off and the command run again: what is there is used, what is missing is made. What was made
is known by Docker's own list of secrets, configs and services; nothing is kept on this machine.
"""

import sys
from collections.abc import Callable

from compose_ext import own_etcd, rollout
from compose_ext.choices import choose
from compose_ext.engine import Docker
from compose_ext.errors import UsageError
from compose_ext.flags import Parsed
from compose_ext.stackfile import STACK
from compose_ext.target import ETCD_LABEL, ensure_etcd_node, labelled, work_out
from compose_ext.vault import TIMEOUT, Vault

WAIT = 300.0
"""Seconds until everything must run; an image has to be pulled by every node."""
_REMOVAL = 60.0


def install(docker: Docker, parsed: Parsed, say: Callable[[str], None]) -> None:
    """Install Linkwire, or bring what is installed to what the flags say.

    Args:
        docker: a manager's.
        parsed: the flags of `choices.FLAGS` and `choices.ETCD_FILES`, and `detach`.
        say: is told what is done.

    Raises:
        UsageError: a flag is wrong.
        DockerError: Docker cannot do it; run again, it goes on where it stopped.
    """
    swarm = rollout.swarm(docker)
    before = rollout.deployed(docker)
    choices = choose(parsed, before.choices)
    if own_etcd.given(parsed) and not choices.etcd.startswith("https://"):
        raise UsageError(
            "--etcd-ca, --etcd-cert and the like are for etcds of your own: name them, --etcd https://..."
        )
    vault = Vault(docker)
    known = len(vault.everything())
    if not choices.etcd:
        ensure_etcd_node(docker, swarm, say)
    release = work_out(docker, vault, swarm, before, choices, parsed=parsed, say=say).release(vault)
    made = len(vault.everything()) - known
    say(f"{made} secrets and configs made" if made else "all secrets and configs are there")
    rollout.deploy(docker, release)
    say(f"the stack {STACK} is {'updated' if before.services else 'deployed'}")
    if not parsed.is_on("detach"):
        rollout.wait(docker, WAIT, say)
        say("everything runs")


def uninstall(docker: Docker, parsed: Parsed, say: Callable[[str], None]) -> None:
    """Remove the stack, and with it every secret and config of ours.

    Args:
        docker: a manager's.
        parsed: `yes` not to be asked, `keep-secrets` to leave them for another install.
        say: is told what is done.

    Raises:
        UsageError: nobody said yes.
        DockerError: Docker failed; run again.
    """
    rollout.swarm(docker)
    keep = parsed.is_on("keep-secrets")
    before = rollout.deployed(docker)
    vault = Vault(docker)
    if not before.services and (keep or not vault.everything()):
        say("Linkwire is not installed in this Swarm")
        return
    _agree(parsed, keep=keep)
    if before.services:
        docker.ask(["stack", "rm", STACK], rollout.DEPLOY_TIMEOUT)
        rollout.wait_gone(docker, _REMOVAL)
        say(f"the stack {STACK} is removed")
    if not keep:
        for held in vault.everything():
            vault.remove(held)
        say("its secrets and configs are removed")
    for node in labelled(docker):
        docker.ask(["node", "update", "--label-rm", ETCD_LABEL, node], TIMEOUT)
    say(
        f"kept: on every node the volume {STACK}_agent (the node's own key), where etcd ran {STACK}_store: remove "
        "them there, with `docker volume rm`. Tasks that run keep their links until they end"
    )


def _agree(parsed: Parsed, *, keep: bool) -> None:
    if parsed.is_on("yes"):
        return
    what = "Linkwire's stack" if keep else "Linkwire's stack and its keys: nothing that they signed counts any more"
    if not sys.stdin.isatty():
        raise UsageError(f"this removes {what}; say --yes if that is meant")
    if input(f"This removes {what}. Linked services lose new tasks' links. Go on? [y/N] ").strip().lower() != "y":
        raise UsageError("nothing was removed")
