"""The shelf of pushed images: what it keeps of a registry's folder, and for how long."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from tests.lab.shelf import KEPT, Shelf

V2 = Path("docker/registry/v2")


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def blob(data: Path, text: str) -> str:
    """Put a blob into a registry's folder; its digest."""
    found = hashlib.sha256(text.encode()).hexdigest()
    write(data / V2 / "blobs/sha256" / found[:2] / found / "data", text)
    return f"sha256:{found}"


def push(data: Path, layers: list[str]) -> None:
    """What docker-registry 2.8 writes for a push of shop:dev."""
    named = data / V2 / "repositories/shop"
    parts = [blob(data, text) for text in ("config", *layers)]
    manifest = {"config": {"digest": parts[0]}, "layers": [{"digest": one} for one in parts[1:]]}
    digest = blob(data, json.dumps(manifest))
    for part in parts:
        write(named / "_layers" / part.replace(":", "/") / "link", part)
    write(named / "_manifests/revisions" / digest.replace(":", "/") / "link", digest)
    write(named / "_manifests/tags/dev/current/link", digest)
    write(named / "_manifests/tags/dev/index" / digest.replace(":", "/") / "link", digest)


def files(data: Path) -> dict[str, str]:
    return {str(path.relative_to(data)): path.read_text() for path in data.rglob("*") if path.is_file()}


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    (tmp_path / "shelf").mkdir()
    return Shelf(tmp_path / "shelf", "shop", "dev")


def test_another_registry_gets_the_whole_image_only(shelf: Shelf, tmp_path: Path) -> None:
    push(tmp_path / "one", ["base", "program"])
    pushed = files(tmp_path / "one")
    blob(tmp_path / "one", "another image's")
    shelf.put("first", tmp_path / "one")
    assert shelf.take("first", tmp_path / "other")
    assert files(tmp_path / "other") == pushed


def test_version_on_the_shelf_takes_olders_place(shelf: Shelf, tmp_path: Path) -> None:
    for key in ("old", "new"):
        push(tmp_path / key, ["base", key])
        shelf.put(key, tmp_path / key)
        assert shelf.take(key, tmp_path / "other")
        tag = V2 / "repositories/shop/_manifests/tags/dev/current/link"
        assert (tmp_path / "other" / tag).read_text() == (tmp_path / key / tag).read_text()


def test_only_versions_used_last_are_kept(shelf: Shelf, tmp_path: Path) -> None:
    push(tmp_path / "one", ["base"])
    keys = [f"v{number}" for number in range(KEPT + 1)]
    for age, key in enumerate(keys[:-1]):
        shelf.put(key, tmp_path / "one")
        os.utime(shelf.folder / key, (age, age))
    assert shelf.take("v0", tmp_path / "other"), "from now on it is the one used last"
    shelf.put(keys[-1], tmp_path / "one")
    assert {kept.name for kept in shelf.folder.iterdir()} == set(keys) - {"v1"}
    assert not shelf.take("v1", tmp_path / "other")
