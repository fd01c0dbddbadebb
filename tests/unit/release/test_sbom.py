"""The image's bill of materials names everything that is locked, as a library of SPDX's makers reads it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from tests.lab import images
from tests.support import released
from tests.support.locks import LOCKS, PROJECT, packages

EPOCH = 1_700_000_000
DEBIAN = (LOCKS / "debian-amd64.txt").read_text()
sbom = released.module("sbom")
pytestmark = pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the image's wheels are for its Python, 3.11")


@pytest.fixture(scope="module")
def written() -> bytes:
    folder = images.wheels()
    archives = [*folder.glob("*.whl"), *folder.glob("*.tar.gz")]
    whole = sbom.Package("linkwire", "0.1.0", licence="Apache-2.0")
    parts = [*sbom.debian_packages(DEBIAN), *sbom.python_packages(archives), *sbom.page_packages(PROJECT)]
    return bytes(sbom.document(whole, parts, EPOCH))


def test_spdx_tools_finds_nothing_wrong(written: bytes, tmp_path: Path) -> None:
    document, wrong = released.read_spdx(written, tmp_path)
    assert wrong == []
    assert document.creation_info.spdx_version == "SPDX-2.3"
    assert len(document.packages) > 150


@pytest.mark.parametrize(("before", "after"), [('"Apache-2.0"', '"Apatchy"'), ("SPDXRef-whole", "whole")])
def test_a_wrong_document_is_noticed(written: bytes, tmp_path: Path, before: str, after: str) -> None:
    _, wrong = released.read_spdx(written.decode().replace(before, after).encode(), tmp_path)
    assert wrong != []


def test_every_locked_package_is_listed(written: bytes, tmp_path: Path) -> None:
    document, _ = released.read_spdx(written, tmp_path)
    listed = {(package.name, package.version) for package in document.packages}
    locked = packages((LOCKS / "product.txt").read_text()).items()
    debian = {tuple(line.split()[:2]) for line in DEBIAN.splitlines()[1:]}
    assert len(locked) > 20
    assert len(debian) > 100
    assert (locked | debian) - listed == set()


def test_libraries_of_the_page_are_listed(written: bytes) -> None:
    _, *parts = json.loads(written)["packages"]
    (library,) = [part for part in parts if part.get("packageFileName", "").endswith(".js")]
    assert (library["name"], library["licenseDeclared"]) == ("cytoscape", "MIT")
    assert library["externalRefs"][0]["referenceLocator"] == f"pkg:npm/cytoscape@{library['versionInfo']}"


def test_every_listed_digest_is_a_locked_one(written: bytes) -> None:
    texts = (LOCKS / f"{name}.txt" for name in ("product", "build", "debian-amd64"))
    locked = set(re.findall("sha256:([0-9a-f]{64})", "".join(path.read_text() for path in texts)))
    locked |= set(re.findall("(?m)^[0-9a-f]{64}", (PROJECT / "deploy/ui/SHA256SUMS").read_text()))
    _, *parts = json.loads(written)["packages"]
    assert {part["checksums"][0]["checksumValue"] for part in parts} - locked == set()


def test_the_same_contents_give_same_bytes(written: bytes) -> None:
    whole = sbom.Package("linkwire", "0.1.0", licence="Apache-2.0")
    parts = sbom.debian_packages(DEBIAN)
    assert sbom.document(whole, parts, EPOCH) == sbom.document(whole, parts, EPOCH)
    other = json.loads(sbom.document(whole, parts[1:], EPOCH))["documentNamespace"]
    assert other != json.loads(sbom.document(whole, parts, EPOCH))["documentNamespace"]
    assert len(written) > len(sbom.document(whole, parts, EPOCH))


def test_the_debian_lock_names_digests() -> None:
    head, *lines = DEBIAN.splitlines()
    assert re.fullmatch(r"# Written by `make lock-base` of \d{4}-\d\d-\d\d: .*", head)
    assert [line for line in lines if not re.fullmatch(r"\S+ \S+ (all|amd64) sha256:[0-9a-f]{64}", line)] == []
    needed = re.findall(r'(?m)^LINKWIRE="(.*)"$', (PROJECT / "deploy/base-image.sh").read_text())[0].split()
    assert set(needed) - {line.split()[0] for line in lines} == set()
