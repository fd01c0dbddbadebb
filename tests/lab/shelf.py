"""Pushed images, kept for the registries of all labs of this machine: built, packed and pushed once, then copied.

What is kept is a registry's own files (docker-registry's layout of a folder: blobs by digest, links by name), so the
copy is as good as a push, and every node pulls and checks it by its digests as ever.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

KEPT = 3
"""Versions of an image that stay: of two working trees, and the one before."""
_ROOT = Path("docker/registry/v2")


@dataclass(frozen=True, slots=True)
class Shelf:
    """The kept versions of one image. Its user holds a lock while he works on it.

    Attributes:
        folder: a folder for each version, named after what it was made from.
        repository: the image's name in a registry.
        tag: of the image.
    """

    folder: Path
    repository: str
    tag: str

    def take(self, key: str, data: Path) -> bool:
        """Copy a version into a registry's folder; whether it was there."""
        kept = self.folder / key
        if not kept.is_dir():
            return False
        current = _ROOT / "repositories" / self.repository / "_manifests/tags" / self.tag / "current/link"
        if not (data / current).exists() or (data / current).read_text() != (kept / current).read_text():
            shutil.copytree(kept, data, dirs_exist_ok=True)
        kept.touch()
        return True

    def put(self, key: str, data: Path) -> None:
        """Keep what a registry has by the image's name, and forget the versions that were used least lately."""
        fresh = self.folder / f"{key}.new"
        shutil.rmtree(fresh, ignore_errors=True)
        for file in self._files(data):
            target = fresh / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(data / file, target)
        fresh.rename(self.folder / key)  # it appears as a whole
        by_age = sorted(self.folder.iterdir(), key=lambda kept: kept.stat().st_mtime)
        for old in by_age[:-KEPT]:
            shutil.rmtree(old)

    def _files(self, data: Path) -> Iterator[Path]:
        """What a registry needs to answer for the image, relative to its folder."""
        named = _ROOT / "repositories" / self.repository
        tag = named / "_manifests/tags" / self.tag
        manifest_digest = (data / tag / "current/link").read_text()
        manifest = json.loads((data / _blob(manifest_digest)).read_text())
        yield from (tag / "current/link", tag / "index" / _nested(manifest_digest) / "link")
        yield from (_blob(manifest_digest), named / "_manifests/revisions" / _nested(manifest_digest) / "link")
        for digest in {part["digest"] for part in (manifest["config"], *manifest["layers"])}:
            yield from (_blob(digest), named / "_layers" / _nested(digest) / "link")


def _nested(digest: str) -> Path:
    """sha256:abc... as sha256/abc..."""
    return Path(*digest.split(":", 1))


def _blob(digest: str) -> Path:
    algorithm, text = digest.split(":", 1)
    return _ROOT / "blobs" / algorithm / text[:2] / text / "data"
