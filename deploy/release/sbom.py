"""Bills of materials of a release, as SPDX 2.3 in JSON: Debian packages, Python archives and the page's libraries.

Written from what was installed, not from the lock: a test holds the two against each other. The same contents give
the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.parser import Parser
from pathlib import Path
from urllib.parse import quote

NOT_SAID = "NOASSERTION"


@dataclass(frozen=True, slots=True)
class Package:
    """One archive that was put in, or the thing itself."""

    name: str
    version: str
    sha256: str = ""
    file: str = ""
    purl: str = ""
    licence: str = NOT_SAID

    @property
    def key(self) -> tuple[str, str]:
        """Name and version."""
        return self.name, self.version


def python_packages(archives: Iterable[Path]) -> list[Package]:
    """Wheels and source archives, by their names."""
    return sorted({_python_package(path) for path in archives}, key=lambda each: (each.name, each.file))


def _python_package(path: Path) -> Package:
    stem = path.name.removesuffix(".tar.gz") if path.name.endswith(".tar.gz") else path.stem
    written, version = stem.split("-")[:2] if path.suffix == ".whl" else stem.rsplit("-", 1)
    name = re.sub(r"[-_.]+", "-", written).lower()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    package = Package(name, version, digest, path.name, f"pkg:pypi/{name}@{quote(version, safe='')}")
    return replace(package, licence=_licence(path)) if path.suffix == ".whl" else package


def _licence(wheel: Path) -> str:
    with zipfile.ZipFile(wheel) as archive:
        [metadata] = [name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)]
        return Parser().parsestr(archive.read(metadata).decode())["License-Expression"] or NOT_SAID


def debian_packages(listed: str) -> list[Package]:
    """The lines of deploy/base-image.sh: name, version, architecture, digest."""
    packages = []
    for line in listed.splitlines():
        if not line.startswith("#"):
            name, version, architecture, digest = line.split()
            purl = (
                f"pkg:deb/debian/{quote(name, safe='')}@{quote(version, safe='')}?arch={architecture}&distro=bookworm"
            )
            packages.append(Package(name, version, digest.removeprefix("sha256:"), purl=purl))
    return packages


def page_packages(tree: Path) -> list[Package]:
    """JavaScript libraries of the page, by the lock and the files that are in the tree (deploy/ui/vendor.sh).

    Raises:
        KeyError: a library of the lock has no file in the tree.
    """
    lock = json.loads((tree / "deploy/ui/package-lock.json").read_text())["packages"]
    sums = dict(reversed(line.split()) for line in (tree / "deploy/ui/SHA256SUMS").read_text().splitlines())
    packages = []
    for path, said in sorted(lock.items()):
        name = path.removeprefix("node_modules/")
        if path and not said.get("dev"):
            file = f"compose_ext/ui/static/vendor/{name}.min.js"
            purl = f"pkg:npm/{quote(name, safe='/')}@{said['version']}"
            packages.append(Package(name, said["version"], sums[file], file, purl, said["license"]))
    return packages


def document(whole: Package, parts: Iterable[Package], epoch: int) -> bytes:
    """The SPDX document of one thing and its parts."""
    contained = [_entry(part, f"SPDXRef-part-{number}") for number, part in enumerate(parts)]
    top = _entry(whole, "SPDXRef-whole")
    seed = json.dumps([top, *contained], sort_keys=True)
    relations = [("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-whole")]
    relations += [("SPDXRef-whole", "CONTAINS", str(entry["SPDXID"])) for entry in contained]
    written = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"{whole.name} {whole.version}",
        "documentNamespace": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, seed)}",
        "creationInfo": {
            "created": datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "creators": ["Tool: linkwire-release"],
        },
        "packages": [top, *contained],
        "relationships": [
            {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}
            for one, kind, other in relations
        ],
    }
    return json.dumps(written, indent=1, sort_keys=True).encode() + b"\n"


def _entry(package: Package, identifier: str) -> dict[str, object]:
    entry: dict[str, object] = {
        "SPDXID": identifier,
        "name": package.name,
        "versionInfo": package.version,
        "downloadLocation": NOT_SAID,
        "filesAnalyzed": False,
        "licenseConcluded": NOT_SAID,
        "licenseDeclared": package.licence,
        "copyrightText": NOT_SAID,
        "supplier": NOT_SAID,
    }
    if package.sha256:
        entry["checksums"] = [{"algorithm": "SHA256", "checksumValue": package.sha256}]
    if package.file:
        entry["packageFileName"] = package.file
    if package.purl:
        reference = {
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": package.purl,
        }
        entry["externalRefs"] = [reference]
    return entry
