"""Docker secrets and configs of Linkwire: listed, made and removed. Swarm is the only place they are kept.

Docker never gives a secret back and never changes one. So each has a number at the end of its name, and what must be
known of it later (the verify key of a signing key's seed) stands in a label, made in the same step as the secret.

A name and a label prove nothing: anybody who may create secrets could have made them. Ours are those whose ids the
services of our stack mount, and those that are recorded (compose_ext.secrets.made_secrets).
"""

import base64
import binascii
import json
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compose_ext.diagnostics import DockerError
from compose_ext.docker_cli import Docker
from compose_ext.secrets import made_secrets
from compose_ext.swarm.installation import NOTHING_DEPLOYED, Deployed
from compose_ext.swarm.listings import TIMEOUT

OWNER = "org.linkwire.owner"
"""The label of what `docker linkwire install` made, and nobody else's."""
SECRET, CONFIG = "secret", "config"
AUTHORITY = "etcd_ca"
"""The kind of a config with an authority's certificate."""

_NUMBERED = re.compile(r"linkwire_([a-z_]+)_([1-9][0-9]{0,8})")


@dataclass(frozen=True, slots=True)
class DockerSecret:
    """A secret or config in the Swarm; nobody can read a secret's content back."""

    sort: str
    """`secret` or `config`."""
    kind: str
    """`signing_seed`, `link_seed`, `verify_keys`, ..."""
    number: int
    labels: Mapping[str, str]
    content: bytes
    """Of a config; a secret's is empty."""
    id: str = ""
    """Docker's own."""

    @property
    def name(self) -> str:
        """Return its name in Docker."""
        return name_of(self.kind, self.number)


def name_of(kind: str, number: int) -> str:
    """Return the real name of the secret or config."""
    return f"linkwire_{kind}_{number}"


class DockerSecrets:
    """All secrets and configs of Linkwire, read once and updated with each one made or removed here."""

    def __init__(self, docker: Docker, before: Deployed = NOTHING_DEPLOYED) -> None:
        """Read everything.

        Args:
            docker: a manager's.
            before: our stack as it is.

        Raises:
            DockerError: Docker does not answer.
        """
        self._docker = docker
        found = [*_listed(docker, SECRET), *_listed(docker, CONFIG)]
        ids = made_secrets.recorded(docker) | before.mounted_ids
        numbers = {one.number for one in found if one.id in before.mounted_ids and one.sort == SECRET}
        trusted = b"".join(one.content for one in found if one.id in before.mounted_ids)
        self._all = [one for one in found if one.id in ids or _is_trusted(one, numbers, trusted)]
        self._strangers = [one for one in found if one not in self._all]

    @property
    def strangers(self) -> list[DockerSecret]:
        """Those with our names that are not ours: nothing is ever taken from them."""
        return list(self._strangers)

    def all(self, kind: str) -> list[DockerSecret]:
        """Return all of a kind, the oldest first."""
        return sorted((secret for secret in self._all if secret.kind == kind), key=lambda secret: secret.number)

    def everything(self) -> list[DockerSecret]:
        """Return all of them."""
        return list(self._all)

    def find(self, kind: str, number: int) -> DockerSecret | None:
        """Return one by kind and number; None where there is none."""
        return next((secret for secret in self.all(kind) if secret.number == number), None)

    def next_number(self, *kinds: str) -> int:
        """Return a number that none of these kinds has in the Swarm."""
        number = max((secret.number for kind in kinds for secret in self.all(kind)), default=0) + 1
        taken = {secret.name for secret in self._strangers}
        while any(name_of(kind, number) in taken for kind in kinds):
            number += 1
        return number

    def make(self, sort: str, kind: str, number: int, content: bytes, labels: Mapping[str, str] = {}) -> DockerSecret:
        """Make a secret or config; its content goes through a pipe to Docker, and is nowhere else.

        Raises:
            DockerError: it could not be made.
        """
        written = [f"--label={name}={value}" for name, value in {OWNER: "install", **labels}.items()]
        found = self._docker.ask([sort, "create", *written, name_of(kind, number), "-"], TIMEOUT, content).strip()
        secret = DockerSecret(sort, kind, number, dict(labels), content if sort == CONFIG else b"", found)
        self._all.append(secret)
        self.record()
        return secret

    def record(self) -> None:
        """Record which are ours, for a run that goes on where this one is broken off. Raises DockerError."""
        made_secrets.record(self._docker, [secret.id for secret in self._all])

    def replaced(self, now: Deployed) -> list[str]:
        """Return the names that our services mount with other ids than ours: somebody put another in its place."""
        ids = {secret.id for secret in self._all}
        return sorted(name for name, found in now.mounted_names.items() if is_ours(name) and found not in ids)

    def remove(self, secret: DockerSecret) -> None:
        """Remove one that no service mounts.

        Raises:
            DockerError: a service mounts it.
        """
        self._docker.ask([secret.sort, "rm", secret.id], TIMEOUT)
        self._all.remove(secret)


def _listed(docker: Docker, sort: str) -> list[DockerSecret]:
    names = [name for name in docker.ask([sort, "ls", "--format", "{{.Name}}"], TIMEOUT).split() if is_ours(name)]
    if not names:
        return []
    found = []
    for identity, spec in _specs(docker, sort, names):
        match = _NUMBERED.fullmatch(str(spec["Name"]))
        if match is not None:
            content = b"" if sort == SECRET else _content(spec)
            found.append(DockerSecret(sort, match[1], int(match[2]), spec.get("Labels") or {}, content, identity))
    return found


def _is_trusted(secret: DockerSecret, numbers: Container[int], trusted: bytes) -> bool:
    """Tell whether a config, of an install before there was a record, is the authority of certificates in use.

    No service mounts it, but a config with what is in it.
    """
    authority = secret.sort == CONFIG and secret.kind == AUTHORITY and secret.number in numbers
    return authority and bool(secret.content) and secret.content in trusted


def _specs(docker: Docker, sort: str, names: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    try:
        return [(str(one["ID"]), one["Spec"]) for one in json.loads(docker.ask([sort, "inspect", *names], TIMEOUT))]
    except (ValueError, KeyError, TypeError) as error:
        raise DockerError(f"unexpected answer of docker ({type(error).__name__}: {error})") from None


def _content(spec: Mapping[str, Any]) -> bytes:
    try:
        return base64.b64decode(str(spec.get("Data") or ""))
    except binascii.Error:
        return b""


def is_ours(name: str) -> bool:
    """Whether a name has our form."""
    return _NUMBERED.fullmatch(name) is not None
