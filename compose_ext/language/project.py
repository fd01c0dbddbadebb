"""Records of the links in a set of compose files: made by reading, compiled into labels. No I/O here."""

from dataclasses import dataclass, field
from typing import Literal

from compose_ext.diagnostics import Place
from compose_ext.document.networks import DEFAULT
from mesh.model.labels.ports import PortRange

EXTENSION = "x-wireguard"
Gate = Literal["auto", "true", "false", "ready"]
"""When a linked service's tasks start: `auto`, held until wired where the node has the gate; `true`, the same,
and only placed there; `false`, at once; `ready`, held until each of its providers is ready as well."""


@dataclass(frozen=True, slots=True)
class LinkEntry:
    """One entry of `links` or `external_links`."""

    provider: str
    """A service of these files; if external the full name of a Swarm service."""
    alias: str
    external: bool
    place: Place


@dataclass(frozen=True, slots=True)
class Source:
    """One entry of `x-wireguard.from`."""

    party: str
    """A service of these files, else a party (mesh.model.labels.consent)."""
    place: Place


@dataclass(slots=True)
class LinkOptions:
    """The options under `x-wireguard.links.PROVIDER`, merged over all files."""

    place: Place
    ports: list[PortRange] = field(default_factory=list)
    key: str | None = None
    key_place: Place | None = None
    ready: Place | None = None
    """Where it says that the consumer is held until the provider is ready; None: it does not."""


@dataclass(slots=True)
class KeyDefinition:
    """One of the top-level `x-wireguard.keys`."""

    place: Place
    rotate: int | None = None
    """Seconds."""


@dataclass(slots=True)
class Service:
    """One service, all files together."""

    name: str
    place: Place
    links: list[LinkEntry] = field(default_factory=list)
    options: dict[str, LinkOptions] = field(default_factory=dict)
    expose: list[PortRange] = field(default_factory=list)
    allow: list[str] | None = None
    """Parties that may link to it; None: not given."""
    accept: list[str] | None = None
    """Parties whose links it takes; None: not given."""
    sources: list[Source] = field(default_factory=list)
    speaks: bool = False
    """Whether it has an `x-wireguard` of its own."""
    strict: bool | None = None
    """None: not given."""
    closed: bool = False
    """`strict: all`."""
    gate: Gate | None = None
    """None: not given, which is `auto`."""
    gate_place: Place | None = None
    healthy: dict[str, Place] = field(default_factory=dict)
    """Services that `depends_on` wants healthy before this one starts."""
    long_depends: list[Place] = field(default_factory=list)
    """Where `depends_on` stands in its long form."""
    expose_place: Place | None = None
    networks: dict[str, Place] = field(default_factory=dict)
    """Those that it names, each with where."""
    network_aliases: dict[str, set[str]] = field(default_factory=dict)
    """Network -> further names of this service there."""
    network_mode: Place | None = None
    docker_expose: Place | None = None
    """Where Docker's own `expose` stands, which opens and closes nothing."""


@dataclass(slots=True)
class Network:
    """One of the top-level `networks`, as far as it matters here."""

    place: Place
    external: bool = False
    name: str | None = None


@dataclass(slots=True)
class Project:
    """All services, networks and link keys of the files, as far as links go."""

    version: str | None = None
    """As the files have it; None: they have none."""
    keys: dict[str, KeyDefinition] = field(default_factory=dict)
    services: dict[str, Service] = field(default_factory=dict)
    networks: dict[str, Network] = field(default_factory=dict)

    def attached(self, service: Service) -> dict[str, Place]:
        """Return the networks that a service is on, as far as the files say it, each with where.

        A `default` that the files configure counts as named by every service that names none.
        """
        default = self.networks.get(DEFAULT)
        return service.networks or ({DEFAULT: default.place} if default else {})
