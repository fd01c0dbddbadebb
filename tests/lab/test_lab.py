"""The lab itself: what it promises of its nodes, its faults, and what it leaves behind.

It works on a lab of another name than the other tests, so that it may break it at will.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab import Lab, LabError, images
from tests.lab.fixtures import lab_name
from tests.lab.footprint import footprint
from tests.lab.process import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.node import Node

NAME = lab_name("s")
PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def _always_down() -> Iterator[None]:
    Lab(NAME).down()  # a run that was killed left its own
    yield
    Lab(NAME).down()


@pytest.fixture
def own() -> Lab:
    """A lab that is up and whole, whatever the test before did to it."""
    one = Lab(NAME, nodes=3)
    one.up()
    return one


def command_line(*verb: str) -> list[str]:
    return [sys.executable, "-m", "tests.lab", "--name", NAME, *verb]


def node_states(own: Lab) -> dict[str, str]:
    """As Swarm's own command line tells it."""
    listed = own.manager.docker("node", "ls", "--format", "{{.Hostname}} {{.Status}}").stdout
    return dict(line.split() for line in listed.splitlines())


def wait_for_state(own: Lab, node: str, state: str) -> None:
    wait_for(f"{node} to be {state}", lambda: node_states(own)[node] == state, seconds=60, every=0.5)


def etcdctl(own: Lab, *args: str) -> str:
    argv = ["etcdctl", "--endpoints", own.etcd_endpoint, *args]
    environment = {**os.environ, "ETCDCTL_API": "3"}
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=True, timeout=20).stdout


def inspect(node: Node, container: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(node.docker("inspect", container).stdout)[0]
    return found


def container_of(node: Node, service: str) -> str | None:
    """The id of the service's running container on that node."""
    wanted = ("--filter", f"label=com.docker.swarm.service.name={service}", "--filter", "status=running")
    return node.docker("ps", "-q", *wanted).stdout.strip() or None


def running(node: Node, service: str) -> str:
    wait_for(f"a task of {service} on {node.name}", lambda: container_of(node, service) is not None, seconds=60)
    found = container_of(node, service)
    assert found is not None
    return found


def test_down_leaves_nothing_after_running_containers(tmp_path: Path) -> None:
    Lab(NAME).down()
    # iproute2 makes /run/netns a mount with the first namespace, and leaves it so.
    subprocess.run(["sh", "-c", "ip netns add lwfirst && ip netns del lwfirst"], check=True)
    before = footprint()
    own = Lab(NAME, nodes=2)
    own.up()
    image = images.push_busybox(own)
    own.manager.docker("service", "create", "--detach", "--name", "w", "--mode", "global", image, "sleep", "9999")
    for node in own.nodes:
        running(node, "w")
    # What someone started inside a node and forgot.
    with (tmp_path / "log").open("w") as log:
        forgotten = subprocess.Popen(own.node("n2").command(["sleep", "9999"]), stdout=log, start_new_session=True)
    time.sleep(0.2)
    during = footprint() - before
    assert any(line.startswith("process") and "containerd-shim" in line for line in during)
    assert {line.split(" ")[0] for line in during} >= {"process", "namespace", "mount", "device", "cgroup", "file"}

    own.down()

    assert forgotten.wait(timeout=5) == -signal.SIGKILL
    # Not at once only because others, who use the machine at the same time, count as well.
    deadline = time.monotonic() + 30
    while left := during & footprint():
        assert time.monotonic() < deadline, sorted(left)
        time.sleep(0.2)


def test_up_makes_a_swarm_of_real_nodes(own: Lab) -> None:
    assert node_states(own) == {"n1": "Ready", "n2": "Ready", "n3": "Ready"}
    for node in own.nodes:
        assert node.run(["hostname"]).stdout.strip() == node.name
        assert f"{node.address}/24" in node.run(["ip", "-o", "addr", "show", "eth0"]).stdout
        assert "default" not in node.run(["ip", "route"]).stdout
        node.run(["curl", "-sf", f"http://{own.etcd_endpoint}/health"])
        node.run(["curl", "-sf", f"http://{own.registry}/v2/"])
        assert node.docker("info", "--format", "{{.Name}} {{.Swarm.NodeAddr}}").stdout.split() == [
            node.name,
            node.address,
        ]
    with urllib.request.urlopen(f"http://{own.etcd_endpoint}/health", timeout=3) as answer:
        assert json.load(answer) == {"health": "true"}


def test_nodes_reach_each_other_over_ipv6_too(own: Lab) -> None:
    first, second = own.node("n1"), own.node("n2")
    first.run(["ping", "-c1", "-W1", second.address6])
    own.stop_node("n2")
    own.start_node("n2")
    first.run(["ping", "-c3", "-W1", second.address6])
    first.run(["ping", "-c1", "-W1", own.layout.hub_address6])


@pytest.mark.parametrize("mtu", [1280, 1450, 9000])
def test_no_wire_takes_more_than_its_mtu(own: Lab, mtu: int) -> None:
    """Also of a node that came later, and where the sender itself believes that more would pass."""
    own.set_mtu(mtu)
    own.stop_node("n2")
    own.start_node("n2")
    own.up()
    try:
        one = own.node("n1")
        for size, passes in ((mtu, True), (mtu + 1, False)):
            ping = ["ping", "-c1", "-W1", "-M", "do", "-s", str(size - 28), own.node("n2").address]  # RFC 791, 792
            assert (one.run(ping, check=False).returncode == 0) == passes, size
        one.run(["ip", "link", "set", "eth0", "mtu", str(mtu + 100)])
        assert one.run(ping, check=False).returncode != 0
    finally:
        own.set_mtu(1500)


@pytest.mark.parametrize("mtu", [1279, 65536])
def test_an_mtu_that_cannot_be_is_refused(own: Lab, mtu: int) -> None:
    with pytest.raises(LabError, match=f"an MTU of {mtu}: between 1280 and 65535"):
        own.set_mtu(mtu)


def test_up_again_is_quick_and_changes_nothing(own: Lab) -> None:
    pids = [node.dockerd_pid for node in own.nodes]
    began = time.monotonic()
    Lab(NAME, nodes=3).up()
    assert time.monotonic() - began < 2
    assert [node.dockerd_pid for node in own.nodes] == pids
    assert None not in pids


def test_anew_keeps_nothing_of_a_killed_run(own: Lab) -> None:
    own.manager.docker("config", "create", "left", "-", stdin="x")
    own.set_mtu(1300)
    own.cut("n3")
    with Lab(NAME, nodes=2).anew() as lab:
        assert lab.manager.get("/configs") == []
        assert node_states(lab) == {"n1": "Ready", "n2": "Ready"}
        assert "mtu 1500 " in lab.manager.run(["ip", "link", "show", "eth0"]).stdout
        other = [sys.executable, "-c", f"from tests.lab import Lab\nwith Lab({NAME!r}).anew(): pass"]
        done = subprocess.run(other, capture_output=True, text=True, timeout=60, check=False, cwd=PROJECT)
        assert f"another process runs its tests in lab {NAME!r}: name another with LINKWIRE_LAB" in done.stderr
        assert node_states(lab) == {"n1": "Ready", "n2": "Ready"}, "it took nothing away"
    assert not own.layout.root.exists()


def test_up_with_fewer_or_more_nodes(own: Lab) -> None:
    smaller = Lab(NAME, nodes=2)
    smaller.up()
    assert node_states(smaller) == {"n1": "Ready", "n2": "Ready"}
    assert own.node("n3").dockerd_pid is None
    larger = Lab(NAME, nodes=3, managers=1)
    larger.up()
    assert node_states(larger) == {"n1": "Ready", "n2": "Ready", "n3": "Ready"}


def test_agent_enters_namespace_of_later_task(own: Lab) -> None:
    image = images.push_busybox(own)
    manager, node = own.manager, own.node("n2")
    mounts = (
        "type=bind,src=/run/docker/netns,dst=/run/docker/netns,bind-propagation=rslave",
        "type=bind,src=/var/lib/docker/containers,dst=/var/lib/docker/containers",
        "type=bind,src=/var/lib/docker/swarm/certificates,dst=/certificates,readonly",
        "type=bind,src=/run/docker.sock,dst=/run/docker.sock",
    )
    create = ("service", "create", "--detach", "--mode", "global")
    capabilities = ("--cap-add", "NET_ADMIN", "--cap-add", "SYS_ADMIN")
    binds = [word for mount in mounts for word in ("--mount", mount)]
    manager.docker(*create, "--name", "agent", "--network", "host", *capabilities, *binds, image, "sleep", "9999")
    try:
        agent = running(node, "agent")
        manager.docker(*create, "--name", "task", image, "sleep", "9999")
        task = inspect(node, running(node, "task"))
        key, address = (task["NetworkSettings"][field] for field in ("SandboxKey", "IPAddress"))
        netns = f"/run/docker/netns/{Path(key).name}"  # Docker says /var/run, which busybox has not
        inside = node.docker("exec", agent, "nsenter", f"--net={netns}", "ip", "-o", "addr").stdout
        assert f" {address}/" in inside
        script = "mkdir -p /dev/net && mknod /dev/net/tun c 10 200 && tunctl -t lwtun0 && ip link show lwtun0"
        assert "lwtun0" in node.docker("exec", agent, "sh", "-c", script).stdout
        assert "lwtun0" in node.run(["ip", "link"]).stdout
        node.run(["ip", "link", "del", "lwtun0"])
        listed = node.docker("exec", agent, "ls", "/certificates", task["HostnamePath"]).stdout
        assert {"swarm-node.crt", "swarm-node.key", "swarm-root-ca.crt"} <= set(listed.split())
    finally:
        manager.docker("service", "rm", "agent", "task", check=False)


def test_cut_off_node_is_down_until_healed(own: Lab) -> None:
    own.cut("n2")
    assert own.node("n2").run(["ping", "-c1", "-W1", own.manager.address], check=False).returncode != 0
    wait_for_state(own, "n2", "Down")
    assert node_states(own)["n3"] == "Ready"
    own.heal("n2")
    wait_for_state(own, "n2", "Ready")


def test_stopped_node_loses_everything_and_returns_as_itself(own: Lab) -> None:
    node = own.node("n3")
    image = images.push_busybox(own)
    own.manager.docker("service", "create", "--detach", "--name", "s", "--mode", "global", image, "sleep", "9999")
    before = inspect(node, running(node, "s"))
    identity = node.get("/info")["Swarm"]["NodeID"]
    task_netns = Path(f"/proc/{before['State']['Pid']}/ns/net").readlink()
    assert f"namespace {task_netns}" in footprint()

    own.stop_node("n3")

    assert not node.is_up()
    assert f"namespace {task_netns}" not in footprint()
    wait_for("the task to be reaped", lambda: not Path(f"/proc/{before['State']['Pid']}").exists(), seconds=20)
    with pytest.raises(LabError, match="n3 is stopped"):
        node.run(["true"])
    wait_for_state(own, "n3", "Down")

    own.start_node("n3")

    wait_for_state(own, "n3", "Ready")
    assert node.get("/info")["Swarm"]["NodeID"] == identity
    assert running(node, "s") != before["Id"]
    own.manager.docker("service", "rm", "s")


def test_stopped_manager_returns_to_its_swarm(own: Lab) -> None:
    before = own.manager.get("/info")["Swarm"]["Cluster"]["ID"]
    own.stop_node("n1")
    own.start_node("n1")
    own.up()
    assert own.manager.get("/info")["Swarm"]["Cluster"]["ID"] == before
    assert set(node_states(own).values()) == {"Ready"}


def test_etcd_survives_kill_and_loses_data_on_wipe(own: Lab) -> None:
    etcdctl(own, "put", "canary", "sings")
    own.kill_etcd()
    with pytest.raises(subprocess.SubprocessError):
        etcdctl(own, "--dial-timeout=1s", "--command-timeout=1s", "get", "canary")
    own.restart_etcd()
    assert etcdctl(own, "get", "canary").split() == ["canary", "sings"]
    own.restart_etcd()
    assert etcdctl(own, "get", "canary").split() == ["canary", "sings"]
    own.wipe_etcd()
    assert etcdctl(own, "get", "canary") == ""


def test_up_mends_what_was_broken_behind_its_back(own: Lab) -> None:
    dockerd = own.node("n2").dockerd_pid
    assert dockerd is not None
    os.kill(dockerd, signal.SIGKILL)  # its containerd lives on, without a father
    subprocess.run(["ip", "-n", own.layout.node_netns("n3"), "link", "del", "eth0"], check=True)
    own.registry_server.kill()
    own.up()
    assert [own.node(name).is_whole() for name in own.layout.node_names] == [True, True, True]
    assert set(node_states(own).values()) == {"Ready"}
    with urllib.request.urlopen(f"http://{own.registry}/v2/", timeout=3) as answer:
        assert answer.status == 200


def test_up_after_the_bridge_is_gone(own: Lab) -> None:
    subprocess.run(["ip", "netns", "del", own.layout.hub_netns], check=True)
    own.up()
    assert set(node_states(own).values()) == {"Ready"}


@pytest.mark.parametrize("seconds", [0.15, 0.25, 0.4, 0.8, 1.2, 1.6, 2.0])
def test_up_works_after_a_killed_up(seconds: float) -> None:
    Lab(NAME).down()
    half = subprocess.Popen(command_line("up", "--nodes", "3"), cwd=PROJECT, stdout=subprocess.DEVNULL)
    time.sleep(seconds)
    half.kill()
    half.wait()
    own = Lab(NAME, nodes=3)
    own.up()
    assert node_states(own) == {"n1": "Ready", "n2": "Ready", "n3": "Ready"}


@pytest.mark.parametrize("seconds", [0.12, 0.2, 0.3])
def test_up_works_after_a_killed_down(own: Lab, seconds: float) -> None:
    half = subprocess.Popen(command_line("down"), cwd=PROJECT, stdout=subprocess.DEVNULL)
    time.sleep(seconds)
    half.kill()
    half.wait()
    own.up()
    assert node_states(own) == {"n1": "Ready", "n2": "Ready", "n3": "Ready"}


def test_the_command_line(own: Lab) -> None:
    def say(*verb: str) -> subprocess.CompletedProcess[str]:
        argv = command_line(*verb)
        return subprocess.run(argv, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=60)

    status = say("status").stdout
    assert status.count(" up ") >= 3
    assert "manager, ready, active" in status
    assert say("run", "n2", "--", "sh", "-c", "hostname; exit 7").returncode == 7
    assert say("run", "n2", "--", "hostname").stdout == "n2\n"
    wrong = say("run", "n9", "--", "true")
    assert (wrong.returncode, wrong.stderr) == (1, "lab: there is no node 'n9'; there are n1, n2, n3\n")
    assert say("cut", "n3").returncode == 0
    assert " cut " in say("status").stdout
    assert say("heal", "n3").returncode == 0
    assert say("mtu", "1400").returncode == 0
    assert own.network.mtu() == 1400
    assert say("up", "--mtu", "1500").returncode == 0
    assert own.network.mtu() == 1500
    assert say("etcd", "kill").returncode == 0
    assert "stopped" in say("status").stdout
    assert say("up").returncode == 0
    assert "stopped" not in say("status").stdout
    assert own.node("n3").is_whole()


@pytest.mark.parametrize("name", ["", "Lab", "1lab", "far-too-long", "a/b"])
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(LabError, match="lab name"):
        Lab(name or "-")


@pytest.mark.parametrize(("nodes", "managers"), [(0, 1), (300, 1), (3, 4), (3, 0)])
def test_a_bad_size_is_refused(nodes: int, managers: int) -> None:
    with pytest.raises(LabError, match=r"a lab has between|managers: between"):
        Lab(NAME, nodes=nodes, managers=managers)
