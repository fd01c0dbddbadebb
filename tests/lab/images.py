"""Builds the project's images inside the lab, with no network, and pushes them to the lab's registry.

What takes long is made once and kept for every lab of the machine, under LINKWIRE_CACHE (/var/cache/linkwire): the
root file systems, the wheels, and the images as a registry keeps them.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab import process
from tests.lab.layout import LabError
from tests.lab.shelf import Shelf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lab.lab import Lab
    from tests.lab.node import Node

PROJECT = Path(__file__).resolve().parents[2]
LOCKS = ("requirements/build.txt", "requirements/product.txt")
PACKAGES = ("mesh", "controller", "agent", "compose_ext")
MAKING = 900.0  # seconds for a root file system or the wheels; 50 with a near mirror
BUILDING = 300.0


@dataclass(frozen=True, slots=True)
class Images:
    """Where the images are, for a compose file: REGISTRY/NAME."""

    linkwire: str
    demo: str
    busybox: str


def names(lab: Lab) -> Images:
    """The images' names in this lab's registry."""
    return Images(*(f"{lab.registry}/{image}" for image in ("linkwire:dev", "demo:dev", "busybox:latest")))


def build_all(lab: Lab, say: Callable[[str], None] = lambda _: None) -> Images:
    """Build and push all three, or have the registry take what another lab has pushed; quick when nothing is new.

    Raises:
        LabError: a step failed, with what it said.
    """
    with ThreadPoolExecutor() as pool:
        for image in [pool.submit(make, lab, say) for make in (_provide_linkwire, _provide_demo, push_busybox)]:
            image.result()
    return names(lab)


def _provide_linkwire(lab: Lab, say: Callable[[str], None]) -> None:
    source = context(wheels(say))
    made_from = _version(root_file_system("linkwire", say)).encode() + source
    _provide(lab, names(lab).linkwire, made_from, lambda: build_image(lab, say, source), say)


def _provide_demo(lab: Lab, say: Callable[[str], None]) -> None:
    made_from = _version(root_file_system("demo", say)).encode()
    _provide(lab, names(lab).demo, made_from, lambda: push_demo(lab, say), say)


def _provide(lab: Lab, image: str, made_from: bytes, make: Callable[[], str], say: Callable[[str], None]) -> None:
    """Give the lab's registry and its first node what was made from the same before, else make it and keep it."""
    repository, tag = image.split("/", 1)[1].split(":")
    folder = cache() / "images" / repository
    folder.mkdir(parents=True, exist_ok=True)
    shelf, key = Shelf(folder, repository, tag), hashlib.sha256(made_from).hexdigest()
    with _locked(folder):
        if not shelf.take(key, lab.registry_server.data):
            make()
            shelf.put(key, lab.registry_server.data)
            return
    say(f"{image} was built before")
    lab.manager.docker("pull", "--quiet", image, timeout=BUILDING)  # or it would go on with an older one of that name


def build_image(
    lab: Lab, say: Callable[[str], None] = lambda _: None, source: bytes | None = None, tag: str = "dev"
) -> str:
    """Build the image of controller and agent on the first node, push it, return its name.

    Args:
        lab: it is up.
        say: is told what is being done.
        source: a build context; None: the project's, as it is now.
        tag: of the image.

    Raises:
        LabError: a step failed, with what it said.
    """
    node, image = lab.manager, f"{lab.registry}/linkwire:{tag}"
    base = _import(node, root_file_system("linkwire", say), "linkwire-base", say)
    say(f"building {image}")
    # The classic builder: it is in every Docker, and nothing of it has to be fetched.
    argv = node.docker_command(
        *("build", "--quiet", "--network", "none", "--build-arg", f"BASE={base}"),
        *("--file", "deploy/Dockerfile", "--tag", image, "-"),
    )
    process.feed(argv, source or context(wheels(say)), timeout=BUILDING, env={**os.environ, "DOCKER_BUILDKIT": "0"})
    return _push(node, image, say)


def variant(lab: Lab, tag: str, line: str) -> str:
    """Make and push another image of Linkwire, of this one and one more line of a Dockerfile; return its name."""
    image = f"{lab.registry}/linkwire:{tag}"
    text = f"FROM {names(lab).linkwire}\n{line}\n"
    environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
    lab.manager.docker("build", "--network", "none", "--tag", image, "-", stdin=text, env=environment)
    lab.manager.docker("push", image)
    return image


def push_demo(lab: Lab, say: Callable[[str], None] = lambda _: None) -> str:
    """Push the image that holds the programs of the examples, return its name.

    Raises:
        LabError: a step failed, with what it said.
    """
    return _push_base(lab, "demo", names(lab).demo, say)


def push_busybox(lab: Lab, say: Callable[[str], None] = lambda _: None) -> str:
    """Push a busybox image, return its name.

    Raises:
        LabError: a step failed, with what it said.
    """
    return _push_base(lab, "busybox", names(lab).busybox, say)


def root_file_system(kind: str, say: Callable[[str], None] = lambda _: None) -> Path:
    """The tar file of deploy/base-image.sh for `kind`, made when it is missing or old."""
    tar = cache() / f"{kind}.tar"
    with _locked(tar):
        if not tar.exists():
            say(f"making the root file system of {kind}, once (a minute)")
        process.answer([str(PROJECT / "deploy/base-image.sh"), str(tar), kind], timeout=MAKING)
    return tar


def wheels(say: Callable[[str], None] = lambda _: None) -> Path:
    """The folder of deploy/wheels.sh, filled when it is missing or old."""
    folder = cache() / "locked"
    with _locked(folder):
        if not folder.exists():
            say("fetching what the project depends on, once")
        process.answer([str(PROJECT / "deploy/wheels.sh"), str(folder), sys.executable], timeout=MAKING)
    return folder


@contextlib.contextmanager
def _locked(made: Path) -> Iterator[None]:
    """Let one process at a time make it: labs that are brought up at once share it."""
    with made.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def cache() -> Path:
    """The folder of what is made once for all labs."""
    folder = Path(os.environ.get("LINKWIRE_CACHE", "/var/cache/linkwire"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _push_base(lab: Lab, kind: str, image: str, say: Callable[[str], None]) -> str:
    node = lab.manager
    node.docker("tag", _import(node, root_file_system(kind, say), f"{kind}-base", say), image)
    return _push(node, image, say)


def _import(node: Node, tar: Path, name: str, say: Callable[[str], None]) -> str:
    """Import a root file system, unless the node has that very one; the image's name."""
    image = f"{name}:{hashlib.sha256(_version(tar).encode()).hexdigest()[:12]}"
    if node.docker("image", "inspect", image, check=False).returncode != 0:
        say(f"importing {image}")
        node.docker("import", "--change", 'CMD ["sh"]', str(tar), image, timeout=BUILDING)
    return image


def _version(tar: Path) -> str:
    """What tells one making of a root file system from another."""
    return Path(f"{tar}.inputs").read_text() + str(tar.stat().st_mtime_ns)


def _push(node: Node, image: str, say: Callable[[str], None]) -> str:
    say(f"pushing {image}")
    node.docker("push", "--quiet", image, timeout=BUILDING)
    return image


def context(wheel_folder: Path, project: Path = PROJECT) -> bytes:
    """The build context: a project's code and the wheels, nothing of the working tree besides."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path, name in _files(wheel_folder, project):
            entry = tarfile.TarInfo(name)
            entry.size = path.stat().st_size
            entry.mode = 0o644
            tar.addfile(entry, io.BytesIO(path.read_bytes()))
    return out.getvalue()


def _files(wheel_folder: Path, project: Path) -> Iterator[tuple[Path, str]]:
    for name in ("deploy/Dockerfile", "deploy/linkwire-runc", "pyproject.toml", "README.md", *LOCKS):
        if (project / name).exists():
            yield project / name, name
    for package in PACKAGES:
        if not (project / package).is_dir():
            raise LabError(f"{project} has no folder {package}")
        for path in sorted((project / package).rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                yield path, str(path.relative_to(project))
    for archive in sorted([*wheel_folder.glob("*.whl"), *wheel_folder.glob("*.tar.gz")]):
        yield archive, f"build/wheels/{archive.name}"
