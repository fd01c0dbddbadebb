"""What a tenant plants beside Linkwire, on a real Swarm of two nodes: containers that pose as the agent, secrets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

import pytest

from compose_ext.diagnostics import DockerError
from compose_ext.docker_cli import Docker
from compose_ext.install.install import _tell_strangers
from compose_ext.secrets import docker_secrets, etcd_certificates, made_secrets, seeds
from compose_ext.secrets.docker_secrets import OWNER, DockerSecrets
from compose_ext.swarm import installation, link_states, node_jobs
from compose_ext.swarm.installation import NOTHING_DEPLOYED
from mesh.crypto.signed_envelope import SigningKey
from tests.lab import Lab, images
from tests.lab.fixtures import lab_name
from tests.lab.node import Node
from tests.lab.process import wait_for
from tests.support.attacks import Attempts

POSING = (
    *("--label=linkwire.role=agent", "--container-label=linkwire.role=agent"),
    *("--label=com.docker.stack.namespace=linkwire", "--container-label=com.docker.stack.namespace=linkwire"),
    *("--container-label=com.docker.swarm.service.name=linkwire_agent", "--hostname=linkwire_agent"),
)
CONTROL = "\x1b[2J\x1b]0;owned\x07"


@pytest.fixture(scope="module")
def swarm() -> Iterator[Lab]:
    with Lab(lab_name("p"), nodes=2, say=print).anew() as lab:
        yield lab


def docker(node: Node) -> Docker:
    return Docker("docker", (f"--host=unix://{node.socket}",))


def containers(node: Node, name: str) -> list[str]:
    """The ids of a service's running containers."""
    return node.docker("ps", "--quiet", "--filter", f"name=^{name}", "--filter", "status=running").stdout.split()


def answering(lab: Lab, name: str, problem: str, *options: str) -> None:
    """A service on every node whose containers answer as an agent does, with one problem."""
    answer = json.dumps({"version": 1, "links": [], "problems": [problem], "nodes": []})
    program = f"cat >/bin/{link_states.ASK} <<'END'\n#!/bin/sh\necho '{answer}'\nEND\n"
    # Not the container's first process, which would not hear SIGTERM: a test that is tried again finds it gone.
    argv = ["sh", "-c", f"{program}chmod +x /bin/{link_states.ASK}; trap exit TERM; sleep 9999 & wait"]
    create = ["service", "create", "--detach", f"--name={name}", "--mode=global", "--no-resolve-image"]
    create += ["--stop-grace-period=0s", *options]
    lab.manager.docker(*create, images.push_busybox(lab), *argv)

    def runs() -> bool:
        return all(containers(node, name) for node in lab.nodes)

    wait_for(f"containers of {name} on all nodes", runs, seconds=60, every=0.2)


def gone(node: Node) -> bool:
    """Whether the genuine agent's container has ended."""
    return not containers(node, "linkwire_agent")


def labelled(node: Node) -> tuple[str, ...]:
    """The defence off: the newest container with the agent's label is asked."""
    found = node.docker("ps", "--quiet", "--filter", "label=linkwire.role=agent").stdout.split()
    return link_states.read(node.docker("exec", found[0], link_states.ASK, "links").stdout).problems


def test_tenants_container_poses_as_the_agent(swarm: Lab, attempt: Attempts) -> None:
    try:
        answering(swarm, "linkwire_agent", "genuine", "--container-label=linkwire.role=agent")
        answering(swarm, "tenant_linkwire_agent", "forged", *POSING)
        for node in swarm.nodes:
            tried = attempt(f"who may create services: his container answers for the agent, on {node.name}")
            tried.works(labelled(node) == ("forged",), "where the container's label counts")
            tried.stopped(link_states.ask(docker(node), None).problems == ("genuine",))
        services = installation.deployed(docker(swarm.manager)).services
        assert services == {}, "the genuine one has no label of the stack here, and the label alone is nothing"
        swarm.manager.docker("service", "rm", "linkwire_agent")
        for node in swarm.nodes:
            wait_for("its end", partial(gone, node), seconds=60)
            with pytest.raises(DockerError, match="no Linkwire"):
                link_states.ask(docker(node), None)
    finally:
        swarm.manager.docker("service", "rm", "linkwire_agent", "tenant_linkwire_agent", check=False)


def test_agents_words_control_no_terminal(swarm: Lab, attempt: Attempts) -> None:
    tried = attempt("a node's root: what its agent answers controls the operator's terminal")
    try:
        answering(swarm, "linkwire_agent", CONTROL)
        (container,) = containers(swarm.nodes[1], "linkwire_agent")
        raw = swarm.nodes[1].docker("exec", container, link_states.ASK, "links").stdout
        tried.works(json.loads(raw)["problems"] == [CONTROL], "where it is shown as it is")
        (problem,) = link_states.ask(docker(swarm.nodes[1]), None).problems
        tried.stopped(problem == "?[2J?]0;owned?")
        swarm.nodes[1].docker("exec", container, "rm", f"/bin/{link_states.ASK}")
        with pytest.raises(DockerError, match="older than this program"):
            link_states.ask(docker(swarm.nodes[1]), None)
    finally:
        swarm.manager.docker("service", "rm", "linkwire_agent", check=False)


def test_node_answers_a_job_for_another(swarm: Lab, attempt: Attempts) -> None:
    tried = attempt("a node's root: its task of a job reports in another node's place")
    asked = docker(swarm.manager)
    nodes = node_jobs.active(asked)
    victim = next(found for found, name in nodes.items() if name == swarm.nodes[0].name)
    genuine, forged = (json.dumps({"node": victim, "problems": found}) for found in (["no nftables"], []))
    script = f"[ $NODE = {swarm.nodes[0].name} ] || {{ sleep 1; echo '{forged}'; exit; }}; echo '{genuine}'"
    argv = ["--env=NODE={{.Node.Hostname}}", "--no-resolve-image", images.push_busybox(swarm), "sh", "-c", script]
    with node_jobs.service(asked, "linkwire_look", argv):
        outcomes = {one.node: one for one in node_jobs.outcomes(asked, "linkwire_look", nodes, 60, print)}
        lines = [
            json.loads(line)
            for line in swarm.manager.docker("service", "logs", "--raw", "linkwire_look").stdout.splitlines()
        ]
    believed = {line["node"]: line["problems"] for line in sorted(lines, key=lambda line: not line["problems"])}
    tried.works(believed == {victim: []}, "where a line says whose it is")
    tried.stopped(outcomes[swarm.nodes[0].name].problems == ("no nftables",))


# --- secrets


def plant(node: Node, sort: str, name: str, content: bytes, labels: dict[str, str]) -> None:
    """A tenant makes a secret or config; he may create these, and nothing else."""
    words = [f"--label={label}={value}" for label, value in {OWNER: "install", **labels}.items()]
    docker(node).ask([sort, "create", *words, name, "-"], 20, content)


def forgetful(monkeypatch: pytest.MonkeyPatch, node: Node) -> DockerSecrets:
    """The defence off: what has our names and label is ours."""
    with monkeypatch.context() as off:
        off.setattr(docker_secrets, "_is_trusted", lambda *_: True)
        return DockerSecrets(docker(node))


def test_planted_seeds_and_authorities_are_not_taken(
    swarm: Lab, attempt: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, said = swarm.manager, list[str]()
    his = SigningKey.generate()
    labels = {seeds.VERIFY_LABEL: str(his.verify_key), seeds.INSTALLATION_LABEL: "his"}
    expires = {etcd_certificates.EXPIRES: "2036-01-01T00:00:00+00:00", etcd_certificates.ADDRESS: "10.0.0.1"}
    try:
        first = attempt("who may create secrets: a first install signs with a seed of his")
        plant(node, "secret", "linkwire_signing_seed_7", b"his", labels)
        plant(node, "secret", "linkwire_link_seed_7", b"his", {seeds.INSTALLATION_LABEL: "his"})
        taken = seeds._current(forgetful(monkeypatch, node), seeds.SIGNING, frozenset())
        first.works(taken is not None and taken.number == 7, "where a name and a label count")
        with pytest.raises(DockerError, match="linkwire_signing_seed_7"):
            _tell_strangers(DockerSecrets(docker(node)), NOTHING_DEPLOYED, said.append)
        genuine = seeds.ensure(DockerSecrets(docker(node)), "cluster", frozenset(), said.append)
        first.stopped(genuine.signing.number == genuine.link.number == 1)
        again = seeds.ensure(DockerSecrets(docker(node)), "cluster", frozenset(), said.append)
        assert again.mounted() == genuine.mounted(), "broken off, it goes on with its own"

        second = attempt("who may create secrets: `renew --signing-key` goes on to a seed of his")
        second.works(forgetful(monkeypatch, node).all(seeds.SIGNING)[-1].number == 7, "where the newest is taken")
        second.stopped(DockerSecrets(docker(node)).all(seeds.SIGNING)[-1] == again.signing)

        third = attempt("who may create secrets: `renew` goes on to an authority of his")
        made_here = etcd_certificates.make(DockerSecrets(docker(node)), "10.0.0.1")
        for kind in etcd_certificates.SECRETS:
            plant(node, "secret", f"linkwire_{kind}_9", b"his", expires)
        ours = next(one for one in DockerSecrets(docker(node)).all(etcd_certificates.CA))
        plant(node, "config", "linkwire_etcd_ca_9", ours.content, expires)
        newest = etcd_certificates.generations(forgetful(monkeypatch, node))[-1]
        third.works(newest.number == 9, "where the newest is taken")
        third.stopped(etcd_certificates.generations(DockerSecrets(docker(node))) == [made_here])
        assert etcd_certificates.make(DockerSecrets(docker(node)), "10.0.0.1").number == 2

        fourth = attempt("who may create secrets: his are in the way of the next number")
        plant(node, "secret", "linkwire_signing_seed_2", b"his", labels)
        fourth.works(any(one.name == "linkwire_signing_seed_2" for one in DockerSecrets(docker(node)).strangers))
        fourth.stopped(seeds.new_signing(DockerSecrets(docker(node))).number == 3)
    finally:
        for sort in ("secret", "config"):
            names = node.docker(sort, "ls", "--quiet").stdout.split()
            with suppress(Exception):
                node.docker(sort, "rm", *names)
        for one in node.docker("node", "ls", "--quiet").stdout.split():
            node.docker("node", "update", "--label-rm", made_secrets.LABEL, one, check=False)
