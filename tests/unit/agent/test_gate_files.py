"""The gate's files on a node: put in, stepped aside, taken out; and nothing half-done when one of the steps fails."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from agent.node_gate import files
from agent.node_gate.errors import GateError

SCRIPT = '#!/bin/sh\n[ ! -r "$GATE" ] || . "$GATE"\necho "${LINKWIRE_RUNC:-runc} $*"\n'
TEXT = '{\n  "debug": true\n}\n'


class Place:
    """A node's files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.other = folder / "bin", folder / "opt"
        self.config = folder / "etc/docker/daemon.json"
        self.settings = folder / "etc/linkwire/gate"
        self.config.parent.mkdir(parents=True)
        self.script = self.bin / "linkwire-runc"

    def put_in(self, script: str = SCRIPT, **waits: int) -> dict[str, Any]:
        return files.place(str(self.config), ("dockerd",), os.environ["PATH"], script, waits)

    def take_out(self) -> dict[str, Any]:
        files.step_aside(str(self.config))
        files.forget_runtime(str(self.config))
        return files.clear(str(self.config), str(self.script))

    def all(self) -> dict[str, bytes]:
        found = (path for folder in (self.bin, self.other, self.config.parent.parent) for path in folder.rglob("*"))
        return {str(path): path.read_bytes() for path in found if path.is_file()}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    made = Place(tmp_path)
    monkeypatch.setattr(files, "FOLDERS", (str(made.bin), str(made.other)))
    monkeypatch.setattr(files, "SETTINGS", made.settings)
    return made


@pytest.mark.parametrize("text", [TEXT, '{"debug": true}', "\n", None])
def test_install_and_remove_restore_the_node(place: Place, text: str | None) -> None:
    if text is not None:
        place.config.write_text(text)
        place.config.chmod(0o600)
    before = place.all()
    answer = place.put_in(LINKWIRE_READY_SECONDS=7)
    assert (answer["script"], answer["changed"]) == (str(place.script), True)
    assert json.loads(place.config.read_text())["default-runtime"] == "linkwire"
    assert place.settings.read_text() == "LINKWIRE_READY_SECONDS=7\n"
    if text is not None:
        assert place.config.stat().st_mode & 0o777 == 0o600
        kept = place.config.with_name("daemon.json.before-linkwire")
        assert kept.read_text() == text
        assert kept.stat().st_mode & 0o777 == 0o600, "it may hold what not everybody is to read"
    again = place.put_in()
    assert (again["undo"], again["changed"]) == ([], False)
    assert place.take_out() == {"restored": True}
    assert place.all() == before


def test_wrapped_runtime_is_recorded_and_restored(place: Place) -> None:
    place.config.write_text('{"default-runtime": "n v", "runtimes": {"n v": {"path": "/opt/n v"}}}')
    before = place.all()
    assert place.put_in()["behind"] == "n v"
    assert place.settings.read_text() == "LINKWIRE_RUNC='/opt/n v'\n"
    aside = files.step_aside(str(place.config))
    assert (aside["there"], aside["default"]) == (True, "n v")
    assert "LINKWIRE_GATE=off" in place.settings.read_text()
    place.take_out()
    assert place.all() == before


def test_reinstall_while_leaving_and_removal_restore_all(place: Place) -> None:
    place.config.write_text(TEXT)
    before = place.all()
    place.put_in()
    files.step_aside(str(place.config))
    place.put_in()
    assert json.loads(place.config.read_text())["default-runtime"] == "linkwire"
    place.take_out()
    assert place.all() == before


def test_hand_made_installation_is_taken_over(place: Place) -> None:
    by_hand = {"debug": True, "runtimes": {"linkwire": {"path": "/opt/x"}}, "default-runtime": "linkwire"}
    place.config.write_text(json.dumps(by_hand))
    place.put_in()
    assert json.loads(place.config.read_text())["runtimes"] == {"linkwire": {"path": str(place.script)}}
    place.take_out()
    assert json.loads(place.config.read_text()) == {"debug": True}


def test_what_others_changed_while_it_was_in_stays(place: Place) -> None:
    place.config.write_text(TEXT)
    place.put_in()
    place.config.write_text(json.dumps(json.loads(place.config.read_text()) | {"log-level": "warn"}))
    assert place.take_out() == {"restored": False}
    assert json.loads(place.config.read_text()) == {"debug": True, "log-level": "warn"}


@pytest.mark.parametrize("script", ["#!/bin/sh\necho broken >&2\nexit 3\n", "#!/no/such/program\n"])
def test_script_failing_on_node_is_taken_back(place: Place, script: str) -> None:
    place.config.write_text(TEXT)
    before = place.all()
    with pytest.raises(GateError, match="does not run on this node"):
        place.put_in(script, LINKWIRE_GATE_SECONDS=3)
    assert place.all() == before


def test_unparsable_file_is_left_alone(place: Place) -> None:
    place.config.write_text("{,")
    before = place.all()
    with pytest.raises(GateError, match="does not parse"):
        place.put_in()
    with pytest.raises(GateError, match="does not parse"):
        place.take_out()
    assert place.all() == before


def test_what_dockerd_does_not_take_over_is_undone(place: Place) -> None:
    place.config.write_text(TEXT)
    before = place.all()
    files.restore(place.put_in(LINKWIRE_GATE_SECONDS=3)["undo"])
    assert place.all() == before


def test_interrupted_step_is_continued(place: Place) -> None:
    place.config.write_text(TEXT)
    before = place.all()
    place.put_in()
    files.step_aside(str(place.config))
    files.forget_runtime(str(place.config))
    assert files.step_aside(str(place.config))["there"]
    assert files.clear(str(place.config), None) == {"restored": True}
    assert place.all() == before


def test_a_symbolic_link_stays_one(place: Place) -> None:
    real = place.config.with_name("real.json")
    real.write_text(TEXT)
    place.config.symlink_to(real)
    place.put_in()
    assert place.config.is_symlink()
    assert json.loads(real.read_text())["default-runtime"] == "linkwire"
    place.take_out()
    assert (place.config.is_symlink(), real.read_text()) == (True, TEXT)


def test_second_folder_is_used_when_first_is_unwritable(place: Place) -> None:
    place.bin.write_text("no folder")
    assert place.put_in()["script"] == str(place.other / "linkwire-runc")


def test_a_mounted_file_is_written_in_place(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.config.write_text(TEXT)
    number = place.config.stat().st_ino
    plain = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if target == place.config:
            raise OSError(errno.EBUSY, "Device or resource busy")
        return plain(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    place.put_in()
    assert json.loads(place.config.read_text())["default-runtime"] == "linkwire"
    assert place.config.stat().st_ino == number


@pytest.mark.parametrize(
    ("runtime", "running", "labels", "users"),
    [
        ("linkwire", True, {"com.docker.swarm.task.id": "t"}, ["one"]),
        ("linkwire", False, {"com.docker.swarm.task.id": "t"}, []),
        ("linkwire", True, {"com.docker.swarm.task.id": "t", "com.docker.swarm.service.name": "web"}, ["one"]),
        ("linkwire", True, {"com.docker.swarm.service.name": "web"}, ["one"]),
        ("linkwire", False, {}, ["one"]),
        ("runc", True, {}, []),
    ],
)
def test_the_containers_that_need_the_script(  # noqa: PLR0917 - pytest names them
    place: Place, tmp_path: Path, runtime: str, running: bool, labels: dict[str, str], users: list[str]
) -> None:
    folder = tmp_path / "data/containers/abc"
    folder.mkdir(parents=True)
    (folder / "hostconfig.json").write_text(json.dumps({"Runtime": runtime}))
    config = {"Name": "/one", "State": {"Running": running}, "Config": {"Labels": labels}}
    (folder / "config.v2.json").write_text(json.dumps(config))
    place.put_in()
    seen = files.look(str(place.config), str(tmp_path / "data"), SCRIPT)
    assert (seen["users"], seen["own"], seen["same"], seen["named"]) == (users, [], True, True)
    service = labels.get("com.docker.swarm.service.name") if "com.docker.swarm.task.id" in labels else None
    assert seen["services"] == ([service] if service else [])
    assert seen["containers"] == ([] if service else users)
