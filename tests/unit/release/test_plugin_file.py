"""The CLI plugin's one file: the same bytes from the same commit, of nothing but what is locked."""

from __future__ import annotations

import hashlib
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.locks import LOCKS, PROJECT, packages

SOURCES = ("mesh", "compose_ext", "deploy/plugin", "requirements/plugin.txt", "LICENSE")
WHO = ("NAME", "EMAIL", "DATE")
GIT = {f"GIT_{who}_{what}": "2001-01-01T00:00:00Z" for who in ("AUTHOR", "COMMITTER") for what in WHO}


def checkout(folder: Path, umask: int, mtime: int) -> Path:
    """A clone of the project as it is now, all of one commit; its files' modes and times are the machine's."""
    for name in SOURCES:
        copy = shutil.copytree if (PROJECT / name).is_dir() else shutil.copy
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        copy(PROJECT / name, folder / name)
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)
        os.utime(path, (mtime, mtime))
    (folder / ".gitignore").write_text("__pycache__\n")
    for command in ("init --quiet", "add .", "-c core.fileMode=false commit --quiet --no-gpg-sign -m all"):
        subprocess.run(["git", *command.split()], cwd=folder, env=os.environ | GIT, check=True)
    return folder


MAKE = """
import runpy, sys
from pathlib import Path
make = runpy.run_path(sys.argv[1])
make["main"].__globals__["PYTHONS"] = (sys.version_info[:2],)
make["main"](Path(sys.argv[2]), Path(sys.argv[3]))
"""
"""deploy/plugin/make.py for this Python alone: each asks pip once, which is most of the time."""


def made(tree: Path, out: Path, wheels: Path, **env: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", MAKE, str(tree / "deploy/plugin/make.py"), str(out), str(wheels)]
    return subprocess.run(argv, cwd=out.parent, env=os.environ | env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("wheels") / "kept"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkout(tmp_path_factory.mktemp("one"), 0o022, 1_000_000_000)


@pytest.fixture(scope="module")
def plugin(tree: Path, tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Path:
    out = tmp_path_factory.mktemp("out") / "docker-linkwire"
    done = made(tree, out, wheels, TZ="UTC", PYTHONHASHSEED="1")
    assert done.returncode == 0, done.stderr
    return out


def test_two_builds_are_equal_bytes(plugin: Path, wheels: Path, tmp_path: Path) -> None:
    other = checkout(tmp_path / "elsewhere", 0o077, 1_700_000_000)
    again = tmp_path / "other-name"
    assert made(other, again, wheels, TZ="Asia/Tokyo", PYTHONHASHSEED="2", LC_ALL="C").returncode == 0
    assert hashlib.sha256(again.read_bytes()).hexdigest() == hashlib.sha256(plugin.read_bytes()).hexdigest()


def test_it_holds_the_locked_packages_only(plugin: Path) -> None:
    names = zipfile.ZipFile(plugin).namelist()
    held = {name.partition("/")[0] for name in names if ".dist-info/" in name}
    found = {packages(re.sub(r"-(?=\d)", "==", name.removesuffix(".dist-info"))).popitem() for name in held}
    locked = packages((LOCKS / "plugin.txt").read_text())
    assert found <= locked.items()
    # rich's own, which nothing here runs.
    assert locked.keys() - {name for name, _ in found} == {"pycparser", "pygments", "markdown-it-py", "mdurl"}
    assert [name for name in names if name.endswith((".pyc", "direct_url.json"))] == []


def test_version_tells_commit_and_digest(plugin: Path, tree: Path, tmp_path: Path) -> None:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tree, capture_output=True, text=True, check=True)
    digest = hashlib.sha256(plugin.read_bytes()).hexdigest()
    env = {"HOME": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    argv = [str(plugin), "linkwire", "version"]
    text = subprocess.run(argv, capture_output=True, text=True, check=True, env=env).stdout
    assert text == f"Linkwire 0.1.0\nCommit:   {commit.stdout}SHA-256:  {digest}\n"
    told = subprocess.run([*argv, "--format", "json"], capture_output=True, text=True, check=True, env=env).stdout
    assert json.loads(told) == {"version": "0.1.0", "commit": commit.stdout.strip(), "sha256": digest}


def test_a_changed_tree_says_so(tmp_path: Path) -> None:
    changed = checkout(tmp_path, 0o022, 1_000_000_000)
    commit = runpy.run_path(str(changed / "deploy/plugin/make.py"))["_commit"]
    assert re.fullmatch("[0-9a-f]{40}", commit())
    (changed / "mesh/new.py").touch()
    assert re.fullmatch("[0-9a-f]{40}-dirty", commit())


def test_a_wheel_that_is_not_locked_is_refused(plugin: Path, wheels: Path, tmp_path: Path) -> None:
    assert plugin.exists()
    other = checkout(tmp_path / "tree", 0o022, 1_000_000_000)
    lock = other / "requirements/plugin.txt"
    lock.write_text(re.sub(r"sha256:[0-9a-f]{64}", f"sha256:{'0' * 64}", lock.read_text()))
    refused = made(other, tmp_path / "plugin", wheels)
    assert (refused.returncode, (tmp_path / "plugin").exists()) == (1, False)
    assert "DO NOT MATCH THE HASHES" in refused.stderr
