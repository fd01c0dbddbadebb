"""Docker secrets and configs of Linkwire: listed, made and removed. Swarm is the only place they are kept.

Docker never gives a secret back and never changes one. So each has a number at the end of its name, and what must be
known of it later (the verify key of a signing key's seed) stands in a label, made in the same step as the secret.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compose_ext.diagnostics import DockerError
from compose_ext.docker_cli import Docker
from compose_ext.swarm.queries import TIMEOUT

OWNER = "org.linkwire.owner"
"""The label of what `docker linkwire install` made, and nobody else's."""
SECRET, CONFIG = "secret", "config"

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

    @property
    def name(self) -> str:
        """Return its name in Docker."""
        return name_of(self.kind, self.number)


def name_of(kind: str, number: int) -> str:
    """Return the real name of the secret or config."""
    return f"linkwire_{kind}_{number}"


class DockerSecrets:
    """All secrets and configs of Linkwire, read once and updated with each one made or removed here."""

    def __init__(self, docker: Docker) -> None:
        """Read everything.

        Raises:
            DockerError: Docker does not answer, or there are names of ours that we did not make.
        """
        self._docker = docker
        self._all = [*_listed(docker, SECRET), *_listed(docker, CONFIG)]

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
        return max((secret.number for kind in kinds for secret in self.all(kind)), default=0) + 1

    def make(self, sort: str, kind: str, number: int, content: bytes, labels: Mapping[str, str] = {}) -> DockerSecret:
        """Make a secret or config; its content goes through a pipe to Docker, and is nowhere else.

        Raises:
            DockerError: it could not be made.
        """
        written = [f"--label={name}={value}" for name, value in {OWNER: "install", **labels}.items()]
        self._docker.ask([sort, "create", *written, name_of(kind, number), "-"], TIMEOUT, content)
        secret = DockerSecret(sort, kind, number, dict(labels), content if sort == CONFIG else b"")
        self._all.append(secret)
        return secret

    def remove(self, secret: DockerSecret) -> None:
        """Remove one that no service mounts.

        Raises:
            DockerError: a service mounts it.
        """
        self._docker.ask([secret.sort, "rm", secret.name], TIMEOUT)
        self._all.remove(secret)


def _listed(docker: Docker, sort: str) -> list[DockerSecret]:
    names = [name for name in docker.ask([sort, "ls", "--format", "{{.Name}}"], TIMEOUT).split() if is_ours(name)]
    if not names:
        return []
    found, foreign = [], []
    for spec in _specs(docker, sort, names):
        labels = spec.get("Labels") or {}
        match = _NUMBERED.fullmatch(str(spec["Name"]))
        if match is None or OWNER not in labels:
            foreign.append(str(spec["Name"]))
            continue
        content = b"" if sort == SECRET else _content(spec)
        found.append(DockerSecret(sort, match[1], int(match[2]), labels, content))
    if foreign:
        raise DockerError(
            f"the Swarm has the {sort} {foreign[0]}, which `docker linkwire install` did not make: what is in it "
            f"nobody can tell. Remove it: docker {sort} rm {' '.join(foreign)}"
        )
    return found


def _specs(docker: Docker, sort: str, names: Sequence[str]) -> list[dict[str, Any]]:
    try:
        return [one["Spec"] for one in json.loads(docker.ask([sort, "inspect", *names], TIMEOUT))]
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
