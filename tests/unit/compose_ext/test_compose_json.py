"""The documents of `--format json`, whose shape docs/compose.md promises; and the colours of a terminal."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compose_ext.cli import main

PLUGIN = Path(sys.executable).parent / "docker-linkwire"
DOCUMENTS = Path(__file__).resolve().parents[3] / "docs/compose.md"

LINK: dict[str, Any] = {
    "consumer": "shop_web",
    "provider": "shop_db",
    "aliases": ["db"],
    "pairs": [
        {
            "consumer_task": "shop_web.1.k3v9x1a7b2c4",
            "consumer_node": "n1",
            "provider_task": "shop_db.1.zq8w7e6r5t4y",
            "provider_node": "n2",
            "state": "connected",
            "handshake_age": 12.5,
            "rx": 123,
            "tx": 4560,
            "error": None,
        }
    ],
    "refused": {end: {"in": 0, "out": 0} for end in ("consumer", "provider")},
    "key": "shop_web:shop_db",
    "epoch": 1800000000,
}
NODE = {"id": "a1", "hostname": "n1", "fingerprint": "a" * 64, "unproven": None, "accepted": True}
ANSWER = {"version": 1, "links": [LINK], "nodes": [NODE], "problems": ["a problem"]}
INSPECTED = {
    "ID": "a1",
    "Description": {"Hostname": "n1"},
    "Spec": {"Labels": {"linkwire.gate": "true", "linkwire.made": "x1,x2"}, "Availability": "active"},
    "Status": {"State": "ready"},
}
AGENT = {
    "ID": "s1",
    "Spec": {
        "Name": "linkwire_agent",
        "TaskTemplate": {"ContainerSpec": {"Image": "i", "Secrets": [{"SecretName": "linkwire_etcd_server_1"}]}},
    },
}
TASK = {
    "ID": "t1",
    "NodeID": "a1",
    "ServiceID": "s1",
    "Status": {"State": "running", "ContainerStatus": {"ContainerID": "0123" * 16}},
}
SECRETS = [
    {
        "ID": "x1",
        "Spec": {
            "Name": "linkwire_signing_seed_1",
            "Labels": {"org.linkwire.owner": "", "org.linkwire.verify-key": "KEY"},
        },
    },
    {
        "ID": "x2",
        "Spec": {
            "Name": "linkwire_etcd_server_1",
            "Labels": {"org.linkwire.owner": "", "org.linkwire.expires": "2020-01-02T00:00:00+00:00"},
        },
    },
]
INFO = {"Swarm": {"LocalNodeState": "active", "ControlAvailable": True, "NodeID": "a1", "Cluster": {"ID": "c"}}}
SAID = {"gate": "in", "said": ["default runtime linkwire"]}
DOCKER = """\
#!/bin/sh
case "$*" in
  "exec 0123"*) echo '{answer}' ;;
  "info"*) echo '{info}' ;;
  "node ls --quiet"*) echo a1 ;;
  "node ls --format"*) echo 'a1 Ready Active "n1"' ;;
  "node inspect"*) echo '[{inspected}]' ;;
  "service ls"*) echo s1 ;;
  "service inspect"*) echo '[{agent}]' ;;
  *"linkwire_gate"*) case "$*" in *" ps "*) echo gate ;; esac ;;
  "service ps"*) echo t1 ;;
  "inspect --type task gate") echo '[{ended}]' ;;
  "inspect --type task"*) echo '[{task}]' ;;
  "service logs"*) echo '{said}' ;;
  "secret ls"*) printf 'linkwire_signing_seed_1\\nlinkwire_etcd_server_1\\n' ;;
  "secret inspect"*) echo '{secrets}' ;;
  "config ls"*) ;;
  *) echo "unexpected: $*" >&2; exit 1 ;;
esac
"""


@pytest.fixture
def swarm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A docker program of a Swarm with one node, one link, and a certificate that has expired."""
    said = {
        "answer": ANSWER,
        "info": INFO,
        "inspected": INSPECTED,
        "agent": AGENT,
        "task": TASK,
        "ended": TASK | {"ID": "gate", "Status": {"State": "complete"}},
        "said": SAID,
        "secrets": SECRETS,
    }
    program = tmp_path / "docker"
    text = DOCKER
    for name, document in said.items():
        text = text.replace("{" + name + "}", json.dumps(document))
    program.write_text(text)
    program.chmod(0o755)
    monkeypatch.setenv("LINKWIRE_DOCKER", str(program))
    monkeypatch.delenv("COMPOSE_FILE", raising=False)


def shape(value: object) -> object:
    """A document with the names of types in the place of its values."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner) for inner in value[:1]]
    return {bool: "bool", int: "int", float: "float", str: "str", type(None): "null"}[type(value)]


PROBLEM = {"file": "null", "line": "null", "column": "null", "service": "null", "key": "null", "message": "str"}
WAYS = {"in": "int", "out": "int"}
PAIR = {
    "consumer_task": "str",
    "consumer_node": "str",
    "provider_task": "str",
    "provider_node": "str",
    "state": "str",
    "handshake_age": "float",
    "rx": "int",
    "tx": "int",
    "error": "null",
}
SHAPES: dict[str, tuple[int, dict[str, Any]]] = {
    "version": (0, {"version": "str", "commit": "str", "sha256": "str"}),
    "check": (1, {"ok": "bool", "summary": "str", "errors": [PROBLEM], "warnings": []}),
    "node ls": (
        0,
        {
            "nodes": [
                {
                    "id": "str",
                    "hostname": "str",
                    "keys": "str",
                    "fingerprint": "str",
                    "problem": "null",
                    "revoked": "null",
                    "encryption": "null",
                    "tunnel": "null",
                }
            ]
        },
    ),
    "gate status": (
        0,
        {
            "ok": "bool",
            "nodes": [
                {
                    "id": "str",
                    "hostname": "str",
                    "labelled": "bool",
                    "gate": "str",
                    "notes": ["str"],
                    "problem": "null",
                }
            ],
        },
    ),
    "renew --check": (
        1,
        {
            "ok": "bool",
            "stored": [
                {
                    "name": "str",
                    "sort": "str",
                    "in_use": "bool",
                    "verify_key": "null",
                    "expires": "str",
                    "days": "int",
                    "remedy": "str",
                }
            ],
            "problems": [],
        },
    ),
    "graph": (
        0,
        {
            "services": ["str"],
            "links": [
                {
                    "consumer": "str",
                    "provider": "str",
                    "aliases": ["str"],
                    "ports": "str",
                    "state": "str",
                    "pairs": {"connected": "int"},
                    "refused": "int",
                }
            ],
        },
    ),
    "top --no-stream --interval 1": (
        0,
        {
            "time": "str",
            "links": [
                {
                    "consumer": "str",
                    "provider": "str",
                    "state": "str",
                    "pairs": "int",
                    "received": "null",
                    "sent": "null",
                    "refused": "float",
                    "as_of": "null",
                }
            ],
            "problems": ["str"],
        },
    ),
    "ps": (
        0,
        {
            "version": "int",
            "links": [
                {
                    "consumer": "str",
                    "provider": "str",
                    "aliases": ["str"],
                    "pairs": [PAIR],
                    "refused": {"consumer": WAYS, "provider": WAYS},
                    "key": "str",
                    "epoch": "int",
                }
            ],
            "nodes": [{"id": "str", "hostname": "str", "fingerprint": "str", "unproven": "null", "accepted": "bool"}],
            "problems": ["str"],
        },
    ),
}


@pytest.mark.usefixtures("swarm")
@pytest.mark.parametrize("command", SHAPES)
def test_each_document_has_its_shape(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, wanted = SHAPES[command]
    assert main([*command.split(), "--format", "json"]) == code
    captured = capsys.readouterr()
    assert captured.err == ("docker linkwire: 1 problems: see docker linkwire ps\n" if command == "graph" else "")
    assert shape(json.loads(captured.out)) == wanted


@pytest.mark.parametrize("command", SHAPES)
def test_each_field_is_documented(command: str) -> None:
    section = DOCUMENTS.read_text().partition("## JSON\n")[2].partition("\n## ")[0]

    def names(value: object) -> set[str]:
        if isinstance(value, dict):
            return set(value).union(*map(names, value.values()))
        return set().union(*map(names, value)) if isinstance(value, list) else set()

    assert f"| `{command.partition(' --no-stream')[0]}` |" in section
    assert [name for name in sorted(names(SHAPES[command][1])) if f"`{name}`" not in section] == []


@pytest.mark.usefixtures("swarm")
@pytest.mark.parametrize("other", ["--signing-key", "--drop-old"])
def test_link_seed_is_renewed_alone(other: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["renew", "--link-seed", other]) == 2
    assert "--link-seed goes with no other flag" in capsys.readouterr().err


def test_json_does_not_renew_certificates(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["renew", "--format", "json"]) == 2
    assert "--format json goes with --check" in capsys.readouterr().err


def on_a_terminal(*words: str, **more: str) -> str:
    """Run the plugin with a terminal of 200 columns as its output."""
    master, slave = pty.openpty()
    environment = os.environ | {"COLUMNS": "200", "TERM": "xterm-256color"} | more
    with subprocess.Popen([PLUGIN, "linkwire", *words], stdout=slave, stderr=slave, env=environment) as process:
        os.close(slave)
        shown = b""
        while True:
            try:
                part = os.read(master, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            shown += part
        process.wait(timeout=60)
    os.close(master)
    return shown.decode()


@pytest.mark.usefixtures("swarm")
def test_a_terminal_has_colour_unless_refused() -> None:
    coloured = on_a_terminal("ps")
    assert "\x1b[32mconnected" in coloured
    plain = on_a_terminal("ps", NO_COLOR="1")
    assert "connected" in plain
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", plain)
    assert "\x1b[31mdocker linkwire: there is no command 'sp'" in on_a_terminal("sp")


@pytest.mark.usefixtures("swarm")
def test_a_pipe_has_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["node", "ls"]) == 0
    fingerprint = "a" * 64
    assert capsys.readouterr().out == (
        f"ID   HOSTNAME   KEYS     ENCRYPTION   FINGERPRINT\na1   n1         proven   -            {fingerprint}\n"
    )
