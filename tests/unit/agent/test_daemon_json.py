"""What the gate merges into dockerd's configuration file, and what is left when it is taken out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.node_gate import daemon_json, daemon_process, engine
from agent.node_gate.errors import GateError

FILE = "/etc/docker/daemon.json"
SCRIPT = "/usr/local/bin/linkwire-runc"
NVIDIA = {"path": "nvidia-container-runtime", "runtimeArgs": ["--debug"]}
_VALUES = st.recursive(st.booleans() | st.integers() | st.text(), lambda one: st.lists(one, max_size=3), max_leaves=4)
_CONFIGS = st.fixed_dictionaries(
    {},
    optional={
        "debug": st.booleans(),
        "hosts": st.lists(st.text()),
        "größe": _VALUES,
        "runtimes": st.dictionaries(st.sampled_from(["nvidia", "crun"]), st.just(NVIDIA)),
    },
)


def put_in(config: dict[str, Any]) -> dict[str, Any]:
    return daemon_json.with_gate(config, SCRIPT, daemon_json.wrapped(config, FILE))


def test_other_keys_and_their_order_stay() -> None:
    text = '{\n    "log-driver": "local",\n    "runtimes": {"nvidia": {"path": "n"}},\n    "dns": ["10.0.0.1"]\n}\n'
    merged = daemon_json.dump(put_in(daemon_json.parse(text, FILE)), text)
    assert list(json.loads(merged)) == ["log-driver", "runtimes", "dns", "default-runtime"]
    assert json.loads(merged)["runtimes"] == {"nvidia": {"path": "n"}, "linkwire": {"path": SCRIPT}}
    assert merged.splitlines()[1] == '    "log-driver": "local",'


def test_a_default_runtime_is_wrapped_with_its_arguments() -> None:
    config = {"default-runtime": "nvidia", "runtimes": {"nvidia": NVIDIA}}
    behind = daemon_json.wrapped(config, FILE)
    assert behind == daemon_json.Wrapped("nvidia", "nvidia-container-runtime", ("--debug",))
    merged = daemon_json.with_gate(config, SCRIPT, behind)
    assert merged["runtimes"]["linkwire"] == {"path": SCRIPT, "runtimeArgs": ["--debug"]}
    assert daemon_json.with_gate(merged, SCRIPT, daemon_json.wrapped(merged, FILE)) == merged


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{,", "does not parse: Expecting property name"),
        ("[]", "is not a JSON object"),
        ('{"runtimes": []}', "'runtimes' is not a JSON object"),
        ('{"default-runtime": 1}', "'default-runtime' is not a string"),
        ("[" * 100_000, "does not parse"),
    ],
)
def test_file_dockerd_would_reject_is_refused(text: str, said: str) -> None:
    with pytest.raises(GateError, match=f"{FILE}.*{said}"):
        daemon_json.parse(text, FILE)


@pytest.mark.parametrize("entry", [{"runtimeType": "io.containerd.kata.v2"}, None])
def test_default_runtime_without_program_is_refused(entry: object) -> None:
    config = {"default-runtime": "kata", "runtimes": {"kata": entry} if entry else {}}
    with pytest.raises(GateError, match="'kata' is a shim of containerd's"):
        daemon_json.wrapped(config, FILE)


@pytest.mark.parametrize("flag", ["--default-runtime=nvidia", "--add-runtime"])
def test_runtimes_on_the_command_line_are_refused(flag: str) -> None:
    with pytest.raises(GateError, match=f"started with {flag.partition('=')[0]}"):
        daemon_json.refuse_flags(("dockerd", flag, "x"), FILE)
    daemon_json.refuse_flags(("dockerd", "--config-file", "/x"), FILE)


@given(_CONFIGS, st.booleans())
def test_install_and_remove_restore_the_file(config: dict[str, Any], named: bool) -> None:
    if named and "nvidia" in config.get("runtimes", {}):
        config = {**config, "default-runtime": "nvidia"}
    merged = put_in(config)
    assert daemon_json.has_gate(merged)
    aside = daemon_json.without_default(merged, daemon_json.default_of(config))
    # dockerd keeps a default that its file does not name: the old one must stand there, even if it is its own.
    assert aside["default-runtime"] == config.get("default-runtime", "runc")
    forgotten = daemon_json.without_runtime(aside)
    assert not daemon_json.has_gate(forgotten)
    assert "runtimes" in forgotten
    assert daemon_json.restored(forgotten, config) == config


def test_what_others_changed_meanwhile_stays() -> None:
    merged = {**put_in({"debug": True}), "debug": False, "experimental": True, "default-runtime": "nvidia"}
    aside = daemon_json.without_runtime(daemon_json.without_default(merged, "runc"))
    assert daemon_json.restored(aside, {"debug": True}) == {
        "debug": False,
        "default-runtime": "nvidia",
        "experimental": True,
    }


@pytest.mark.parametrize(
    ("command", "file"),
    [
        (("dockerd",), "/etc/docker/daemon.json"),
        (("dockerd", "--config-file", "/a/b.json", "-H", "fd://"), "/a/b.json"),
        (("dockerd", "--config-file=b.json"), "/srv/b.json"),
    ],
)
def test_the_file_that_a_command_line_names(command: tuple[str, ...], file: str) -> None:
    assert daemon_process.config_file(command, "/srv") == file


def test_variables_are_set_beside_what_is_there() -> None:
    before = "# by hand\nLINKWIRE_RUNC=runc\nOTHER=1\n"
    assert daemon_json.set_variables(before, {"LINKWIRE_RUNC": None, "LINKWIRE_GATE": "off"}) == (
        "# by hand\nOTHER=1\nLINKWIRE_GATE=off\n"
    )


@pytest.mark.parametrize(
    ("options", "rootless"),
    [
        (["name=seccomp,profile=default", "name=rootless", "name=cgroupns"], True),
        (["name=apparmor"], False),
        (None, False),
    ],
)
def test_a_docker_without_root_is_known(options: list[str] | None, rootless: bool) -> None:
    assert engine.is_rootless({"SecurityOptions": options}) is rootless
