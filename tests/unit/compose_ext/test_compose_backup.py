"""`docker linkwire backup` and `restore` with a docker that plays: files, refusals, and what a container is given."""

from __future__ import annotations

import base64
import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mesh.crypto.hpke import NodeKey
from mesh.crypto.sealed_stream import opened, sealed
from mesh.model.backup import key_files
from mesh.model.backup.contents import PURPOSE, decoded, encoded
from tests.support.backup_files import BACKUP, KEY

CONTAINER = "c0ffee" + 58 * "0"
DOCKER = f"""#!/bin/sh
echo "$*" >>"$FOLDER/asked"
case "$*" in
"info"*) echo '{{"Swarm": {{"LocalNodeState": "active", "ControlAvailable": true, "NodeID": "m"}}}}' ;;
"service ls --quiet"*) cat "$FOLDER/listed" ;;
"service inspect"*) cat "$FOLDER/services" ;;
"service ps"*) echo t1 ;;
"inspect --type task"*) cat "$FOLDER/tasks" ;;
"service create"*) echo made ;;
"service rm linkwire_restore") ;;
"exec {CONTAINER} linkwire-ask backup"*) cat "$FOLDER/answer" ;;
"exec -i {CONTAINER} linkwire-controller restore")
  cat >"$FOLDER/given"; cat "$FOLDER/outcome"; exit $(cat "$FOLDER/code") ;;
*) echo "docker: unexpected: $*" >&2; exit 1 ;;
esac
"""
SERVICE = {
    "ID": "s1",
    "Spec": {
        "Name": "linkwire_controller",
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": "image:1",
                "Env": ["LINKWIRE_ETCD=https://10.0.0.1:2379"],
                "Secrets": [{"SecretName": "linkwire_signing_seed_1", "File": {"Name": "seed", "Mode": 0o400}}],
            }
        },
    },
}
OUTCOME: dict[str, Any] = {
    "problems": [],
    "written": True,
    "generation": 9,
    "whole": False,
    "restored": {"addresses that rest": 2, "pages of the audit log": 40},
    "lost": [],
    "kept": ["etcd holds generation 9 of the signed set"],
}


def documents(key: NodeKey = KEY) -> list[dict[str, Any]]:
    parts = [{"part": base64.b64encode(part).decode()} for part in sealed(encoded(BACKUP), key.public, PURPOSE)]
    return [*parts, {"backup": BACKUP.described(), "left_out": []}]


class Played:
    """A docker program that answers as a test says, in a folder with the keys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        program = folder / "docker"
        program.write_text(DOCKER)
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        status = {"State": "running", "ContainerStatus": {"ContainerID": CONTAINER}}
        self.says(listed="s1\n", services=json.dumps([SERVICE]), tasks=json.dumps([{"Status": status}]), code="0")
        self.answers(documents())
        self.ends(OUTCOME)
        (folder / "key").write_text(key_files.identity_text(KEY))
        (folder / "key.pub").write_text(key_files.recipient_text(KEY.public))

    def says(self, **files: str) -> None:
        for name, text in files.items():
            (self.folder / name).write_text(text)

    def answers(self, told: list[dict[str, Any]]) -> None:
        self.says(answer="".join(json.dumps(each) + "\n" for each in told))

    def ends(self, outcome: dict[str, Any]) -> None:
        self.says(outcome=json.dumps(outcome) + "\n", code="1" if outcome["problems"] else "0")

    def run(self, *words: str) -> tuple[int, str, str]:
        environment = {"PATH": "/usr/bin:/bin", "LINKWIRE_DOCKER": str(self.folder / "docker")}
        done = subprocess.run(
            [sys.executable, "-m", "compose_ext", *words],
            cwd=self.folder,
            env=environment | {"FOLDER": str(self.folder), "PYTHONPATH": str(Path(__file__).parents[3])},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    def backup(self, *words: str) -> tuple[int, str, str]:
        return self.run("backup", "--to", "b", "--recipient", "key.pub", *words)

    def restore(self, *words: str) -> tuple[int, str, str]:
        (self.folder / "b").write_bytes(b"".join(sealed(encoded(BACKUP), KEY.public, PURPOSE)))
        return self.run("restore", "--identity", "key", *words, "b")

    @property
    def asked(self) -> str:
        path = self.folder / "asked"
        return path.read_text() if path.exists() else ""

    @property
    def left(self) -> set[str]:
        """Files besides the program's own."""
        known = {"docker", "asked", "listed", "services", "tasks", "code", "answer", "outcome", "key", "key.pub"}
        return {path.name for path in self.folder.iterdir()} - known


@pytest.fixture
def played(tmp_path: Path) -> Played:
    return Played(tmp_path)


def test_keygen_makes_a_pair_that_fits(played: Played) -> None:
    code, out, _ = played.run("backup", "--keygen", "mine")
    assert code == 0
    identity, recipient = (played.folder / name for name in ("mine", "mine.pub"))
    key = key_files.read_identity(identity.read_text())
    assert str(key_files.read_recipient(recipient.read_text())) == str(key.public)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (identity, recipient)] == [0o600, 0o644]
    assert key.public.fingerprint[:16] in out
    assert key.raw.hex()[:8] not in out


@pytest.mark.parametrize("there", ["mine", "mine.pub"])
def test_keygen_replaces_no_key(played: Played, there: str) -> None:
    played.says(**{there: "precious"})
    for more in ([], ["--force"]):
        code, _, error = played.run("backup", "--keygen", "mine", *more)
        assert code == 2
        assert f"{there}: it is there already" in error
    assert played.left == {there}
    assert (played.folder / there).read_text() == "precious"


def test_a_backup_is_written_for_its_owner_alone(played: Played) -> None:
    code, out, error = played.backup()
    assert (code, error) == (0, "")
    path = played.folder / "b"
    assert decoded(opened(path.read_bytes(), KEY, PURPOSE)) == BACKUP
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "2 records of the Swarm swarm at revision 12, generation 7, of 2025-11-24T16:00:00+00:00" in out
    assert f"{path.stat().st_size} bytes" in out
    code, out, _ = played.backup("--force", "--format", "json")
    assert code == 0
    assert json.loads(out) == {
        "file": "b",
        "bytes": path.stat().st_size,
        **BACKUP.described(),
        "recipient": KEY.public.fingerprint,
        "left_out": [],
    }


def test_a_file_is_replaced_only_by_force(played: Played) -> None:
    played.says(b="an earlier one")
    code, _, error = played.backup()
    assert code == 2
    assert "--to b: it is there already: --force replaces it" in error
    assert played.asked == ""
    assert played.backup("--force")[0] == 0
    assert decoded(opened((played.folder / "b").read_bytes(), KEY, PURPOSE)) == BACKUP


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (documents()[:1], "ended before the backup was whole"),
        ([{"error": "etcd does not hold what was signed"}], "etcd does not hold what was signed"),
        ([*documents()[:1], {"error": "etcd went away"}], "etcd went away"),
        ([{"part": "???"}], "is no backup"),
        ([{"other": 1}], "is no backup"),
        (documents(NodeKey(b"\6" * 32)), "sealed it to another key"),
        (documents()[-1:], "ended before the backup was whole"),
    ],
)
def test_a_broken_answer_leaves_no_file(played: Played, told: list[dict[str, Any]], reason: str) -> None:
    played.answers(told)
    for more, before in (([], None), (["--force"], "an earlier one")):
        if before is not None:
            played.says(b=before)
        code, _, error = played.backup(*more)
        assert code == 1
        assert reason in error
        assert played.left == ({"b"} if before else set())
    assert (played.folder / "b").read_text() == "an earlier one"


def test_records_that_are_left_out_are_named(played: Played) -> None:
    played.answers([*documents()[:-1], {"backup": BACKUP.described(), "left_out": ["keys/n1/t1: forged\x1b[2J"]}])
    code, _, error = played.backup()
    assert code == 3
    assert "left out, since it cannot be believed: keys/n1/t1: forged?[2J" in error


def test_all_that_is_wrong_is_said_at_once(played: Played) -> None:
    code, _, error = played.run("backup", "--to", "nowhere/b", "--recipient", "key")
    assert code == 2
    assert "--to nowhere/b: there is no folder nowhere; --recipient key: it is an identity file" in error
    code, _, error = played.run("restore", "--identity", "key.pub", "nothing")
    assert code == 2
    assert "--identity key.pub: it is a recipient file" in error
    assert "nothing: No such file or directory" in error
    assert played.run("backup", "--keygen", "x", "--to", "b")[0] == 2
    assert played.run("restore", "b")[0] == 2
    assert played.asked == ""


def test_a_restore_hands_over_what_it_opened(played: Played) -> None:
    code, out, error = played.restore()
    assert (code, error) == (0, "")
    first, _, rest = (played.folder / "given").read_bytes().partition(b"\n")
    assert json.loads(first) == {"force": False, "dry_run": False}
    assert decoded(rest) == BACKUP
    assert "put back: 2 addresses that rest, 40 pages of the audit log" in out
    assert "etcd holds generation 9 of the signed set" in out
    (made,) = [line for line in played.asked.splitlines() if line.startswith("service create")]
    assert "--constraint=node.id==m" in made
    assert "--secret=source=linkwire_signing_seed_1,target=seed,mode=0400" in made
    assert made.endswith("image:1 3600")
    assert played.asked.count("service rm linkwire_restore") == 2
    assert KEY.raw.hex() not in played.asked + out


def test_a_dry_run_says_so(played: Played) -> None:
    played.ends({**OUTCOME, "written": False, "lost": ["service web: its VIP a becomes b"]})
    code, out, _ = played.restore("--dry-run", "--force")
    assert code == 0
    assert json.loads((played.folder / "given").read_bytes().partition(b"\n")[0]) == {"force": True, "dry_run": True}
    assert "would change: service web: its VIP a becomes b" in out
    assert "would come back: 2 addresses" in out


def test_what_would_change_needs_force(played: Played) -> None:
    played.ends({**OUTCOME, "written": False, "lost": ["service web: its VIP a becomes b"]})
    code, out, error = played.restore()
    assert code == 1
    assert "would change: service web" in out
    assert "nothing was restored: give --force" in error
    code, out, _ = played.restore("--format", "json")
    assert code == 1
    assert json.loads(out)["lost"] == ["service web: its VIP a becomes b"]
    assert json.loads(out)["backup"] == BACKUP.described()


def test_every_problem_of_a_backup_is_named(played: Played) -> None:
    played.ends({**OUTCOME, "problems": ["it is of the Swarm a, and this is b", "another"]})
    code, _, error = played.restore()
    assert code == 1
    assert "nothing was restored:\n  it is of the Swarm a, and this is b\n  another" in error
    assert played.asked.rstrip().endswith("service rm linkwire_restore")


def test_a_restore_that_says_nothing_fails(played: Played) -> None:
    played.says(outcome="Traceback\n", code="1")
    code, _, error = played.restore()
    assert code == 1
    assert "ended without saying how" in error


def test_a_job_that_ends_early_is_named(played: Played) -> None:
    played.says(tasks=json.dumps([{"Status": {"State": "rejected", "Err": "No such image"}}]))
    code, _, error = played.restore()
    assert code == 1
    assert "linkwire_restore ended: No such image" in error


def test_another_key_opens_nothing(played: Played) -> None:
    (played.folder / "key").write_text(key_files.identity_text(NodeKey(b"\7" * 32)))
    code, _, error = played.restore()
    assert code == 2
    assert f"b: it is sealed to the key {KEY.public.fingerprint[:16]}, and this one is" in error
    assert played.asked == ""


def test_without_linkwire_it_says_so(played: Played) -> None:
    played.says(services="[]", listed="")
    code, _, error = played.restore()
    assert code == 1
    assert "Linkwire is not installed in this Swarm" in error
