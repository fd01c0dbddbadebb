"""Makes the CLI plugin as one file that needs nothing but Python and glibc.

    python3 deploy/plugin/make.py OUT [WHEELS [MACHINE]]

This Python has pip, which gets the wheels of requirements/plugin.txt, by hash. The file is for one processor and each
Python of PYTHONS; from the same commit and lock it is the same, byte by byte. MACHINE is the processor's name as in
wheels, by default this machine's. WHEELS is a folder that keeps the wheels: filled when it is missing, else taken
instead of the registry, by hash again.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
LOCK = PROJECT / "requirements/plugin.txt"
PACKAGES = ("compose_ext", "mesh")
SOURCES = (*PACKAGES, "LICENSE", "deploy/plugin", "requirements/plugin.txt")
PAGE = PROJECT / "compose_ext/ui/static"
PYTHONS = ((3, 11), (3, 12), (3, 13))
GLIBCS = ("2014", "_2_17", "_2_28", "_2_34")
"""The manylinux names of what Debian 12's glibc (2.36) and older ones run."""
# -I: neither the folder nor the environment of the caller gives us modules. -S: nor does site-packages.
SHEBANG = b"#!/usr/bin/env -S python3 -IS\n"
UNUSED = ("pycparser", "pygments", "markdown_it", "mdurl")
"""What cffi compiles C headers with, and rich shows source code and Markdown with: nothing that runs needs them."""
EPOCH = (1980, 1, 1, 0, 0, 0)
UNKNOWN_COMMIT = b"$Format:%H$"
"""In place of the commit, until `git archive` (.gitattributes) or this program puts it in."""


def main(out: Path, kept: Path | None = None, machine: str = platform.machine()) -> None:
    """Make the file, in the place of an earlier one."""
    contents = dict(_project())
    commit = _commit().encode()
    contents["compose_ext/__init__.py"] = contents["compose_ext/__init__.py"].replace(UNKNOWN_COMMIT, commit)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor() as pool:
        for wheels in pool.map(partial(_wheels, Path(folder), kept, machine), PYTHONS):
            for wheel in wheels:
                contents |= _unzipped(wheel)
    digest = hashlib.sha256()
    for name, data in sorted(contents.items()):
        digest.update(f"{name} {hashlib.sha256(data).hexdigest()}\n".encode())
    contents["linkwire_unpack.py"] = _unpacker(digest.hexdigest()[:32], machine)
    contents["__main__.py"] = HERE.joinpath("main.py").read_bytes()
    out.parent.mkdir(parents=True, exist_ok=True)
    new = out.with_name(f"{out.name}.new")
    with new.open("wb") as file:
        file.write(SHEBANG)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for name, data in sorted(contents.items()):
                archive.writestr(zipfile.ZipInfo(name, EPOCH), data, zipfile.ZIP_DEFLATED)
    new.chmod(0o755)
    new.replace(out)


def _commit() -> str:
    """The commit of the working tree, with `-dirty` if it was changed; nothing where there is no git."""
    git = ["git", "-C", str(PROJECT), "-c", f"safe.directory={PROJECT}"]
    run = partial(subprocess.run, check=True, capture_output=True, text=True)
    try:
        top, head = run([*git, "rev-parse", "--show-toplevel", "HEAD"]).stdout.split("\n")[:2]
        changed = run([*git, "status", "--porcelain", "--untracked-files=normal", "--", *SOURCES]).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    # An archive may be unpacked in somebody's own tree.
    return "" if Path(top) != PROJECT else f"{head}-dirty" if changed else head


def _unpacker(build: str, machine: str) -> bytes:
    code = HERE.joinpath("unpack.py").read_text()
    for unset, value in (('BUILD = ""', build), ('MACHINE = ""', machine)):
        code = code.replace(f"\n{unset}\n", f"\n{unset[:-2]}{value!r}\n")
    return code.replace("...] = ()\n", f"...] = {PYTHONS!r}\n").encode()


def _project() -> Iterator[tuple[str, bytes]]:
    yield "LICENSE", (PROJECT / "LICENSE").read_bytes()
    for package in PACKAGES:
        for path in sorted((PROJECT / package).rglob("*")):
            if path.is_file() and (path.suffix in (".py", ".yml") or path.is_relative_to(PAGE)):
                yield str(path.relative_to(PROJECT)), path.read_bytes()


def _wheels(folder: Path, kept: Path | None, machine: str, python: tuple[int, int]) -> list[Path]:
    """Get the lock's wheels for one Python."""
    into = folder / "{}.{}".format(*python)
    stored = kept / into.name if kept else None
    source = ["--no-index", f"--find-links={stored}"] if stored and stored.is_dir() else []
    name = "cp{}{}".format(*python)
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", *source]
    argv += ["--require-hashes", "--only-binary=:all:", "--implementation=cp", f"--python-version={into.name}"]
    argv += [f"--abi={abi}" for abi in (name, "abi3", "none")]
    argv += [f"--platform=manylinux{glibc}_{machine}" for glibc in GLIBCS]
    subprocess.run([*argv, f"--dest={into}", f"--requirement={LOCK}"], check=True)
    if stored and not source:
        shutil.copytree(into, stored)
    return sorted(into.glob("*.whl"))


def _unzipped(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith(UNUSED)]
        return {name: archive.read(name) for name in names}


if __name__ == "__main__":
    _, *arguments = sys.argv
    if not arguments or arguments[3:]:
        sys.exit("usage: make.py OUT [WHEELS [MACHINE]]")
    try:
        main(*map(Path, arguments[:2]), *arguments[2:])
    except subprocess.CalledProcessError:
        sys.exit("plugin: pip did not get the wheels of requirements/plugin.txt, see above")
