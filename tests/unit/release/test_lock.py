"""All that is installed is named by version and hash, and pip holds to it."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support import locks
from tests.support.attacks import Attempts

SCRIPTS = [
    *(locks.PROJECT / name for name in ("Makefile", "deploy/Dockerfile", ".ci/run")),
    *sorted(locks.PROJECT.glob("deploy/**/*.sh")),
]
UNLOCKED = {"test-ranges.sh"}
"""It tries what the ranges of pyproject.toml allow, in environments of its own."""
HASH = f"--hash=sha256:{'0' * 64}"


@pytest.mark.parametrize("lock", sorted(locks.LOCKS.glob("[!d]*.txt")), ids=lambda path: path.name)
def test_every_locked_package_has_a_hash(lock: Path) -> None:
    assert locks.packages(lock.read_text())
    assert locks.unhashed(lock.read_text()) == []


@pytest.mark.parametrize(
    "entry",
    ["click==8.4.0", "click>=8 " + HASH, "click==8.4.0 --hash=md5:00", "click @ file:///c.whl", "-r more.txt"],
)
def test_an_entry_without_hash_is_noticed(entry: str) -> None:
    good = f"# Written\nrich==15.0.0 ; sys_platform == 'linux' \\\n    {HASH} \\\n    {HASH}\n"
    assert locks.unhashed(good) == []
    assert locks.unhashed(good + entry + "\n") == [entry]


def test_every_install_is_by_hash() -> None:
    found = {script.name: locks.unlocked_installs(script.read_text()) for script in SCRIPTS}
    assert {name for name, commands in found.items() if commands} == UNLOCKED


@pytest.mark.parametrize("script", [locks.PROJECT / "Makefile", locks.PROJECT / "deploy/wheels.sh"], ids=str)
def test_an_install_without_hashes_is_noticed(script: Path) -> None:
    assert len(locks.unlocked_installs(script.read_text().replace("--require-hashes", ""))) > 0


def test_the_dockerfiles_variable_has_the_hashes() -> None:
    text = (locks.PROJECT / "deploy/Dockerfile").read_text()
    assert re.search(r'locked="[^"]*--require-hashes', text)
    assert len(locks.unlocked_installs(text.replace("$locked", ""))) == 2


def test_the_base_image_has_a_digest() -> None:
    assert locks.floating_bases((locks.PROJECT / "deploy/Dockerfile").read_text()) == []


def test_a_base_without_digest_is_noticed() -> None:
    text = (locks.PROJECT / "deploy/Dockerfile").read_text()
    assert locks.floating_bases(re.sub(r"@sha256:[0-9a-f]+", "", text)) == ["debian:bookworm-slim"]
    assert locks.floating_bases(text + "COPY --from=busybox:latest /bin/sh /sh\n") == ["busybox:latest"]
    assert locks.floating_bases(text + "FROM alpine\n") == ["alpine"]


def wheel(folder: Path) -> str:
    """A wheel of a package of its own; its SHA-256."""
    path = folder / "linkwire_example-1.0-py3-none-any.whl"
    files = {
        "linkwire_example.py": b"",
        "linkwire_example-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: linkwire-example\nVersion: 1.0\n",
        "linkwire_example-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}\n"
        for name, data in files.items()
    )
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        archive.writestr("linkwire_example-1.0.dist-info/RECORD", record)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def downloaded(folder: Path, entry: str) -> subprocess.CompletedProcess[str]:
    """What pip says when it takes an entry from the packages of `folder`, which stands for the registry."""
    (folder / "lock.txt").write_text(entry)
    shutil.rmtree(folder / "got", ignore_errors=True)
    argv = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps", "--no-index"]
    argv += [f"--find-links={folder}", f"--dest={folder / 'got'}", f"--requirement={folder / 'lock.txt'}"]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def test_pip_takes_what_has_its_hash_only(tmp_path: Path, attempt: Attempts) -> None:
    tried = attempt("the registry serves another package under a locked version")
    digest = wheel(tmp_path)
    name = "linkwire_example-1.0-py3-none-any.whl"
    locked = f"linkwire-example==1.0 --hash=sha256:{digest}"
    assert downloaded(tmp_path, locked).returncode == 0
    with (tmp_path / name).open("ab") as file:
        file.write(b"x")
    assert downloaded(tmp_path, "linkwire-example==1.0").returncode == 0
    tried.works((tmp_path / "got" / name).read_bytes().endswith(b"x"))
    refused = downloaded(tmp_path, locked)
    tried.stopped((refused.returncode, "DO NOT MATCH THE HASHES" in refused.stderr) == (1, True), refused.stderr)


def test_one_hash_makes_pip_ask_for_all(tmp_path: Path) -> None:
    wheel(tmp_path)
    refused = downloaded(tmp_path, "--require-hashes\nlinkwire-example==1.0")
    assert (refused.returncode, "Hashes are required" in refused.stderr) == (1, True)
