"""Turns what `docker save` gives into a release's image: the same bytes for the same contents.

Docker writes the time of a build into every layer and into the configuration. Here no file is newer than the commit,
and the configuration holds nothing but what a container needs. The archive is an OCI image layout that `docker load`
takes too.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

KEPT = ("Env", "Cmd", "Entrypoint", "WorkingDir", "User")
XATTR = "SCHILY.xattr."
MEDIA = "application/vnd.oci.image."


@dataclass(frozen=True, slots=True)
class Digests:
    """Names of an image: Docker's ID, and the digest of its manifest as it is in the archive."""

    image: str
    manifest: str


def normalise(saved: Path, out: Path, tag: str, labels: Mapping[str, str], epoch: int) -> Digests:
    """Write the archive `out` of the one image of `saved`, with these labels.

    Raises:
        ValueError: `saved` has more than one image.
    """
    blobs: dict[str, bytes] = {}
    with tarfile.open(saved) as archive:
        image, *others = json.load(_member(archive, "manifest.json"))
        if others:
            raise ValueError(f"{saved} has more than one image")
        config = json.load(_member(archive, image["Config"]))
        layers = [_layer(_member(archive, name), epoch) for name in image["Layers"]]
    when = datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    settings = {name: config["config"][name] for name in KEPT if config["config"].get(name)}
    new = {
        "architecture": config["architecture"],
        "os": config["os"],
        "created": when,
        "config": settings | {"Labels": dict(labels)},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]},
        "history": [{"created": when, "created_by": "deploy/Dockerfile"} for _ in layers],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{MEDIA}manifest.v1+json",
        "config": _stored(blobs, _json(new), "config.v1+json"),
        "layers": [_stored(blobs, gzip.compress(layer, 6, mtime=0), "layer.v1.tar+gzip") for layer in layers],
    }
    top = _stored(blobs, _json(manifest), "manifest.v1+json")
    index = {"schemaVersion": 2, "manifests": [top | {"annotations": {"org.opencontainers.image.ref.name": tag}}]}
    files = {f"blobs/sha256/{digest}": data for digest, data in blobs.items()}
    paths = ["blobs/" + each["digest"].replace(":", "/") for each in (manifest["config"], *manifest["layers"])]
    files["manifest.json"] = _json([{"Config": paths[0], "RepoTags": [tag], "Layers": paths[1:]}])
    files |= {"index.json": _json(index), "oci-layout": _json({"imageLayoutVersion": "1.0.0"})}
    _write(out, files, epoch)
    return Digests(manifest["config"]["digest"], top["digest"])


def as_image(root: Path, out: Path, architecture: str) -> None:
    """Write a root file system as an image for `docker load`.

    `docker import` of 20.10 takes each one for the daemon's own processor, whatever its option says.
    """
    layer = root.read_bytes()
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        "history": [{"created_by": "deploy/base-image.sh"}],
    }
    manifest = [{"Config": "config.json", "RepoTags": None, "Layers": ["layer.tar"]}]
    _write(out, {"config.json": _json(config), "layer.tar": layer, "manifest.json": _json(manifest)}, 0)


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    file = archive.extractfile(name)
    if file is None:
        raise ValueError(f"{name} is no file")
    return file


def _layer(stream: IO[bytes], epoch: int) -> bytes:
    """A layer in which nothing tells when or by whom it was made; the order of files is Docker's: by name."""
    out = io.BytesIO()
    # Docker's layers may be compressed, and a layer's stream knows no negative seek.
    with tarfile.open(fileobj=stream, mode="r:*") as old, tarfile.open(fileobj=out, mode="w") as new:
        for entry in old:
            data = old.extractfile(entry) if entry.isreg() else None
            entry.mtime = min(int(entry.mtime), epoch)
            entry.uname = entry.gname = ""
            entry.pax_headers = {key: value for key, value in entry.pax_headers.items() if key.startswith(XATTR)}
            new.addfile(entry, data)
    return out.getvalue()


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _stored(blobs: dict[str, bytes], data: bytes, kind: str) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    blobs[digest] = data
    return {"mediaType": MEDIA + kind, "digest": f"sha256:{digest}", "size": len(data)}


def _write(out: Path, files: Mapping[str, bytes], epoch: int) -> None:
    with tarfile.open(out, "w") as archive:
        for name, data in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime, entry.mode = len(data), epoch, 0o644
            archive.addfile(entry, io.BytesIO(data))
