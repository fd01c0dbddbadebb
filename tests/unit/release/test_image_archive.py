"""The release's image archive: the same bytes whenever Docker built it, others for other contents."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from tests.support import released

EPOCH = 1_700_000_000
LABELS = {"org.opencontainers.image.revision": "0123"}
image = released.module("image")


def layer(now: int, text: bytes, owner: str) -> bytes:
    """One layer as a Docker of some machine at some time writes it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        entries = {"opt/": tarfile.DIRTYPE, "opt/file": tarfile.REGTYPE, "opt/link": tarfile.SYMTYPE}
        for name, kind in entries.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.mtime, entry.uname, entry.mode = kind, now, owner, 0o755
            entry.pax_headers = {"atime": str(now + 0.25), "SCHILY.xattr.security.capability": "\x01"}
            entry.linkname = "file" if kind == tarfile.SYMTYPE else ""
            entry.size = len(text) if kind == tarfile.REGTYPE else 0
            tar.addfile(entry, io.BytesIO(text))
    return out.getvalue()


def saved(path: Path, now: int, text: bytes = b"text", owner: str = "root") -> Path:
    """What `docker save` of 20.10 writes."""
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": f"{now}",
        "container": f"{now}",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"], "Hostname": f"{now}", "Image": f"sha256:{now}"},
        "history": [{"created": f"{now}"}],
        "rootfs": {"type": "layers", "diff_ids": ["sha256:0"]},
    }
    files = {
        "c.json": json.dumps(config).encode(),
        "l/layer.tar": layer(now, text, owner),
        "manifest.json": json.dumps([{"Config": "c.json", "RepoTags": None, "Layers": ["l/layer.tar"]}]).encode(),
    }
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(data), now
            tar.addfile(entry, io.BytesIO(data))
    return path


def archive(folder: Path, now: int, text: bytes = b"text", owner: str = "root") -> tuple[bytes, str]:
    out = folder / "image.tar"
    digests = image.normalise(saved(folder / "saved.tar", now, text, owner), out, "linkwire:1", LABELS, EPOCH)
    return out.read_bytes(), digests.image


def test_two_builds_of_one_content_are_equal(tmp_path: Path) -> None:
    first, name = archive(tmp_path, EPOCH + 1)
    assert archive(tmp_path, EPOCH + 86_400, owner="someone") == (first, name)


def test_another_content_is_another_image(tmp_path: Path) -> None:
    _, name = archive(tmp_path, EPOCH + 1)
    assert archive(tmp_path, EPOCH + 1, text=b"next")[1] != name
    # An older file keeps its time: it comes from a package.
    assert archive(tmp_path, EPOCH - 1)[1] != name


def test_the_archive_is_an_oci_layout(tmp_path: Path) -> None:
    data, name = archive(tmp_path, EPOCH + 1)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        files = {entry.name: tar.extractfile(entry) for entry in tar}
        blobs = {path: file.read() for path, file in files.items() if file}
    for path, blob in blobs.items():
        if path.startswith("blobs/"):
            assert path == f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}"
    manifest = json.loads(
        blobs["blobs/" + json.loads(blobs["index.json"])["manifests"][0]["digest"].replace(":", "/")]
    )
    assert manifest["config"]["digest"] == name
    config = json.loads(blobs["blobs/" + name.replace(":", "/")])
    assert config["config"] == {"Env": ["PATH=/bin"], "Cmd": ["sh"], "Labels": LABELS}
    assert config["created"] == "2023-11-14T22:13:20Z"
    compressed = blobs["blobs/" + manifest["layers"][0]["digest"].replace(":", "/")]
    assert compressed[4:8] == bytes(4), "gzip's header has a time"
    with tarfile.open(fileobj=io.BytesIO(compressed)) as tar:
        [held] = [entry for entry in tar if entry.isreg()]
    assert (held.mtime, held.pax_headers["SCHILY.xattr.security.capability"]) == (EPOCH, "\x01")


@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
def test_a_root_becomes_an_image_of_its_processor(tmp_path: Path, architecture: str) -> None:
    """Docker builds on it, and the release's image says the same."""
    root = tmp_path / "root.tar"
    root.write_bytes(layer(EPOCH, b"text", "root"))
    image.as_image(root, tmp_path / "saved.tar", architecture)
    with tarfile.open(tmp_path / "saved.tar") as tar:
        config = json.loads(read(tar, "config.json"))
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(root.read_bytes()).hexdigest()}"]
    digests = image.normalise(tmp_path / "saved.tar", tmp_path / "image.tar", "linkwire:1", LABELS, EPOCH)
    with tarfile.open(tmp_path / "image.tar") as tar:
        made = json.loads(read(tar, "blobs/" + digests.image.replace(":", "/")))
    assert (made["architecture"], made["os"]) == (architecture, "linux")


def read(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    assert file is not None
    return file.read()
