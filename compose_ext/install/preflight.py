"""Pre-flight of an install: asks every node for its facts, before anything is made."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from compose_ext.diagnostics import DockerError
from compose_ext.docker_cli import Docker
from compose_ext.install import fitness
from compose_ext.install.etcd_members import nodes as etcd_nodes
from compose_ext.install.fitness import PROBLEM, WARNING, Finding, Wish
from compose_ext.install.options import Options, read_label
from compose_ext.swarm import installation, listings, node_jobs
from compose_ext.terminal import Table
from mesh.topology.underlay import ADDRESS_LABEL

QUESTION = "LINKWIRE_FITNESS"
"""The variable in which `linkwire-agent look` finds its question."""
_NO_IMAGE = "No such image"
"""Docker's words where a node has no image, and no registry gives it one."""
_PUSHED = "push it to a registry that all nodes reach, and name it as it is called there: --image REGISTRY/NAME:TAG"
_ENDING = 10.0
"""Seconds until the containers of a stack that was removed have ended: `docker stack rm` does not wait for that."""
_HEADER = ("NODE", "CHECK", "RESULT", "FOUND")


def look(
    docker: Docker,
    swarm: listings.Manager,
    before: installation.Deployed,
    options: Options,
    *,
    seconds: float,
    say: Callable[[str], None],
) -> tuple[list[node_jobs.Outcome], tuple[Finding, ...]]:
    """Run the image once on every node, and judge what it finds there.

    Args:
        docker: a manager's.
        swarm: it.
        before: what is deployed.
        options: of the install.
        seconds: until all nodes must have answered; an image has to be pulled.
        say: prints a line of progress.

    Raises:
        DockerError: Docker could not run it.
    """
    wish = _wish(docker, swarm, before, options)
    mounts = node_jobs.NAMESPACES if wish.encrypts else ()
    job = replace(node_jobs.LOOK, mounts=mounts, environment=(f"{QUESTION}={json.dumps(wish.question())}",))
    outcomes = node_jobs.run(docker, job, options.image, seconds, say)
    findings = fitness.judge(outcomes, wish)
    if any((one.check, one.level) == (fitness.PORTS, PROBLEM) for one in findings):
        say("ports are taken: looking again, should an installation before this one be ending there")
        time.sleep(_ENDING)
        outcomes = node_jobs.run(docker, job, options.image, seconds, say)
        findings = fitness.judge(outcomes, wish)
    return outcomes, findings


def _wish(docker: Docker, swarm: listings.Manager, before: installation.Deployed, options: Options) -> Wish:
    nodes = listings.nodes(docker)
    names = {str(node["ID"]): str(node["Description"]["Hostname"]) for node in nodes}
    places = None if options.etcd else etcd_nodes.choose(docker, swarm, before, int(options.etcd_nodes))
    etcd = frozenset(names[place.node] for place in places.chosen) if places else frozenset[str]()
    etcd_now = frozenset(names[node] for node in places.running & names.keys()) if places else frozenset[str]()
    addresses: dict[str, str] = {}
    for node in nodes:
        manager = str((node.get("ManagerStatus") or {}).get("Addr", "")).rpartition(":")[0].strip("[]")
        for address in (manager, str((node.get("Status") or {}).get("Addr", ""))):
            if fitness.is_address(address):
                addresses.setdefault(names[str(node["ID"])], address)
    told = {
        names[str(node["ID"])]: str(by_hand)
        for node in nodes
        if (by_hand := ((node.get("Spec") or {}).get("Labels") or {}).get(ADDRESS_LABEL))
    }
    earlier = read_label(before.options) if before.services and before.options else None
    return Wish(options, earlier, etcd, etcd_now, addresses, told, swarm.data_path_port)


def table(findings: Sequence[Finding]) -> Table:
    """Return all checks as a table, a row each."""
    return Table(_HEADER, tuple((one.node, one.check, one.level, one.text) for one in findings))


def lines(findings: Sequence[Finding], level: str) -> list[str]:
    """Return the findings of a level, each with its node."""
    return [f"{one.node}: {one.check}: {one.text}" for one in findings if one.level == level]


def require(findings: Sequence[Finding], image: str, say: Callable[[str], None], *, force: bool) -> None:
    """Tell warnings, and refuse an install where there are problems.

    Args:
        findings: of all nodes.
        image: that was run there.
        say: prints a line of progress.
        force: refuse only what cannot run at all.

    Raises:
        DockerError: there are problems; with all of them.
    """
    for text in lines(findings, WARNING):
        say(f"warning: {text}")
    broken = [one for one in findings if one.level == PROBLEM and one.check == fitness.IMAGE]
    if broken:
        wrong = "\n  ".join(f"{one.node}: {one.text}" for one in broken)
        absent = any(_NO_IMAGE in one.text for one in broken)
        hint = f"\n{_PUSHED}" if absent else ""
        raise DockerError(f"the image {image} cannot run on every node, so nothing was changed:\n  {wrong}{hint}")
    problems = lines(findings, PROBLEM)
    if force:
        for text in problems:
            say(f"in spite of: {text}")
    elif problems:
        listed = "\n  ".join(problems)
        raise DockerError(
            f"not every node is fit for Linkwire, so nothing was changed:\n  {listed}\nMend it and run this again; "
            "--check looks only, and --force installs all the same"
        )
