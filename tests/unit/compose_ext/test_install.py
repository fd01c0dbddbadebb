"""What `docker linkwire install` is told, and the stack file that comes of it."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
import yaml

from agent.containers.volumes import BOUND, DEFAULT_ROOT
from compose_ext.diagnostics import UsageError
from compose_ext.install import install
from compose_ext.install.etcd_members.nodes import Places, order
from compose_ext.install.etcd_members.resize import Resize
from compose_ext.install.options import Options, choose, read_label
from compose_ext.install.stack_template import Release, template
from compose_ext.install.target import Target
from compose_ext.secrets.etcd_certificates import settled
from compose_ext.swarm import node_jobs
from compose_ext.swarm.installation import OPTIONS_LABEL
from controller.etcd.server import READY
from mesh.identity.key_files import CONTROLLER_KEY_FILE


def stack(options: Options) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(Release(options, "https://10.0.0.1:2379", {}).text())
    return document


def test_flag_precedes_earlier_choice_precedes_default() -> None:
    first = choose({"image": "a/b:1", "subnet": "10.1.0.0/16"}, None)
    second = choose({"image": "a/b:2"}, first.label())
    assert (second.image, second.subnet, second.controllers) == ("a/b:2", "10.1.0.0/16", "2")
    assert read_label('{"image": "x", "of a later version": 1}') == Options(image="x")
    assert read_label("[]") == read_label("{") == Options()


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--image=", "no image's name"),
        ("--etcd=10.0.0.1:2379", "no etcd endpoint such as https://10.0.0.1:2379"),
        ("--etcd=https://10.0.0.1:99999", "no etcd endpoint"),
        ("--etcd=https://a:1,http://b:1", "all of them, or none"),
        ("--etcd=http://10.0.0.1:2379", "plaintext http://"),
        ("--etcd-address=127.0.0.1", "other nodes cannot reach"),
        ("--etcd-address=etcd", "not an IP address"),
        ("--etcd-port=0", "not a TCP port"),
        ("--etcd-nodes=2", "none of 1, 3, 5"),
        ("--etcd-nodes=" + "9" * 5000, "none of 1, 3, 5"),
        ("--subnet=10.0.0.0/30", "too few addresses"),
        ("--subnet=10.0.0.1/16", "not an IPv4 subnet"),
        ("--controllers=0", "number from 1 to 9"),
        ("--controllers=" + "9" * 5000, "number from 1 to 9"),
        ("--address-rest=" + "9" * 5000, "number of seconds"),
        ("--etcd-port=" + "9" * 5000, "not a TCP port"),
        ("--ports=5-4", "range of UDP ports"),
        ("--metrics=9586", "--metrics '9586' is neither an address and port"),
        ("--controller-metrics=127.0.0.1:0", "--controller-metrics '127.0.0.1:0' is neither"),
        ("--etcd-metrics=", "--etcd-metrics '' is neither"),
        ("--address-rest=-1", "number of seconds"),
        ("--log-level=loud", "none of debug"),
    ],
)
def test_unsuitable_choice_is_reported_in_users_words(flag: str, message: str) -> None:
    name, _, value = flag.removeprefix("--").partition("=")
    with pytest.raises(UsageError, match=message):
        choose({name.replace("-", "_"): value}, None)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"etcd": "https://10.0.0.1:2379"}, "give one"),
        ({"etcd_address": "10.0.0.1"}, "where it advertises itself"),
        ({"etcd_port": "65535"}, "leaves none for members"),
    ],
)
def test_flags_that_three_etcd_nodes_exclude(flags: dict[str, str], message: str) -> None:
    choose(flags, None)
    with pytest.raises(UsageError, match=message):
        choose({**flags, "etcd_nodes": "3"}, None)


def test_only_several_members_of_etcd_meet() -> None:
    single = stack(Options())["services"]["etcd"]
    assert "healthcheck" not in single
    assert not [name for name in single["environment"] if "MEMBERS" in name or "PEER" in name]
    release = Release(Options(etcd_nodes="3"), "https://10.0.0.1:2379", {}, "", "n1=https://10.0.0.1:2380", 3)
    document = json.loads(release.text())
    several = document["services"]["etcd"]
    assert several["deploy"]["placement"]["max_replicas_per_node"] == 1
    assert several["healthcheck"]["test"] == ["CMD", "test", "-e", f"/tmp/{READY}"]  # noqa: S108 - its own tmpfs
    assert {one["source"] for one in several["secrets"]} == {"etcd_server", "etcd_peer"}
    assert release.variables()["LINKWIRE_ETCD_REPLICAS"] == "3"
    assert {"etcd_peer"} == set(document["secrets"]) - set(stack(Options())["secrets"])


def docker_node(manager: bool, *, up: bool = True) -> dict[str, Any]:
    found: dict[str, Any] = {"Status": {"State": "ready" if up else "down"}, "Spec": {"Availability": "active"}}
    return found | ({"ManagerStatus": {"Reachability": "reachable"}} if manager else {}) | {"ID": "x"}


def test_etcd_goes_where_its_data_is() -> None:
    swarm = {name: docker_node(name != "w") for name in ("a", "b", "c", "w")}
    assert order(swarm, (), (), "b")[0] == "b", "the manager that is asked"
    assert order(swarm, ("w",), (), "b") == ["w", *order(swarm, (), (), "b")], "a worker with the label alone"
    assert order(swarm, ("a", "b", "c"), ("c", "a"), "b") == ["c", "a", "b"]
    swarm["c"] = docker_node(manager=True, up=False)
    assert order(swarm, ("a", "c"), ("c", "a"), "b") == ["a", "c", "b"], "one that is down keeps its place"


def test_without_an_etcd_no_step_waits_for_one() -> None:
    """As where most of its nodes are lost for good, and the others have lost the label."""
    nothing: Any = None
    target = Target(Options(etcd_nodes="3"), "https://10.0.0.4:2379", nothing, settled(2))
    resize = Resize(nothing, nothing, nothing, Places((), frozenset(), frozenset()), target, 0.0, print)
    assert resize.prepare() is target


def test_end_of_input_removes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    with pytest.raises(UsageError, match="nothing was removed"):
        install._agree(yes=False, keep=False)


def test_every_mount_exists_and_every_file_is_mounted() -> None:
    for options in (Options(), Options(etcd="http://10.0.0.1:2379", etcd_insecure="true")):
        document = stack(options)
        for sort in ("secrets", "configs"):
            services = document["services"].values()
            assert {one["source"] for service in services for one in service.get(sort, [])} == set(document[sort])
        assert read_label(document["services"]["controller"]["deploy"]["labels"][OPTIONS_LABEL]) == options
    assert "etcd" not in document["services"]
    assert not [name for name in document["secrets"] if "etcd" in name]


def test_no_service_has_more_than_it_needs() -> None:
    services = stack(Options())["services"]
    assert all(service["cap_drop"] == ["ALL"] and service["read_only"] for service in services.values())
    assert {name for name, service in services.items() if service.get("cap_add")} == {"agent"}
    mounted = {name: {one["source"] for one in service["secrets"]} for name, service in services.items()}
    assert mounted["agent"] == {"etcd_agent"}
    assert mounted["etcd"] == {"etcd_server"}
    assert mounted["controller"] == {"etcd_controller", "signing_seed", "link_seed"}


def test_dollar_in_a_choice_is_no_variable() -> None:
    text = Release(Options(image="$HOME"), "x", {}).text()
    assert "$$HOME" in text
    assert "services" in yaml.safe_load(template())


def test_swarm_rolls_back_where_new_tasks_fail() -> None:
    for name, service in stack(Options())["services"].items():
        update = service["deploy"]["update_config"]
        assert update["failure_action"] == "rollback", name
        assert update["order"] == ("start-first" if name == "controller" else "stop-first"), name


def test_controllers_key_outlives_its_container() -> None:
    document = stack(Options())
    controller = document["services"]["controller"]
    assert "controller:/var/lib/linkwire" in controller["volumes"]
    assert "controller" in document["volumes"]
    assert controller["environment"]["LINKWIRE_NODE_ID"] == "{{.Node.ID}}"
    assert CONTROLLER_KEY_FILE.startswith("/var/lib/linkwire/")


def test_docker_folders_are_volumes_and_no_fixed_path() -> None:
    document = stack(Options())
    sources = [
        one if isinstance(one, str) else one.get("source", "") for one in document["services"]["agent"]["volumes"]
    ]
    assert not [source for source in sources if source.startswith("/var/lib/docker")]
    devices = {f"linkwire_{name}": one["driver_opts"]["device"] for name, one in document["volumes"].items() if one}
    assert devices == {name: f"{DEFAULT_ROOT}/{below}" for name, below in BOUND.items()}
    assert f"volume-opt=device={devices['linkwire_containers']}" in node_jobs.UNWIRE.mounts[0]
