"""Makes a release's files from the commit that is checked out, and signs them.

    python3 deploy/release/make.py VERSION KEY OUT     KEY is a minisign secret key of yours; `-` signs nothing
    python3 deploy/release/make.py VERSION - OUT       what `make check-reproducible` makes twice

ARCH in the environment has Debian's names of the processors that plugin and image are made for ("amd64 arm64"), by
default this machine's alone. For another one the kernel must run its programs meanwhile: deploy/emulate-arm64.sh.

Needs root (mmdebstrap), git, minisign, a Docker that may build (DOCKER_HOST says which), and this Python to be 3.11
with what requirements/build.txt names. Everything is made of `git archive HEAD`: what is not committed is not in it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import image
import sbom

PROJECT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
BUILD = "from setuptools import build_meta; import sys; build_meta.build_wheel(sys.argv[1])"

MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
"""By Debian's name of a processor, that of `uname -m` and of wheels."""

INSTALLED = """
import os, subprocess, sys
from importlib import metadata
for each in metadata.distributions(path=["/opt/linkwire/lib/python3.11/site-packages"]):
    print("python", each.metadata["Name"], each.version)
subprocess.run(["dpkg-query", "-W", "-f", "debian ${Package} ${Version}\\n"], check=True)
for folder, _, names in os.walk("/opt/linkwire"):
    for path in (os.path.join(folder, name) for name in (".", *names)):
        found = os.lstat(path)
        if not os.path.islink(path) and (found.st_mode & 0o6022 or found.st_uid or found.st_gid):
            sys.exit(f"{path} is another user's, or may be written by others: mode {found.st_mode:o}")
"""
"""Run in the image: what is installed in it, and that nobody but root may write Linkwire's own files."""


class ReleaseError(Exception):
    """A release cannot be made, and why."""


@dataclass(frozen=True, slots=True)
class Release:
    """One release while it is made: its names, and the folders that it is made in."""

    version: str
    commit: str
    epoch: int
    tree: Path
    work: Path
    out: Path

    @property
    def environment(self) -> Mapping[str, str]:
        """Of every program that makes a file: none of them writes a time of today."""
        return {"SOURCE_DATE_EPOCH": str(self.epoch), "DOCKER_BUILDKIT": "0", "PYTHONDONTWRITEBYTECODE": "1"}


def run(*argv: str | Path, cwd: Path = PROJECT, env: Mapping[str, str] | None = None) -> str:
    """What a program wrote.

    Raises:
        ReleaseError: it failed, with what it said.
    """
    done = subprocess.run(argv, cwd=cwd, env=os.environ | (env or {}), capture_output=True, text=True, check=False)
    if done.returncode:
        raise ReleaseError(f"{Path(argv[0]).name} failed:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout.strip()


def architectures() -> list[str]:
    """Debian's names of the processors that this release is for."""
    return os.environ.get("ARCH", "").split() or [run("dpkg", "--print-architecture")]


def check(version: str, key: str, out: Path) -> None:
    """Refuse what cannot become a release, before anything is made.

    Raises:
        ReleaseError: with the reason.
    """
    has = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    if version != has:
        raise ReleaseError(f"pyproject.toml has version {has}, not {version or '(none; give VERSION=' + has + ')'}")
    if changed := run("git", "status", "--porcelain"):
        raise ReleaseError(f"these are changed and not committed; commit or remove them:\n{changed}")
    if out.exists():
        raise ReleaseError(f"{out} is there already: take it away first")
    for name in architectures():
        if name not in MACHINES:
            raise ReleaseError(f"ARCH has '{name}': a release is made for {' and '.join(MACHINES)}")
        if not base_lock(name).exists():
            raise ReleaseError(f"there is no {base_lock(name).name}: `make lock-base ARCH={name}` writes it")
    if key != "-":
        _check_key(key)
    run("docker", "version")


def _check_key(key: str) -> None:
    file = Path(key)
    if not key or not file.is_file():
        raise ReleaseError(f"there is no key '{key}': give KEY=FILE, a minisign secret key (minisign -G makes one)")
    if file.resolve().is_relative_to(PROJECT):
        raise ReleaseError(f"{key} is in the working tree, where it may get committed: keep the key elsewhere")
    if "secret key" not in file.read_text(errors="replace").partition("\n")[0]:
        raise ReleaseError(f"{key} is no minisign secret key")
    run("minisign", "-v")


def base_lock(architecture: str) -> Path:
    """The lock of the Debian packages of a processor's image."""
    return PROJECT / f"requirements/debian-{architecture}.txt"


def make_plugin(release: Release, architecture: str) -> None:
    """The CLI plugin for one processor, and its bill of materials."""
    machine = MACHINES[architecture]
    name = f"docker-linkwire-linux-{machine}"
    wheels = release.work / f"plugin-wheels-{machine}"
    program = release.tree / "deploy/plugin/make.py"
    run(sys.executable, program, release.out / name, wheels, machine, env=release.environment)
    plugin = sbom.Package("docker-linkwire", release.version, file=name, licence="Apache-2.0")
    parts = [*sbom.python_packages(wheels.rglob("*.whl")), *sbom.page_packages(release.tree)]
    written = sbom.document(plugin, parts, release.epoch)
    (release.out / f"{name}.spdx.json").write_bytes(written)


def make_wheel(release: Release) -> None:
    """The project as a Python package."""
    run(sys.executable, "-c", BUILD, release.out, cwd=release.tree, env=release.environment)


def differing(listed: str, locked: str) -> list[str]:
    """Packages of one list and not of the other."""
    have, want = ({line for line in text.splitlines() if not line.startswith("#")} for text in (listed, locked))
    return [*(f"+ {line}" for line in sorted(have - want)), *(f"- {line}" for line in sorted(want - have))]


def check_base(listed: str, locked: str) -> None:
    """Refuse a base image that has not exactly the locked packages.

    Raises:
        ReleaseError: Debian serves other packages today.
    """
    if other := differing(listed, locked):
        raise ReleaseError(
            "the base image is not the locked one. `make lock-base` takes what Debian serves today; MIRROR=FILE, "
            "with a dated snapshot's lines for sources.list, gets the locked ones. "
            "It has what is marked with +, and lacks what is marked with -:\n" + "\n".join(other)
        )


def make_base(release: Release, architecture: str) -> tuple[str, str]:
    """A base image in Docker, of exactly the locked Debian packages; its ID, and their list.

    Raises:
        ReleaseError: Debian serves other packages today.
    """
    tar = PROJECT / f"build/release-base-{architecture}.tar"
    tar.parent.mkdir(exist_ok=True)
    run(release.tree / "deploy/base-image.sh", tar, "linkwire", env={"ARCH": architecture})
    listed = Path(f"{tar}.packages").read_text()
    check_base(listed, base_lock(architecture).read_text())
    archive = release.work / "base.tar"
    image.as_image(tar, archive, architecture)
    loaded = run("docker", "load", "--quiet", "--input", archive)
    return loaded.removeprefix("Loaded image ID: "), listed


def make_image(release: Release, architecture: str) -> image.Digests:
    """The image's archive for one processor, and its bill of materials."""
    wheels = release.tree / "build/wheels"
    wheels.parent.mkdir(exist_ok=True)
    run(release.tree / "deploy/wheels.sh", wheels, sys.executable, env={"MACHINE": MACHINES[architecture]})
    base, listed = make_base(release, architecture)
    arguments = [f"--build-arg={name}" for name in (f"BASE={base}", f"SOURCE_DATE_EPOCH={release.epoch}")]
    options = ["--quiet", "--no-cache", "--network=none", f"--platform=linux/{architecture}"]
    options += ["--file", str(release.tree / "deploy/Dockerfile")]
    built = run("docker", "build", *options, *arguments, release.tree, env=release.environment)
    saved = release.work / "saved.tar"
    run("docker", "save", "--output", saved, built)
    tag = f"linkwire:{release.version}"
    name = f"linkwire-{release.version}-image-{MACHINES[architecture]}"
    digests = image.normalise(saved, release.out / f"{name}.tar", tag, labels(release), release.epoch)
    archives = [*wheels.glob("*.whl"), *wheels.glob("*.tar.gz")]
    product = re.findall(r"(?m)^([a-z0-9-]+)==", (release.tree / "requirements/product.txt").read_text())
    python = [each for each in sbom.python_packages(archives) if each.name in product]
    debian = sbom.debian_packages(listed)
    check_installed(built, {("debian", *each.key) for each in debian} | {("python", *each.key) for each in python})
    whole = sbom.Package("linkwire", release.version, file=f"{name}.tar", licence="Apache-2.0")
    parts = [*debian, *python, *sbom.page_packages(release.tree)]
    (release.out / f"{name}.spdx.json").write_bytes(sbom.document(whole, parts, release.epoch))
    return digests


def labels(release: Release) -> Mapping[str, str]:
    """The image's labels, by their names in the OCI's specification."""
    said = {"title": "linkwire", "version": release.version, "revision": release.commit, "licenses": "Apache-2.0"}
    return {f"org.opencontainers.image.{name}": value for name, value in said.items()}


def check_installed(built: str, listed: set[tuple[str, str, str]]) -> None:
    """Hold the bill of materials against what is in the image.

    Raises:
        ReleaseError: they differ, or a file is not root's alone.
    """
    lines = run("docker", "run", "--rm", "--network=none", built, "python3", "-c", INSTALLED).splitlines()
    installed = {
        (kind, re.sub("[-_.]+", "-", name).lower() if kind == "python" else name, version)
        for kind, name, version in map(str.split, lines)
    }
    if other := sorted(" ".join(each) for each in (installed ^ listed) if each[:2] != ("python", "linkwire")):
        raise ReleaseError("the image has not what its bill of materials lists:\n" + "\n".join(other))


def main(version: str, key: str, out: Path) -> None:
    """Make all files of a release in a new folder `out`, which appears when they are complete.

    Raises:
        ReleaseError: with the reason.
    """
    check(version, key, out)
    os.umask(0o022)
    commit, when = run("git", "log", "-1", "--format=%H %ct").split()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        release = Release(version, commit, int(when), work / "tree", work, out.with_name(f"{out.name}.new"))
        release.tree.mkdir()
        release.out.mkdir(parents=True, exist_ok=True)
        for old in release.out.iterdir():
            old.unlink()
        run("git", "-c", "tar.umask=0022", "archive", f"--output={work / 'tree.tar'}", "HEAD")
        run("tar", "--extract", f"--file={work / 'tree.tar'}", f"--directory={release.tree}")
        make_wheel(release)
        made = []
        for name in architectures():
            make_plugin(release, name)
            digests = make_image(release, name)
            made.append(f"{name} image {digests.image}, manifest {digests.manifest}")
    if key == "-":
        run("sh", "-c", "sha256sum $(LC_ALL=C ls) >SHA256SUMS", cwd=release.out)
    else:
        # minisign asks the terminal for the key's password.
        subprocess.run([HERE / "sign.sh", release.out, version, commit, key], check=True)
    release.out.rename(out)
    print(f"made {out} of commit {commit}", *made, sep="; ")


if __name__ == "__main__":
    _, *given = sys.argv
    if len(given) != len(("VERSION", "KEY", "OUT")):
        sys.exit("usage: make.py VERSION KEY OUT")
    try:
        main(given[0], given[1], Path(given[2]).absolute())
    except ReleaseError as error:
        sys.exit(f"release: {error}")
    except subprocess.CalledProcessError:
        sys.exit("release: it is not signed, see above")
