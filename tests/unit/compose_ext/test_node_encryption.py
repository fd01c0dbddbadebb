"""Node encryption on the command line: what is asked of docker, and what is said of how far it is."""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from compose_ext.cli import main
from compose_ext.commands.encryption_prepare import script
from compose_ext.commands.node_encryption import look_first, renew_keys, renewed_since, switch_to, table
from compose_ext.diagnostics import DockerError, UsageError
from compose_ext.docker_cli import Docker
from compose_ext.health.judgement import DEGRADED, judge
from compose_ext.health.node_encryption import Encryption, OverlayNetworks, overlays, problems, read, rotation
from compose_ext.install import preflight, rollout
from compose_ext.install.fitness import ENCRYPTION, MTU, PROBLEM, Finding
from compose_ext.install.options import Options, choose, read_label
from compose_ext.install.stack_template import Release
from compose_ext.observe.status import document
from compose_ext.observe.status import table as screen
from compose_ext.secrets.docker_secrets import DockerSecrets
from compose_ext.swarm.installation import NOTHING_DEPLOYED, OPTIONS_LABEL
from mesh.model.encryption.status import NOT_OWN
from tests.unit.compose_ext.test_compose_status import facts

UP = {"id1": "n1", "id2": "n2"}
UPDATE = "service update --detach --update-failure-action=continue"
STRICT = Options(node_encryption="strict")
RECORD = {"mode": "strict", "step": "enforce", "data_path_port": 4789, "generation": 7}
SENDING = RECORD | {"mode": "prefer", "step": "send"}
AT_GOAL = {"generation": 7, "step": "enforce", "peers": 1, "ready": 1, "refused": 0, "problem": ""}


NOW = 1_700_000_000.0
SINCE = int(NOW) - 3 * 86_400


def part(
    *, able: bool = True, placed: bool = True, keys: object = None, knows_all: bool = False, **state: object
) -> dict[str, Any]:
    told = {"able": able, "all": knows_all, "placed": placed, "state": AT_GOAL | state, "keys": keys}
    return {"encryption": told}


def known(
    goal: str = "strict",
    record: dict[str, Any] | None = RECORD,
    epoch: int = 0,
    all_since: int = 0,
    **agents: dict[str, Any],
) -> Encryption:
    control = {"reached": True, "encryption": record, "agents": {"id1": part(), "id2": part(), **agents}}
    control["node_keys"] = {"epoch": epoch, "since": epoch or SINCE, "all_since": all_since}
    found = read(control, UP, Options(node_encryption=goal))
    assert found is not None
    return found


def test_all_at_their_goal_is_no_problem() -> None:
    one = part()
    one["encryption"]["figures"] = {"received": 1_234_567, "sent": 5, "handshake_age": 12.4}
    found = known(id1=one)
    assert found.is_reached
    assert found.summary == "strict: 2 of 2 nodes at step enforce"
    assert list(problems(found)) == []
    assert str(table(found, (), NOW)) == (
        "NODE   STEP      PEERS   READY   HANDSHAKE   RECEIVED   SENT   REFUSED   KEY\n"
        "n1     enforce   1       1       12s ago     1.23MB     5B     0         3d\n"
        "n2     enforce   1       1       never       0B         0B     0         3d\n"
    )


def test_off_is_no_problem_and_no_row() -> None:
    idle = {"encryption": {"able": True, "placed": False, "state": None}}
    off = known("off", None, id1=idle, id2={"encryption": {"able": False, "placed": False, "state": None}})
    assert off.is_reached
    assert (off.summary, list(problems(off))) == ("off", [])
    health = judge(facts(encryption=off))
    assert health.severity == 0
    assert "encryption" not in str(screen(health, 0.0))
    assert judge(facts()).severity == 0, "an older agent does not say"
    assert read({"reached": True, "agents": {}}, UP, Options()) is None
    assert read({"reached": False, "encryption": None}, UP, Options()) is None


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (
            known(record=None, id2=part(able=False, placed=False)),
            "node n2 has no part in it: its agent states no encryption key: it is of an earlier version",
        ),
        (known(record=None), "strict was asked for, and no controller has begun it"),
        (known(id2=part(placed=False)), "the controllers have given it no place"),
        (known(id2=part(problem="rp_filter is strict")), "node encryption: node n2: rp_filter is strict"),
        (known(id2=part(generation=6)), "is being switched: strict, step enforce: waiting for n2"),
        (
            known(record=RECORD | {"step": "send"}, id1=part(step="send"), id2=part(step="send", ready=0)),
            "see that firewalls let UDP 51818 and 51819 pass between the nodes, and that no two are behind NAT",
        ),
        (known("off"), "node encryption is being switched: strict, step enforce"),
        (
            known(id1=part(ready=0)),
            "n1 (reaches 0 of 1 other nodes): overlay packets to the others do not get through: see that fire",
        ),
        (
            known("prefer", SENDING, id1=part(step="send"), id2=part(step="send", ready=0)),
            "n2 (reaches 0 of 1 other nodes): overlay packets to the others go in plain text: see that firewalls",
        ),
        (
            known("all", RECORD | {"mode": "all"}, 0, SINCE, id1=part(knows_all=True)),
            "node n2 has no part in it: its agent does not say that it knows mode all: one of an earlier version",
        ),
    ],
)
def test_everything_wrong_is_named(found: Encryption, text: str) -> None:
    (problem,) = problems(found)
    assert text in problem
    assert not found.is_reached or any(n.problem or n.why_not or not n.ready for n in found.nodes)
    health = judge(facts(encryption=found))
    assert [(each.severity, each.text) for each in health.findings] == [(DEGRADED, problem)]
    assert document(health, 0.0)["node_encryption"]["mode"] == found.mode
    assert found.summary in str(screen(health, 0.0))


EPOCH = int(NOW) - 60
BOTH, NEW = {"epochs": [0, EPOCH], "waiting": []}, {"epochs": [EPOCH], "waiting": []}
MOVING = {"epochs": [0, EPOCH], "waiting": ["id1", "gone"]}


@pytest.mark.parametrize(
    ("keys", "waits", "ages"),
    [
        ([None, None], "n1 (has not got its new key), n2 (has not got its new key)", ["first", "first"]),
        ([NEW, MOVING], "n2 (does not reach n1 by it)", ["1m", "first + new"]),
        ([NEW, BOTH], "n2 (has its older key yet)", ["1m", "first + new"]),
        ([NEW, NEW], "", ["1m", "1m"]),
    ],
)
def test_rotation_says_whom_it_waits_for(keys: list[object], waits: str, ages: list[str]) -> None:
    one, other = keys
    found = known(epoch=EPOCH, id1=part(keys=one), id2=part(keys=other))
    assert rotation(found).removeprefix("new keys of nodes are under way: waiting for ") == waits
    assert [row[-1] for row in table(found, (), NOW).rows] == ages
    assert list(problems(found)) == [], "it is no fault"


def test_rotation_names_silent_nodes_too() -> None:
    control = {
        "reached": True,
        "encryption": RECORD,
        "agents": {"id1": part(keys=BOTH)},
        "node_keys": {"epoch": EPOCH},
    }
    found = read(control, UP, STRICT)
    assert found is not None
    assert rotation(found).endswith("waiting for n2 (its agent is silent), n1 (has its older key yet)")


def test_ports_are_those_of_the_install() -> None:
    control = {"reached": True, "encryption": RECORD | {"step": "send"}}
    agent = part(step="send", ready=0)
    for chosen, named in (("40000-41000", "39998 and 39999"), ("1025-2000", "1024 and 2001")):
        found = read(
            {**control, "agents": {"id1": agent, "id2": agent}}, UP, Options(node_encryption="strict", ports=chosen)
        )
        assert found is not None
        (problem,) = problems(found)
        assert f"let UDP {named} pass" in problem


def test_rotation_is_asked_for_once(tmp_path: Path) -> None:
    labels = {OPTIONS_LABEL: Options(node_encryption="strict").label()}
    service = {"ID": "c", "Spec": {"Name": "linkwire_controller", "Labels": labels}}
    swarm = {"Swarm": {"LocalNodeState": "active", "ControlAvailable": True, "NodeID": "n", "Cluster": {"ID": "c"}}}
    asked = {"info": swarm, "service ls": "c", "service inspect": [service], "service update": ""}
    said: list[str] = []
    since = renew_keys(docker(tmp_path, asked), said.append)
    (update,) = [line for line in (tmp_path / "asked").read_text().splitlines() if line.startswith("service update")]
    assert update == f"{UPDATE} --env-add LINKWIRE_NODE_KEYS_SINCE={since} linkwire_controller"
    assert said == ["requested new keys of all nodes"]
    labels[OPTIONS_LABEL] = Options().label()
    with pytest.raises(DockerError, match="node encryption is off"):
        renew_keys(docker(tmp_path, asked), said.append)


def test_install_keeps_an_asked_rotation(tmp_path: Path) -> None:
    """Else the controllers, which are replaced, might never hear of it."""
    task = {"ContainerSpec": {"Env": ["A=1", "LINKWIRE_NODE_KEYS_SINCE=1700000000"]}}
    service = {"ID": "c", "Spec": {"Name": "linkwire_controller", "TaskTemplate": task}}
    asked = {"service ls": "c", "service inspect": [service], "secret ls": "", "config ls": "", "node ls": ""}
    program = docker(tmp_path, asked)
    script = Path(program.program)
    deploys = f'case "$*" in "stack deploy"*) echo $LINKWIRE_NODE_KEYS_SINCE > {tmp_path}/since; exit 0 ;; esac\n'
    script.write_text(script.read_text().replace("case", deploys + "case", 1))
    secrets = DockerSecrets(program, NOTHING_DEPLOYED)
    rollout.deploy(program, Release(Options(), "https://10.0.0.1:2379", {}), secrets)
    assert (tmp_path / "since").read_text() == "1700000000\n"
    document = json.loads(Release(Options(), "https://10.0.0.1:2379", {}).text())
    setting = document["services"]["controller"]["environment"]["LINKWIRE_NODE_KEYS_SINCE"]
    assert setting == "${LINKWIRE_NODE_KEYS_SINCE}"
    task["ContainerSpec"]["Env"] = []
    program = docker(tmp_path, asked | {"service inspect": [service]})
    script.write_text(script.read_text().replace("case", deploys + "case", 1))
    rollout.deploy(program, Release(Options(), "https://10.0.0.1:2379", {}), secrets)
    assert (tmp_path / "since").read_text() == "0\n"


def test_keys_of_the_future_are_renewed_too() -> None:
    assert renewed_since(100, 0) == renewed_since(100, 99) == 100
    assert renewed_since(100, 100) == 100, "asked for twice in one second"
    assert renewed_since(100, 4_000) == 4_001


def test_rotation_names_nodes_or_link_keys(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["web:db"], ["--all"]):
        assert main(["rotate", "--nodes", *words]) == 2
        assert "name link keys, or give --all, or --nodes" in capsys.readouterr().err


def test_age_of_node_keys_is_chosen() -> None:
    assert choose({"node_key_rotation": "30d"}, None).node_key_rotation == "30d"
    with pytest.raises(UsageError, match="--node-key-rotation 'often': not a duration"):
        choose({"node_key_rotation": "often"}, None)
    with pytest.raises(UsageError, match="too often"):
        choose({"node_key_rotation": "9m"}, None)


def test_two_nodes_behind_nat_are_named() -> None:
    one, other = (part(generation=0, problem=f"192.0.2.{n}, where others reach it, {NOT_OWN}") for n in (1, 2))
    texts = list(problems(known(id1=one, id2=other)))
    assert any("n1, n2 are behind NAT, and two such nodes reach each other by no device" in text for text in texts)
    assert not any("NAT" in text for text in problems(known(id1=one)))


def test_silent_agent_has_no_part() -> None:
    found = read({"reached": True, "encryption": RECORD, "agents": {"id1": part()}}, UP, STRICT)
    assert found is not None
    (problem,) = (text for text in problems(found) if "n2" in text)
    assert problem.endswith("its agent is silent; overlay packets to and from it are refused")


def docker(folder: Path, answers: Mapping[str, object]) -> Docker:
    """A docker program that answers some questions, and notes all of them."""
    cases = []
    for number, (question, answer) in enumerate(answers.items()):
        (folder / str(number)).write_text(answer if isinstance(answer, str) else json.dumps(answer))
        cases.append(f'  "{question}"*) cat {folder}/{number} ;;')
    program = folder / "docker"
    script = ["#!/bin/sh", f'echo "$*" >> {folder}/asked', 'case "$*" in', *cases, "  *) exit 1 ;;", "esac", ""]
    program.write_text("\n".join(script))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return Docker(str(program))


def test_switching_updates_controllers_and_keeps_options(tmp_path: Path) -> None:
    before = Options(image="registry/linkwire:1", controllers="3")
    labels = {OPTIONS_LABEL: before.label()}
    service = {"ID": "c", "Spec": {"Name": "linkwire_controller", "Labels": labels}}
    swarm = {"Swarm": {"LocalNodeState": "active", "ControlAvailable": True, "NodeID": "n", "Cluster": {"ID": "c"}}}
    asked = {"info": swarm, "service ls": "c", "service inspect": [service], "service update": ""}
    said: list[str] = []
    switch_to(docker(tmp_path, asked), "strict", said.append)
    (update,) = [line for line in (tmp_path / "asked").read_text().splitlines() if line.startswith("service update")]
    words = update.partition(f"{OPTIONS_LABEL}=")
    assert words[0] == f"{UPDATE} --env-add LINKWIRE_NODE_ENCRYPTION=strict --label-add "
    label = words[2].removesuffix(" linkwire_controller")
    assert read_label(label) == Options(image="registry/linkwire:1", controllers="3", node_encryption="strict")
    assert choose({}, label).node_encryption == "strict", "a later install keeps it"
    assert said == ["node encryption: strict is asked for"]


@pytest.mark.parametrize("force", [False, True])
def test_nothing_is_switched_on_unfit_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool) -> None:
    labels = {OPTIONS_LABEL: Options().label()}
    task = {"ContainerSpec": {"Image": "linkwire:1"}}
    services = [
        {"ID": role, "Spec": {"Name": f"linkwire_{role}", "Labels": labels, "TaskTemplate": task}}
        for role in ("controller", "agent")
    ]
    swarm = {"Swarm": {"LocalNodeState": "active", "ControlAvailable": True, "NodeID": "n", "Cluster": {"ID": "c"}}}
    networks = [{"Name": "ipsec", "Options": {"encrypted": "", "com.docker.network.driver.mtu": "1300"}}]
    asked = {"info": swarm, "service ls": "c", "service inspect": services, "network ls": "a"}
    looked: list[Options] = []

    def look(*given: Any, **_more: object) -> tuple[list[object], tuple[Finding, ...]]:  # noqa: ANN401
        looked.append(given[3])
        return [], (Finding("n1", ENCRYPTION, PROBLEM, "UDP 51819 is taken"), Finding("n1", MTU, PROBLEM, "narrow"))

    monkeypatch.setattr(preflight, "look", look)
    said: list[str] = []
    program = docker(tmp_path, {**asked, "network inspect": networks})
    if force:
        look_first(program, "strict", said.append, force=True)
        assert said[-1] == "in spite of: n1: node encryption: UDP 51819 is taken"
    else:
        with pytest.raises(DockerError, match=r"nothing was switched:\n  n1: node encryption: UDP 51819 is taken\n"):
            look_first(program, "strict", said.append, force=False)
    assert said[0].startswith("warning: networks ipsec are encrypted by Docker too")
    assert [(one.image, one.node_encryption) for one in looked] == [("linkwire:1", "strict")]


@pytest.mark.parametrize(
    ("mode", "image", "refused"), [("all", "1", True), ("strict", "1", False), ("all", "2", False)]
)
def test_mode_all_is_refused_beside_older_agents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, image: str, refused: bool
) -> None:
    """As after an upgrade that was broken off: the image that the nodes were looked at by is not what runs there."""
    monkeypatch.setattr(preflight, "look", lambda *_given, **_more: ([], ()))
    labels, task = {OPTIONS_LABEL: Options().label()}, {"ContainerSpec": {"Image": "linkwire:2"}}
    services = [
        {"ID": role, "Spec": {"Name": f"linkwire_{role}", "Labels": labels, "TaskTemplate": task}}
        for role in ("controller", "agent")
    ]
    swarm = {"Swarm": {"LocalNodeState": "active", "ControlAvailable": True, "NodeID": "n", "Cluster": {"ID": "c"}}}
    running = {"NodeID": "n2", "Spec": {"ContainerSpec": {"Image": f"linkwire:{image}"}}}
    asked = {"info": swarm, "service ls": "c", "service inspect": services, "network ls": ""}
    asked |= {"service ps": "t", "inspect --type task": [running]}
    asked |= {"node ls": "n2", "node inspect": [{"ID": "n2", "Description": {"Hostname": "two"}}]}
    program, said = docker(tmp_path, asked), list[str]()
    if refused:
        with pytest.raises(DockerError, match="two: its agent was not replaced when others were"):
            look_first(program, mode, said.append, force=False)
        look_first(program, mode, said.append, force=True)
        assert said[-1].startswith("in spite of: two: its agent was not replaced")
    else:
        look_first(program, mode, said.append, force=False)


@pytest.mark.parametrize(
    ("words", "mode"),
    [
        ([], "off"),
        (["--node-encryption"], "prefer"),
        (["--node-encryption=strict"], "strict"),
        (["--node-encryption=off"], "off"),
    ],
)
def test_install_takes_mode_or_none(words: list[str], mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[Options] = []
    monkeypatch.setattr("compose_ext.health.node_encryption.overlays", lambda _docker: OverlayNetworks())

    def install(_docker: Docker, given: dict[str, str], **_more: object) -> None:
        chosen.append(choose(given, None))

    monkeypatch.setattr("compose_ext.install.install.install", install)
    assert main(["install", *words]) == 0
    assert chosen == [Options(node_encryption=mode)]


def test_install_refuses_another_mode(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="'often' is none of off, prefer, strict"):
        choose({"node_encryption": "often"}, None)
    assert main(["install", "--node-encryption", "strict"]) == 2
    assert "wrong number of arguments" in capsys.readouterr().err


@pytest.mark.parametrize(("told", "port"), [(0, 4789), (7789, 7789)])
def test_script_for_a_machine_has_the_swarms_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], told: int, port: int
) -> None:
    cluster = {"ID": "c", "DataPathPort": told}
    swarm = {"Swarm": {"LocalNodeState": "active", "ControlAvailable": True, "NodeID": "n", "Cluster": cluster}}
    docker(tmp_path, {"info": swarm})
    monkeypatch.setenv("LINKWIRE_DOCKER", str(tmp_path / "docker"))
    assert main(["linkwire", "node", "encryption", "prepare"]) == 0
    assert capsys.readouterr().out == script(port)
    assert f"udp dport {port} counter" in script(port)


def test_networks_are_told_by_what_it_costs(tmp_path: Path) -> None:
    mtu = "com.docker.network.driver.mtu"
    networks = [
        {"Name": "shop_default", "Options": {"com.docker.network.driver.overlay.vxlanid_list": "4097"}},
        {"Name": "small", "Options": {mtu: "1370"}},
        {"Name": "jumbo", "Options": {mtu: "8900"}},
        {"Name": "ipsec", "Options": {"encrypted": "", mtu: "1300"}},
    ]
    found = overlays(docker(tmp_path, {"network ls": "a\nb\nc\nd", "network inspect": networks}))
    assert found == OverlayNetworks(("ipsec",), (("jumbo", 8900), ("shop_default", 1450)))
    assert next(found.problems()).startswith("networks ipsec are encrypted by Docker too (option `encrypted`)")
    assert next(found.costs()).startswith("the MTU of networks jumbo (8900), shop_default (1450) is above 1386")
    assert not [*OverlayNetworks().problems(), *OverlayNetworks().costs()]
