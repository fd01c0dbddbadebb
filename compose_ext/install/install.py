"""`docker linkwire install` and `uninstall`: the stack, its secrets, and their removal.

Every step may be interrupted and the command run again: existing parts are used, missing ones are made. Docker's own
lists of secrets, configs and services are the only record; nothing is kept on this machine.
"""

import sys
from collections.abc import Callable, Mapping

from compose_ext.connectivity import run as connectivity
from compose_ext.diagnostics import DockerError, UsageError
from compose_ext.docker_cli import Docker
from compose_ext.install import preflight, rollout
from compose_ext.install.etcd_members import nodes
from compose_ext.install.etcd_members.resize import Resize
from compose_ext.install.fitness import Finding
from compose_ext.install.options import Options, choose, read_label
from compose_ext.install.target import KEY_LABEL, labelled, work_out
from compose_ext.secrets import external_etcd, made_secrets, seeds
from compose_ext.secrets.docker_secrets import CONFIG, SECRET, DockerSecrets
from compose_ext.swarm import gate, installation, linked_stacks, listings, node_jobs
from compose_ext.swarm.installation import STACK
from compose_ext.swarm.listings import TIMEOUT
from compose_ext.terminal import ask

WAIT = 300.0
"""Seconds until everything must run; an image has to be pulled by every node."""
_REMOVAL = 60.0


def install(
    docker: Docker,
    given: Mapping[str, str],
    *,
    with_gate: bool,
    detach: bool,
    say: Callable[[str], None],
    force: bool = False,
) -> None:
    """Install Linkwire, or update the installation to the flags.

    Args:
        docker: a manager's.
        given: fields of `options.Options`, and `external_etcd.ETCD_FILES`, as far as the user gives them.
        with_gate: put the start gate into every node's Docker.
        detach: do not wait until everything runs.
        say: prints a line of progress.
        force: also where the pre-flight finds problems.

    Raises:
        UsageError: a flag is wrong.
        DockerError: Docker cannot do it; run again, it goes on where it stopped.
    """
    swarm = listings.manager(docker)
    before = installation.deployed(docker)
    options = choose(given, before.options)
    if external_etcd.are_given(given) and not options.etcd.startswith("https://"):
        raise UsageError(
            "--etcd-ca, --etcd-cert and the like are for etcds of your own: name them, --etcd https://..."
        )
    secrets = DockerSecrets(docker, before)
    _tell_strangers(secrets, before, say)
    known = len(secrets.everything())
    _try_nodes(docker, swarm, before, options, force=force, say=say)
    places = None if options.etcd else nodes.choose(docker, swarm, before, int(options.etcd_nodes))
    target = work_out(docker, secrets, swarm, before, options, given=given, say=say, places=places)
    new = len(secrets.everything()) - known
    say(f"{new} secrets and configs made" if new else "all secrets and configs are there")
    resize = Resize(docker, secrets, before, places, target, WAIT, say) if places else None
    target = resize.prepare() if resize else target
    rollout.deploy(docker, target.release(secrets), secrets)
    say(f"the stack {STACK} is {'updated' if before.services else 'deployed'}")
    if resize:
        resize.finish(target)
    if with_gate or not detach:
        rollout.wait(docker, WAIT, say, settle=True)
        _prove(docker, options.image, say)
        say("everything runs, and a link has carried traffic between all nodes")
    if with_gate and not gate.run(docker, "install", (), say):
        raise DockerError("Linkwire is installed, and not every node has the gate: see above, and run this again")


def _tell_strangers(secrets: DockerSecrets, before: installation.Deployed, say: Callable[[str], None]) -> None:
    """Refuse a new installation beside secrets that may be an earlier one's; otherwise name what is passed over."""
    strangers = secrets.strangers
    if not strangers:
        return
    names = ", ".join(secret.name for secret in strangers)
    if before.services or not any(secret.kind in {seeds.SIGNING, seeds.LINK} for secret in strangers):
        say(f"not used, since no install has recorded them: {names}")
        return
    ids = ",".join(secret.id for secret in [*strangers, *secrets.everything()])
    raise DockerError(
        f"the Swarm has secrets and configs with Linkwire's names that no install has recorded: {names}. Anybody who "
        "may create secrets could have made them, and would then know the keys. Remove them: "
        + "; ".join(_removal(secrets))
        + f". Only if an earlier version of Linkwire left them there, take them up: docker node update "
        f"--label-add {made_secrets.LABEL}={ids} NODE, then run this again"
    )


def _removal(secrets: DockerSecrets) -> list[str]:
    """Return the commands that remove all that is not ours and has our names."""
    names = {sort: [one.name for one in secrets.strangers if one.sort == sort] for sort in (SECRET, CONFIG)}
    return [f"docker {sort} rm {' '.join(found)}" for sort, found in names.items() if found]


def check(docker: Docker, given: Mapping[str, str], say: Callable[[str], None]) -> tuple[Finding, ...]:
    """Look whether every node is fit for an install with these flags; changes nothing.

    Args:
        docker: a manager's.
        given: as for `install`.
        say: prints a line of progress.

    Raises:
        UsageError: a flag is wrong.
        DockerError: Docker failed.
    """
    swarm = listings.manager(docker)
    before = installation.deployed(docker)
    options = choose(given, before.options)
    say(f"running the image {options.image} on every node, once")
    _, findings = preflight.look(docker, swarm, before, options, seconds=WAIT, say=say)
    return findings


def _try_nodes(
    docker: Docker,
    swarm: listings.Manager,
    before: installation.Deployed,
    options: Options,
    *,
    force: bool,
    say: Callable[[str], None],
) -> None:
    """Run the image on every node before anything is changed; make volumes where Docker's data is elsewhere."""
    image = options.image
    say(f"testing the image {image}, and whether it can work, on every node")
    outcomes, findings = preflight.look(docker, swarm, before, options, seconds=WAIT, say=say)
    preflight.require(findings, image, say, force=force)
    if any(outcome.report.get("misplaced") for outcome in outcomes):
        say("on some nodes Docker keeps its data elsewhere: they get volumes of their own")
        if wrong := node_jobs.table(node_jobs.run(docker, node_jobs.PLACE, image, WAIT, say)):
            raise DockerError(f"the agent's volumes could not be made, so nothing was installed:\n  {wrong}")


def _prove(docker: Docker, image: str, say: Callable[[str], None]) -> None:
    say("testing a link between all nodes")
    if wrong := node_jobs.table(connectivity.prove(docker, image, say)):
        raise DockerError(
            f"all services run, but links carry no traffic:\n  {wrong}\n"
            "Are the UDP ports open between the nodes (--ports)? See `docker linkwire check`, "
            "`docker service logs linkwire_agent` and `docker service logs linkwire_controller`"
        )


def uninstall(docker: Docker, *, yes: bool, keep: bool, image: str, say: Callable[[str], None]) -> list[str]:
    """Remove the stack and everything that Linkwire made: secrets, configs, labels, volumes, and links on nodes.

    Args:
        docker: a manager's.
        yes: do not ask.
        keep: leave all but the stack for another install.
        image: of the containers that clean up, for where the stack is gone already.
        say: prints a line of progress.

    Returns:
        What is left for the user to do, in its order.

    Raises:
        UsageError: not confirmed.
        DockerError: Docker failed; run again.
    """
    swarm = listings.manager(docker)
    before = installation.deployed(docker)
    secrets = DockerSecrets(docker, before)
    image = image or before.image or ""
    if not before.services and (keep or not (secrets.everything() or image)):
        say("Linkwire is not installed in this Swarm")
        return []
    _agree(yes=yes, keep=keep)
    # While the stack names the image: a run that is broken off later can be gone on with.
    gates = gate.take_out(docker, image, say) if image and not keep else []
    if keep:
        secrets.record()  # no service mounts them from now on
    if before.services:
        docker.ask(["stack", "rm", STACK], rollout.DEPLOY_TIMEOUT)
        rollout.wait_gone(docker, _REMOVAL)
        say(f"the stack {STACK} is removed")
    if keep:
        say(
            "kept: secrets and configs, the label of etcd's node, and on every node the volumes; "
            "`docker linkwire install` takes all of it up again. Tasks that run keep their links until they end"
        )
        return []
    left = list[str]()
    if before.services and read_label(before.options or "").etcd:
        left += _clear_own_etcd(docker, before, swarm.node, say)
    for secret in secrets.everything():
        secrets.remove(secret)
    linked_stacks.forget_all(docker)
    say("its secrets and configs are removed")
    if removal := "; ".join(_removal(secrets)):
        left.append(f"remove secrets and configs that no install has recorded, if you need them no more: {removal}")
    for label in (nodes.ETCD_LABEL, KEY_LABEL, made_secrets.LABEL):
        for node in labelled(docker, label):
            docker.ask(["node", "update", "--label-rm", label, node], TIMEOUT)
    left += _clean(docker, image, say)
    # Last, since it is this command again.
    return [*left, *gates]


def _clear_own_etcd(
    docker: Docker, before: installation.Deployed, node: str, say: Callable[[str], None]
) -> list[str]:
    """Delete the records in the user's etcd; returns what is left to do."""
    name = node_jobs.active(docker).get(node, "this manager")
    if wrong := node_jobs.clear_etcd(docker, before.services["controller"], (node, name), say):
        say(f"kept: the records in your own etcd, since {wrong}")
        return ["remove the records in your own etcd: etcdctl del --prefix /linkwire/v1/"]
    say("its records in your own etcd are removed")
    return []


def _clean(docker: Docker, image: str, say: Callable[[str], None]) -> list[str]:
    """Take links and volumes off every node; returns what is left to do. Raises DockerError, with what failed."""
    missed = node_jobs.others(docker)
    volumes = ("agent", "controller", "store", "containers", "certificates")
    by_hand = f"docker volume rm {' '.join(f'{STACK}_{name}' for name in volumes)}"
    if not image:
        say("kept: volumes on the nodes, since the stack and with it the image's name was gone")
        return [f"remove the volumes on every node, there: {by_hand}"]
    jobs = node_jobs.UNWIRE, node_jobs.REMOVE
    wrong = [node_jobs.table(node_jobs.run(docker, job, image, WAIT, say)) for job in jobs]
    if any(wrong):
        raise DockerError(
            "not all of it could be removed:\n  " + "\n  ".join(filter(None, wrong)) + "\nRun this again: "
            f"docker linkwire uninstall --image={image}"
        )
    say("links of running tasks and the volumes are removed, on every node that is up")
    if not missed:
        return []
    nodes = ", ".join(missed)
    say(f"kept: the volumes on {nodes}; a later install copes with them")
    return [f"remove the volumes on {nodes}, there: {by_hand}"]


def _agree(*, yes: bool, keep: bool) -> None:
    if yes:
        return
    what = "Linkwire's stack" if keep else "Linkwire's stack, keys and data, and the links of all tasks that run"
    if not sys.stdin.isatty():
        raise UsageError(f"this removes {what}; confirm with --yes")
    if ask(f"This removes {what}. Continue? [y/N] ") != "y":
        raise UsageError("nothing was removed")
