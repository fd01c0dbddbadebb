"""A release as the one who gets it checks it: minisign's signature, and every file."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.support.attacks import Attempts
from tests.support.released import program

FILES = ("docker-linkwire-linux-x86_64", "linkwire-0.1.0-image-x86_64.tar", "linkwire-0.1.0-py3-none-any.whl")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def keys(folder: Path, name: str) -> tuple[Path, Path]:
    """A throw-away key without password: public and secret."""
    public, secret = folder / f"{name}.pub", folder / f"{name}.key"
    subprocess.run(["minisign", "-G", "-W", "-p", public, "-s", secret], check=True, capture_output=True)
    return public, secret


@pytest.fixture(scope="module")
def public_and_secret(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return keys(tmp_path_factory.mktemp("keys"), "ours")


@pytest.fixture
def folder(tmp_path: Path, public_and_secret: tuple[Path, Path]) -> Path:
    made = tmp_path / "0.1.0"
    made.mkdir()
    for name in FILES:
        (made / name).write_bytes(name.encode() * 100)
    signed = program("sign.sh", made, "0.1.0", COMMIT, public_and_secret[1])
    assert (signed.returncode, signed.stderr) == (0, "")
    return made


def test_a_release_as_it_was_signed(folder: Path, public_and_secret: tuple[Path, Path]) -> None:
    public, _ = public_and_secret
    for arguments in ((folder, public), (folder, public, "0.1.0")):
        verified = program("verify.sh", *arguments)
        assert (verified.returncode, verified.stderr) == (0, "")
        assert verified.stdout == (
            f"Linkwire 0.1.0, commit {COMMIT}: the signature is good and every file is as it was signed\n"
        )


def sign(folder: Path, secret: Path, comment: str) -> None:
    """Sign the list as it is now."""
    argv = ["minisign", "-S", "-s", str(secret), "-m", str(folder / "SHA256SUMS"), "-t", comment]
    subprocess.run(argv, check=True, capture_output=True)


def flip(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def flip_in(name: str, folder: Path) -> None:
    flip(folder / name)


def add_line(folder: Path, line: str) -> None:
    with (folder / "SHA256SUMS").open("a") as file:
        file.write(line)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    **{f"a byte of {name}": (partial(flip_in, name), "not the one") for name in FILES},
    "a byte of the list": (lambda folder: flip(folder / "SHA256SUMS", 0), "not one of this key"),
    "a byte of the signature": (lambda folder: flip(folder / "SHA256SUMS.minisig", 90), "not one of this key"),
    "the version in the comment": (
        lambda folder: (folder / "SHA256SUMS.minisig").write_text(
            (folder / "SHA256SUMS.minisig").read_text().replace("linkwire 0.1.0", "linkwire 0.2.0")
        ),
        "not one of this key",
    ),
    "a file less": (lambda folder: (folder / FILES[0]).unlink(), "not the one"),
    "a file more": (lambda folder: (folder / "extra.whl").touch(), "nobody signed extra.whl"),
    "the begin of a name": (lambda folder: (folder / FILES[0][:-7]).touch(), "nobody signed docker-linkwire-linux"),
    "a hidden file more": (lambda folder: (folder / ".extra").touch(), "nobody signed .extra"),
    "a list of another place": (lambda folder: add_line(folder, f"{'0' * 64}  ../x\n"), "not one of this key"),
    "no list": (lambda folder: (folder / "SHA256SUMS").unlink(), "has no SHA256SUMS"),
    "no signature": (lambda folder: (folder / "SHA256SUMS.minisig").unlink(), "has no SHA256SUMS.minisig"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_noticed(folder: Path, public_and_secret: tuple[Path, Path], change: str) -> None:
    alter, said = CHANGES[change]
    alter(folder)
    verified = program("verify.sh", folder, public_and_secret[0])
    assert (verified.returncode, verified.stdout) == (1, "")
    assert said in verified.stderr


def test_a_list_that_leaves_the_folder(folder: Path, public_and_secret: tuple[Path, Path]) -> None:
    """Whoever has the key signs a list of files elsewhere: none of them is read."""
    public, secret = public_and_secret
    add_line(folder, f"{'0' * 64}  ../x\n")
    sign(folder, secret, f"linkwire 0.1.0 {COMMIT}")
    verified = program("verify.sh", folder, public)
    assert (verified.returncode, "no file of this folder" in verified.stderr) == (1, True)


def test_another_key_is_refused(folder: Path, tmp_path: Path) -> None:
    other, secret = keys(tmp_path, "other")
    verified = program("verify.sh", folder, other)
    assert (verified.returncode, "not one of this key" in verified.stderr) == (1, True)
    assert program("sign.sh", folder, "0.1.0", COMMIT, secret).returncode == 0
    assert program("verify.sh", folder, other).returncode == 0


def listed_and_unchanged(folder: Path) -> bool:
    """Whether the checksums hold, which is all that a list without a signature tells."""
    argv = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    return subprocess.run(argv, cwd=folder, capture_output=True, check=False).returncode == 0


def test_a_mirror_changes_file_and_list(
    folder: Path, public_and_secret: tuple[Path, Path], attempt: Attempts
) -> None:
    tried = attempt("a mirror serves another plugin, and a list with its checksum")
    flip(folder / FILES[0])
    assert not listed_and_unchanged(folder)
    sums = subprocess.run(["sha256sum", *FILES], cwd=folder, capture_output=True, text=True, check=True).stdout
    (folder / "SHA256SUMS").write_text(sums)
    tried.works(listed_and_unchanged(folder))
    verified = program("verify.sh", folder, public_and_secret[0])
    tried.stopped((verified.returncode, "not one of this key" in verified.stderr) == (1, True), verified.stderr)


def test_an_older_release_is_sent(folder: Path, public_and_secret: tuple[Path, Path], attempt: Attempts) -> None:
    tried = attempt("a mirror serves an older release, with its good signature, as a newer one")
    public, _ = public_and_secret
    newer = folder.rename(folder.with_name("0.2.0"))
    tried.works(program("verify.sh", newer, public).returncode == 0)
    verified = program("verify.sh", newer, public, "0.2.0")
    tried.stopped((verified.returncode, "version 0.1.0, not 0.2.0" in verified.stderr) == (1, True), verified.stderr)


def test_another_signature_of_the_key(folder: Path, public_and_secret: tuple[Path, Path]) -> None:
    public, secret = public_and_secret
    sign(folder, secret, "a letter")
    verified = program("verify.sh", folder, public)
    assert (verified.returncode, "something else than a release" in verified.stderr) == (1, True)


@pytest.mark.parametrize(
    ("version", "key", "said"),
    [("9.9.9", "-", "pyproject.toml has version 0.1.0, not 9.9.9"), ("", "-", "give VERSION=0.1.0")],
)
def test_what_is_no_release_is_refused(tmp_path: Path, version: str, key: str, said: str) -> None:
    refused = program("make.py", version, key, tmp_path / "out")
    assert (refused.returncode, (tmp_path / "out").exists()) == (1, False)
    assert said in refused.stderr


def test_sign_needs_a_key_that_exists(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    refused = program("sign.sh", folder, "0.1.0", COMMIT, folder / "none.key")
    assert (refused.returncode, "make one with minisign -G" in refused.stderr) == (1, True)
