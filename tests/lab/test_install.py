"""`docker linkwire install`, `renew` and `uninstall` on a real Swarm, with etcd over mutual TLS."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from compose_ext.diagnostics import INCOMPLETE
from mesh.identity.ca import CertificateAuthority
from tests.lab import Lab, images, process, programs
from tests.lab.deployment import Deployment
from tests.lab.fixtures import lab_name
from tests.lab.layout import LabError

KINDS = {
    *("signing_seed", "link_seed", "etcd_server", "etcd_controller", "etcd_agent"),
    *("verify_keys", "etcd_ca", "etcd_trust"),
}
CARRIES_S = 30.0
"""Within which links must carry again after an install."""
ROUNDS = int(os.environ.get("LINKWIRE_INSTALL_ROUNDS", "1"))
SET = ("CAP_SYS_CHROOT", "CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP")
TRY = """
import sys
from pathlib import Path
from mesh.store.etcd_channel import ChannelPool
from mesh.identity.tls import Tls, with_node
import os
tls = Tls(*(Path(os.environ["LINKWIRE_ETCD_" + name]) for name in ("CA", "CERT", "KEY")))
target = os.environ["LINKWIRE_ETCD"].removeprefix("https://")
if sys.argv[1] == "own":
    tls = with_node(tls, Path("/run/linkwire/certificates")).preferred
pool = ChannelPool([target], 5.0, tls, b"/linkwire/v1/cluster")
for key in sys.argv[2:]:
    try:
        with pool.use() as channel:
            print(key, "written" if channel.commit([], [(b"/linkwire/v1/" + key.encode(), b"x", 0)], []) else "not")
            channel.commit([], [], [b"/linkwire/v1/" + key.encode()])
    except Exception as error:
        print(key, error)
"""


@pytest.fixture(scope="module")
def fresh() -> Iterator[Deployment]:
    with Lab(lab_name("i"), nodes=2, say=print).anew() as lab:
        yield Deployment(lab, images.build_all(lab), {"LINKWIRE_ADDRESS_REST": "5"})


@pytest.fixture
def installed(fresh: Deployment) -> Deployment:
    if not any(one["Spec"]["Name"].startswith("linkwire_") for one in fresh.lab.manager.get("/services")):
        try:
            fresh.install(own_etcd=True)
        except LabError:
            # What a test left broken off is that test's failure, and would be that of all that come after it.
            fresh.lab.down()
            fresh.lab.up()
            images.build_all(fresh.lab)  # the registry went with the lab
            raise
    return fresh


@pytest.fixture
def linked(installed: Deployment) -> Iterator[programs.Task]:
    """A stack with a link that carries; its consumer."""
    services = {
        "web": programs.service(installed.images.demo, "listen", "web", "--tcp", "80"),
        "client": programs.idle(installed.images.demo, links=["web"]),
    }
    installed.deploy("own", programs.stack(services))
    installed.wait_running("own_web", 1)
    client = installed.wait_running("own_client", 1)[0]
    process.wait_for("the link to carry", lambda: carries(client), seconds=CARRIES_S)
    yield client
    installed.remove("own")


def carries(client: programs.Task) -> bool:
    """Whether somebody answers; each of the program's threads makes an even share of the calls."""
    return any(call.who is not None for call in programs.count_calls(client, "web", 8))


def held(deployment: Deployment) -> dict[str, str]:
    """Every secret and config of the Swarm: its name, and when it was made."""
    manager = deployment.lab.manager
    found = [*manager.get("/secrets"), *manager.get("/configs")]
    return {one["Spec"]["Name"]: one["CreatedAt"] for one in found}


def containers(deployment: Deployment) -> set[str]:
    return set(deployment._containers("linkwire"))


def node_state(deployment: Deployment) -> list[tuple[str, str, object, bool]]:
    """Of each node what the gate changes: dockerd's file, files of its own, the default runtime, the node label."""
    gated = {
        one["ID"] for one in deployment.lab.manager.get("/nodes") if "linkwire.gate" in (one["Spec"]["Labels"] or {})
    }
    look = "ls /usr/local/bin/linkwire-runc /etc/linkwire %s.* 2>/dev/null || :"
    return [
        (
            node.config.read_text(),
            node.run(["sh", "-c", look % node.config]).stdout,
            node.get("/info")["DefaultRuntime"],
            node.get("/info")["Swarm"]["NodeID"] in gated,
        )
        for node in deployment.lab.nodes
    ]


def test_gate_installs_and_uninstalls_without_trace(installed: Deployment) -> None:
    before = node_state(installed)
    running = containers(installed)
    said = installed.linkwire("gate", "install")
    assert said.count("gate in: default runtime runc -> linkwire; script /usr/local/bin/linkwire-runc;") == 2
    assert all((state[2], state[3]) == ("linkwire", True) for state in node_state(installed))
    assert containers(installed) == running, "no task was restarted"

    said = installed.linkwire("gate", "remove")
    assert said.count("gate out: default runtime linkwire -> runc; script removed, ") == 2
    assert node_state(installed) == before
    services = installed.lab.manager.docker("service", "ls", "--format", "{{.Name}}").stdout
    assert "gate" not in services
    own = ["ps", "-aq", "--filter", "label=linkwire.role=gate"]
    process.wait_for(
        "its containers to go", lambda: not any(node.docker(*own).stdout for node in installed.lab.nodes), seconds=30
    )
    assert all("linkwire" not in node.get("/info")["Runtimes"] for node in installed.lab.nodes)


def test_nodes_unfit_for_gate_are_named_and_untouched(installed: Deployment) -> None:
    n1, n2 = installed.lab.nodes
    good = n2.config.read_text()
    try:
        for text, reason in (
            ("{,", f"n2: nothing done: {n2.config} does not parse: "),
            (
                good.replace("{", '{"max-concurrent-downloads": -3,', 1),
                "n2: nothing done: its dockerd did not apply ",
            ),
        ):
            n2.config.write_text(text)
            done = installed.try_linkwire("gate", "install")
            assert done.returncode == 1
            assert reason in done.stdout
            assert "n1: gate in" in done.stdout, "the others have it"
            assert n2.config.read_text() == text
            assert n2.get("/info")["DefaultRuntime"] == "runc"
        done = installed.try_linkwire("gate", "install", "n3")
        assert (done.returncode, "this Swarm has no node 'n3'" in done.stderr) == (2, True)
        n1.docker("node", "update", "--availability", "drain", "n2")
        done = installed.try_linkwire("gate", "install", "n2")
        assert (done.returncode, "n2: nothing done: it is set to drain: `docker node update" in done.stdout) == (
            1,
            True,
        )
    finally:
        n1.docker("node", "update", "--availability", "active", "n2")
        n2.config.write_text(good)
        process.wait_for("n2's agent", lambda: installed.agent(n2) is not None, seconds=60)
        installed.linkwire("gate", "remove")


def test_installing_again_makes_nothing_and_replaces_nothing(installed: Deployment) -> None:
    before, running = held(installed), containers(installed)
    assert {name.removeprefix("linkwire_").rpartition("_")[0] for name in before} == KINDS
    said = installed.linkwire("install", seconds=300)
    assert "all secrets and configs are there" in said
    assert held(installed) == before
    assert containers(installed) == running


def test_broken_install_is_completed_and_rest_kept(installed: Deployment) -> None:
    before = held(installed)
    installed.lab.manager.docker("stack", "rm", "linkwire")
    installed.wait_gone()
    gone = next(name for name in before if "verify_keys" in name)
    installed.lab.manager.docker("config", "rm", gone)
    installed.install(own_etcd=True)
    after = held(installed)
    assert set(after) == set(before)
    assert {name for name in before if after[name] != before[name]} == {gone}


def tried(deployment: Deployment, shown: str, keys: Sequence[str]) -> list[str]:
    """What etcd says to writes with a certificate from the manager's agent's container: `own` or `shared`."""
    node = deployment.lab.manager
    agent = deployment.agent(node)
    assert agent is not None
    argv = ["exec", agent, "/opt/linkwire/bin/python", "-c", TRY, shown]
    return node.docker(*argv, *keys).stdout.splitlines()


def refused(said: Sequence[str]) -> bool:
    return all("PERMISSION_DENIED" in line for line in said)


def ranges(node: str) -> tuple[str, ...]:
    return tuple(f"{prefix}/{node}/x" for prefix in ("tasks", "recalled"))


def is_own(deployment: Deployment, me: str) -> bool:
    """Whether etcd takes the manager's own certificate, and the shared one for nobody's any more."""
    return tried(deployment, "own", ranges(me)) == [f"{key} written" for key in ranges(me)] and refused(
        tried(deployment, "shared", [*ranges(me), "nodes/x", "services/x"])
    )


def test_node_certificate_writes_own_keys_shared_one_nothing(installed: Deployment) -> None:
    nodes = {one["ID"] for one in installed.lab.manager.get("/nodes")}
    me = str(installed.lab.manager.get("/info")["Swarm"]["NodeID"])
    process.wait_for("agents to be their nodes' users", lambda: is_own(installed, me), seconds=60, every=0.5)
    others = nodes - {me}
    keys = ["services/x", "endpoints/x/y", "keys/n/x", "cluster", "manifest", "leader", "members/x", "linkkeys/x/y"]
    keys += ["access", *(f"{prefix}/{other}" for other in others for prefix in ("nodes", "vitals"))]
    keys += [key for other in others for key in ranges(other)]
    assert refused(tried(installed, "own", keys))


def restarts(deployment: Deployment) -> int:
    """How often etcd was started again for another root."""
    return deployment.logged("linkwire_etcd").count("Swarm root changed")


def test_etcd_follows_a_rotation_of_swarms_ca(installed: Deployment) -> None:
    manager = installed.lab.manager
    me = str(manager.get("/info")["Swarm"]["NodeID"])
    before = manager.get("/swarm")["TLSInfo"]["TrustRoot"]
    starts = restarts(installed)
    manager.docker("swarm", "ca", "--rotate", "--detach")

    def rotated() -> bool:
        found = manager.get("/swarm")
        return found["TLSInfo"]["TrustRoot"] != before and not found.get("RootRotationInProgress")

    process.wait_for("the new root", rotated, seconds=120, every=0.5)
    process.wait_for("etcd to trust it", lambda: restarts(installed) > starts, seconds=60, every=0.5)
    process.wait_for("agents to be their nodes' users", lambda: is_own(installed, me), seconds=60, every=0.5)


def test_no_container_has_more_than_it_needs(installed: Deployment) -> None:
    manager = installed.lab.manager
    for service, kept in (
        ("etcd", set()),
        ("controller", set()),
        ("agent", {"CAP_NET_ADMIN", "CAP_SYS_ADMIN", "CAP_MKNOD", *SET}),
    ):
        for node, container in installed.tasks(f"linkwire_{service}"):
            host = json.loads(node.docker("inspect", container).stdout)[0]["HostConfig"]
            assert host["ReadonlyRootfs"], service
            assert host["CapDrop"] == ["ALL"], service
            assert set(host["CapAdd"] or ()) == kept, service
    assert manager.get("/secrets")


def test_renewing_refuses_nobody(installed: Deployment) -> None:
    """With wireguard-go too, a replaced agent adopts the devices that are there."""
    services = {
        "web": programs.service(installed.images.demo, "listen", "web", "--tcp", "80"),
        "client": programs.idle(installed.images.demo, links=["web"]),
    }
    installed.deploy("renewed", programs.stack(services))
    client = installed.wait_running("renewed_client", 1)[0]
    installed.wait_connected("renewed")
    before = held(installed)
    with programs.Calls(client, "web", pause=0.05) as calls:
        began = time.monotonic()
        said = installed.linkwire("renew", seconds=400)
        took = time.monotonic() - began
    lost = calls.failed()
    print(f"renewed in {took:.0f} s: {len(lost)} of {len(calls.made)} requests lost\n{said}")
    answered = partial(programs.count_calls, client, "web", 1)
    process.wait_for("the link to carry again", lambda: answered()[-1].who is not None, seconds=CARRIES_S)
    assert len(lost) <= len(calls.made) / 100
    after = set(held(installed))
    assert {"linkwire_etcd_server_2", "linkwire_etcd_agent_2"} <= after
    assert not {"linkwire_etcd_server_1", "linkwire_etcd_agent_1"} & after
    assert set(before) - after
    assert "in use, good until" in installed.linkwire("renew", "--check")
    said = "".join(installed.logged(f"linkwire_{name}") for name in ("agent", "controller"))
    assert "does not accept our certificate" not in said
    assert "LINKWIRE_ETCD_CA" not in said
    installed.remove("renewed")


def test_a_new_signing_key(installed: Deployment) -> None:
    before = held(installed)
    installed.linkwire("renew", "--signing-key", seconds=400)
    after = held(installed)
    assert {name for name in set(after) ^ set(before) if "etcd" in name} == set()
    assert {name for name in after if "signing_seed" in name}.isdisjoint(before)
    process.wait_for("an agent on every node", installed.agents_ready, seconds=90, every=0.5)


def test_worker_asked_for_manager_command_says_which(installed: Deployment) -> None:
    worker, manager = installed.lab.nodes[1], installed.lab.manager
    for line in ("node ls", "rotate --all", "check", "renew", "uninstall --yes", "install"):
        done = installed.try_linkwire(*line.split(), node=worker)
        assert done.returncode == 1, line
        # `check` says it beside what the worker's agent knows.
        said = done.stdout if line == "check" else done.stderr
        assert f"this node is a worker of its Swarm: ask a manager (at {manager.address})" in said, line


def test_a_mistyped_image_changes_nothing(installed: Deployment) -> None:
    before, running = held(installed), containers(installed)
    done = installed.try_linkwire("install", f"--image={installed.images.linkwire}-typo", seconds=300)
    assert done.returncode == 1
    for node in installed.lab.nodes:
        assert f"  {node.name}: No such image: {installed.images.linkwire}-typo" in done.stderr
    assert held(installed) == before
    assert containers(installed) == running


def leftovers(deployment: Deployment) -> list[str]:
    """What of Linkwire is on the nodes and in the Swarm: volumes, containers, files, networks, labels."""
    manager = deployment.lab.manager
    found = [name for name in held(deployment) if name.startswith("linkwire")] + list(containers(deployment))
    found += [one["Spec"]["Name"] for one in manager.get("/services") if "linkwire" in one["Spec"]["Name"]]
    for node in deployment.lab.nodes:
        found += node.docker("volume", "ls", "--quiet", "--filter", "name=linkwire").stdout.split()
        found += node.docker("ps", "--all", "--quiet", "--filter", "name=linkwire").stdout.split()
        found += node.docker("network", "ls", "--quiet", "--filter", "name=linkwire").stdout.split()
        found += node.run(["find", "/run/docker/linkwire"], check=False).stdout.split()
    labels = {label for node in manager.get("/nodes") for label in node["Spec"]["Labels"]}
    return found + [label for label in labels if label.startswith("linkwire.")]


def test_links_carry_again_after_uninstall_and_install(installed: Deployment, linked: programs.Task) -> None:
    node, container = linked
    for _ in range(ROUNDS):
        installed.uninstall()
        process.wait_for("its last containers to go", lambda: not leftovers(installed), seconds=30)
        names = node.docker("exec", container, "grep", "-v", "^#", "/etc/hosts").stdout
        assert "linkwire" not in names, "what is left are comments, since no line of the file may move"
        assert " lw" not in node.docker("exec", container, "cat", "/proc/net/dev").stdout
        installed.install(own_etcd=True)
        process.wait_for("the link to carry", lambda: carries(linked), seconds=CARRIES_S)


def test_links_carry_again_over_what_another_installation_left(installed: Deployment, linked: programs.Task) -> None:
    """Its keys are gone, and on every node its volumes are not: as an uninstall that reached no node leaves it."""
    said = installed.linkwire("uninstall", "--yes", "--keep-secrets")
    assert "kept: secrets and configs" in said
    installed.wait_gone()
    for sort in ("secret", "config"):
        listed = installed.lab.manager.docker(sort, "ls").stdout
        names = [name for name in held(installed) if name.startswith("linkwire_") and name in listed]
        installed.lab.manager.docker(sort, "rm", *names)
    installed.install(own_etcd=True)
    process.wait_for("the link to carry", lambda: carries(linked), seconds=CARRIES_S)
    assert "state of another installation set aside" in installed.logged("linkwire_agent")
    assert "data of another installation set aside" in installed.logged("linkwire_etcd")


@pytest.mark.parametrize("kind", sorted(KINDS) if ROUNDS > 1 else ["link_seed"])
def test_links_carry_again_without_a_secret_or_config(
    installed: Deployment, linked: programs.Task, kind: str
) -> None:
    installed.linkwire("uninstall", "--yes", "--keep-secrets")
    installed.wait_gone()
    name = next(name for name in held(installed) if name.removeprefix("linkwire_").rpartition("_")[0] == kind)
    sort = "config" if name in installed.lab.manager.docker("config", "ls").stdout else "secret"
    installed.lab.manager.docker(sort, "rm", name)
    installed.install(own_etcd=True)
    process.wait_for("the link to carry", lambda: carries(linked), seconds=CARRIES_S)


@pytest.mark.skipif(ROUNDS == 1, reason="long: LINKWIRE_INSTALL_ROUNDS=5")
@pytest.mark.parametrize(("volume", "nodes"), [("store", 1), ("agent", 1), ("agent", 2)])
def test_links_carry_again_without_a_volume(
    installed: Deployment, linked: programs.Task, volume: str, nodes: int
) -> None:
    installed.linkwire("uninstall", "--yes", "--keep-secrets")
    installed.wait_gone()
    for node in installed.lab.nodes[:nodes]:
        node.docker("volume", "rm", f"linkwire_{volume}")
    installed.install(own_etcd=True)
    process.wait_for("the link to carry", lambda: carries(linked), seconds=CARRIES_S)


def test_uninstalling_leaves_nothing(installed: Deployment) -> None:
    """But for what runs with the gate: its last lines are the commands that end that too, and these do."""
    before = node_state(installed)
    installed.linkwire("gate", "install")
    manager = installed.lab.manager
    create = ["service", "create", "--mode=global", "--stop-grace-period=0s", "--no-resolve-image"]
    forever = [installed.images.demo, "sleep", "86400"]
    manager.docker(*create, "--name=kept", *forever, timeout=120)
    manager.docker(*create, "--name=gated", "--constraint=node.labels.linkwire.gate == true", *forever, timeout=120)
    done = installed.try_linkwire("uninstall", "--yes")
    assert done.returncode == INCOMPLETE, done.stderr
    _, _, left = done.stdout.partition("linkwire: left to do:\n")
    place, replace, remove = left.splitlines()
    assert place.startswith("linkwire:   let the tasks of gated run without the gate")
    assert replace.startswith("linkwire:   replace the tasks of kept, which")
    assert remove.startswith("linkwire:   then take the gate out of n1, n2")
    manager.docker(*shlex.split(place.partition(": docker ")[2]), timeout=120)
    assert len(installed.wait_running("gated", 2)) == len(installed.lab.nodes)
    manager.docker(*shlex.split(replace.partition(": docker ")[2]), timeout=120)
    installed.linkwire(*shlex.split(remove.partition(": docker linkwire ")[2]), "--yes")
    manager.docker("service", "rm", "kept", "gated")
    process.wait_for("its last containers to go", lambda: not leftovers(installed), seconds=30)
    assert node_state(installed) == before
    assert installed.lab.manager.get("/services") == []
    assert "not installed" in installed.linkwire("uninstall", "--yes")
    done = installed.try_linkwire("renew")
    assert done.returncode == 1
    assert "is not installed in this Swarm" in done.stderr


def test_unfit_node_is_named_before_anything_is_made(fresh: Deployment) -> None:
    """The Swarm is bare, since Linkwire was uninstalled, or never installed where this test runs alone."""
    n2 = fresh.lab.node("n2")
    rules = """
        add table inet guard
        add chain inet guard input { type filter hook input priority 0; policy accept; }
        add rule inet guard input udp dport 51820-53819 drop
    """
    given = ("install", f"--image={fresh.images.linkwire}")
    n2.run(["nft", "-f", "-"], stdin=rules)
    try:
        check = fresh.try_linkwire(*given, "--check", seconds=200)
        done = fresh.try_linkwire(*given, seconds=200)
    finally:
        n2.run(["nft", "delete", "table", "inet", "guard"])
    assert (check.returncode, done.returncode) == (1, 1), check.stdout + done.stderr
    named = [
        line.split()[:3] for line in check.stdout.splitlines() if "drops UDP 51820-53819: nftables chain" in line
    ]
    assert named == [["n2", "firewall", "problem"]]
    assert "nothing was changed:\n  n2: firewall: drops UDP 51820-53819: nftables chain inet guard" in done.stderr
    assert fresh.lab.manager.get("/services") == []
    process.wait_for("the containers that looked to go", lambda: not leftovers(fresh), seconds=30)


@contextmanager
def own_etcd(lab: Lab, folder: Path) -> Iterator[list[str]]:
    """An etcd of the user's own on the lab's bridge, over TLS; the flags of `install` for it."""
    host, _, port = lab.etcd_endpoint.rpartition(":")
    url, authority = f"https://{host}:{int(port) + 10}", CertificateAuthority("theirs")
    files = {"ca": authority.pem, "server": authority.server([host]), "client": authority.client("anybody")}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    log = (folder / "log").open("wb")
    argv = ["setpriv", "--pdeathsig", "KILL", "etcd", f"--data-dir={folder / 'data'}", "--client-cert-auth"]
    argv += [
        f"--listen-client-urls={url}",
        f"--advertise-client-urls={url}",
        "--listen-peer-urls=http://127.0.0.1:2390",
    ]
    argv += [
        f"--cert-file={folder / 'server'}",
        f"--key-file={folder / 'server'}",
        f"--trusted-ca-file={folder / 'ca'}",
    ]
    with log, subprocess.Popen(lab.hub_command(argv), stdout=log, stderr=log) as running:
        try:
            yield [f"--etcd={url}", f"--etcd-ca={folder / 'ca'}"] + [
                f"--etcd-{what}={folder / 'client'}" for what in ("cert", "key")
            ]
        finally:
            running.kill()


def test_an_etcd_of_the_users_own_over_tls(fresh: Deployment, tmp_path: Path) -> None:
    with own_etcd(fresh.lab, tmp_path) as flags:
        said = fresh.linkwire("install", f"--image={fresh.images.linkwire}", *flags, seconds=400)
        assert "agents show the controllers' certificate" in said
        process.wait_for("an agent on every node", fresh.agents_ready, seconds=90, every=0.5)
        kinds = {name.removeprefix("linkwire_").rpartition("_")[0] for name in held(fresh)}
        assert kinds == {"signing_seed", "link_seed", "verify_keys", "own_etcd_ca", "own_etcd_controller"}
        assert "all secrets and configs are there" in fresh.linkwire("install", seconds=300)
        assert "linkwire_own_etcd_controller_1: secret, in use, good until" in fresh.linkwire("renew", "--check")
        said = fresh.linkwire("uninstall", "--yes", seconds=300)
        assert "its records in your own etcd are removed" in said
