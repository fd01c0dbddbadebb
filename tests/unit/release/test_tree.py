"""What a reviewer of the repository looks for first: modes, keys, and actions from elsewhere."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.support.locks import PROJECT

SECRET = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----\n[A-Za-z0-9+/=\n]{80}|minisign (encrypted )?secret key\nR[A-Za-z0-9+/]{80}"
)


def tracked() -> list[tuple[str, str]]:
    """Mode and path of each file that git keeps."""
    listed = subprocess.run(
        ["git", "ls-files", "-s", "-z"], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout
    return [(entry.split()[0], entry.partition("\t")[2]) for entry in listed.split("\0") if entry]


def test_files_have_their_modes() -> None:
    """Executable is what begins with an interpreter's name; there are no links and no submodules."""
    modes = {path: mode for mode, path in tracked() if (PROJECT / path).exists()}
    assert set(modes.values()) == {"100644", "100755"}
    programs = {path for path in modes if (PROJECT / path).read_bytes()[:2] == b"#!"}
    assert {path for path, mode in modes.items() if mode == "100755"} - programs == set()
    assert {path for path in programs if path.endswith(".sh") and path.startswith("deploy/")} == {
        path
        for path, mode in modes.items()
        if mode == "100755" and path.endswith(".sh") and path.startswith("deploy/")
    }


def test_no_secret_key_is_kept() -> None:
    holding = [
        path for _, path in tracked() if (PROJECT / path).exists() and holds_a_key((PROJECT / path).read_bytes())
    ]
    assert holding == []


def holds_a_key(data: bytes) -> bool:
    return SECRET.search(data.decode(errors="replace")) is not None


@pytest.mark.parametrize(
    "form", ["untrusted comment: minisign encrypted secret key\nRWRT", "-----BEGIN EC PRIVATE KEY-----\n"]
)
def test_a_secret_key_is_noticed(form: str) -> None:
    assert holds_a_key((form + "A" * 200).encode())
    assert not holds_a_key(form.encode())


def test_no_workflow_takes_actions_from_elsewhere() -> None:
    """CI is `.ci/run`; a hosted workflow's actions would each need a digest."""
    hosted = (".github/workflows/", ".gitlab-ci", ".circleci/", "azure-pipelines", ".travis")
    assert [path for _, path in tracked() if path.startswith(hosted)] == []
