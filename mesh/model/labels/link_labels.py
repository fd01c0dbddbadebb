"""Codec of the links in a Swarm service's labels. Pure.

`decode` never raises, whatever the labels hold; it reads what `encode` wrote as the same records. The labels can also
be written by hand:

    linkwire.links=shop_db:db,shop_db:database,shop_cache      SERVICE[:ALIAS], comma separated
    linkwire.link.shop_db.ports=5432/tcp,9000-9010/udp
    linkwire.link.shop_db.key=shop_shop
    linkwire.link.shop_db.rotate=24h
    linkwire.expose=5432/tcp
    linkwire.strict=false                                      or true, or all
    linkwire.allow=proxy,blog_web                              who may link to it, see mesh.model.labels.consent
    linkwire.accept=*
    linkwire.from=proxy
"""

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from mesh.model.labels import consent
from mesh.model.labels.consent import ACCEPT, ALLOW, FROM, Consent
from mesh.model.labels.durations import MIN_ROTATE, format_duration, parse_duration, parse_rotation
from mesh.model.labels.ports import PortRange, merge

PREFIX = "linkwire."
LINKS = "linkwire.links"
LINK = "linkwire.link."
EXPOSE = "linkwire.expose"
STRICT = "linkwire.strict"
RENEW = "linkwire.renew"
"""Written by `docker linkwire rotate`: when its value changes, the keys of the service's links are renewed."""
ROLE = "linkwire.role"
"""Marks Linkwire's own containers and services (`agent`, `controller`); has no effect on links."""
DEPLOY = "linkwire.deploy"
"""The deployer's own words about a deploy, such as a pipeline's number, for the audit log; has no effect on links."""
GATE = "linkwire.gate"
"""Label of a container, not a service: unless it is `false`, the container starts only when its task is wired, on
nodes with the gate. On other nodes it is not placed with `true`, and starts at once with `auto`."""
GATE_READY = "linkwire.gate.ready"
"""Label of a container: comma separated services that must each have a ready task before it starts."""

MAX_VALUE = 64 * 1024
"""Characters in one label's value."""
MAX_LINKS = 1000
"""Entries in one service's `linkwire.links`."""
MAX_LABELS = 256 * 1024
"""Characters in all `linkwire.` labels of one service, names included."""
MAX_RANGES = 64
"""Port ranges in one label."""
MAX_ALL_RANGES = 4096
"""Port ranges in all links of one service: with MAX_LINKS its record stays below 500 kB, half of the limit of a
record, so that a node can restore it to an emptied store in base64."""
MAX_NAME = 63
"""Characters in a service's name (swarmkit manager/controlapi/common.go) or a part of an alias (RFC 1123, 2.1)."""

_MAX_ERRORS = 50
_MAX_SHOWN = 200
_MAX_ALIAS = 253  # RFC 1123 section 2.1 (255 octets on the wire)
_MAX_COMPARED = 128  # difflib is quadratic
# swarmkit's isValidDNSName, `^[a-zA-Z0-9](?:[-_]*[A-Za-z0-9]+)*$`, in a form that cannot backtrack for ever.
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?")
_ALIAS_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")
_TOKEN = re.compile(r"[0-9A-Za-z-]{1,64}")
_LINK_SETTINGS = ("ports", "key", "rotate")
STRICTNESS = {"true": (True, False), "false": (False, False), "all": (True, True)}
"""Value of `strict` -> `ServiceLabels.strict` and `closed`."""


@dataclass(frozen=True, slots=True)
class LinkLabel:
    """One link in the consumer's labels."""

    provider: str
    """Full Swarm service name, `shop_db`."""
    aliases: tuple[str, ...]
    """Names by which the consumer's tasks resolve the provider; at least one."""
    ports: tuple[PortRange, ...] = ()
    """Empty for the ports that the provider exposes, or all."""
    key: str | None = None
    """Name of the link key, scoped by its stack (`shop_shop`); None for a key of the link's own."""
    rotate: int | None = None
    """Seconds between two secrets of the link key; None for never."""


@dataclass(frozen=True, slots=True)
class ServiceLabels:
    """Content of one service's labels."""

    links: tuple[LinkLabel, ...] = ()
    expose: tuple[PortRange, ...] | None = None
    """Ports of a link that names none; None for all, () for none, also where the label cannot be read."""
    strict: bool = True
    """Whether nothing passes outside WireGuard between the service and others of the mesh."""
    closed: bool = False
    """`strict: all`: whether nothing comes in but over links and published ports, whoever sends it."""
    renew: str | None = None
    """Value of the last `docker linkwire rotate`."""
    consent: Consent = consent.SILENT


@dataclass(frozen=True, slots=True)
class LabelError:
    """A part of a label that was ignored, and the reason."""

    label: str
    value: str
    """The bad part, cut if long."""
    reason: str

    def __str__(self) -> str:
        return f"label {self.label!r}: {self.value!r}: {self.reason}"


def key_name(consumer: str, link: LinkLabel) -> str:
    """Return the name of a link's key: the one in its label, else one of the link's own.

    Names of services and of keys have no colon, so a named key never clashes with a link's own.

    Args:
        consumer: full name of the service with the link.
        link: from its labels.
    """
    return link.key if link.key is not None else f"{consumer}:{link.provider}"


def suggestion(word: str, names: Collection[str]) -> str:
    """Return `; did you mean 'db'?` when one of `names` resembles `word`, else an empty text."""
    near = nearest(word, names)
    return f"; did you mean {near!r}?" if near else ""


def nearest(word: str, names: Collection[str]) -> str:
    """Return the one of `names` that resembles `word` most; empty: none does."""
    if len(word) > _MAX_COMPARED:
        return ""
    # All labels share a prefix, which would make any two of them similar.
    lowered = {name.lower().removeprefix(PREFIX): name for name in names}
    near = difflib.get_close_matches(word.lower().removeprefix(PREFIX), lowered, n=1, cutoff=0.6)
    return lowered[near[0]] if near else ""


def check_service_name(name: str) -> None:
    """Apply Swarm's rule for service names, also used for link key names.

    Raises:
        ValueError: Swarm would refuse the name; the error quotes nothing.
    """
    if not name:
        raise ValueError("a name is missing")
    if len(name) > MAX_NAME:
        raise ValueError(f"a name has at most {MAX_NAME} characters, this one has {len(name)}")
    if not _NAME.fullmatch(name):
        raise ValueError("a name is made of letters, digits, '-' and '_', and begins and ends with a letter or digit")


def check_alias(alias: str) -> None:
    """Apply RFC 1123's rule for host names, with underscores as Docker allows them.

    Raises:
        ValueError: it is no host name, or a resolver would read it as an address.
    """
    parts = alias.split(".")
    if len(alias) > _MAX_ALIAS or any(len(part) > MAX_NAME for part in parts):
        raise ValueError(f"a host name has at most {_MAX_ALIAS} characters, {MAX_NAME} between two dots")
    if not all(_ALIAS_PART.fullmatch(part) for part in parts):
        raise ValueError(
            "not a host name: use letters, digits, '-' and '_', parts with dots between, and '-' only inside a part"
        )
    if _NUMBER.fullmatch(parts[-1]):
        raise ValueError("a program would take this name for an address: its last part must not be a number")
    if alias.lower() == "localhost":
        raise ValueError("localhost is the task itself")


def encode(labels: ServiceLabels) -> dict[str, str]:
    """Write the labels, without those that have their default.

    Raises:
        ValueError: `decode` would not read the same back (a bad name, a link without alias, two links to one
            provider, an alias of two providers, too many links).
    """
    entries: list[str] = []
    written: dict[str, str] = {}
    for link in labels.links:
        entries += [link.provider if alias == link.provider else f"{link.provider}:{alias}" for alias in link.aliases]
        if link.ports:
            written[f"{LINK}{link.provider}.ports"] = _join(link.ports)
        if link.key is not None:
            written[f"{LINK}{link.provider}.key"] = link.key
        if link.rotate is not None:
            written[f"{LINK}{link.provider}.rotate"] = format_duration(link.rotate)
    if entries:
        written[LINKS] = ",".join(entries)
    if labels.expose is not None:
        written[EXPOSE] = _join(labels.expose)
    strict = "all" if labels.closed else None if labels.strict else "false"
    others = ((STRICT, strict), (RENEW, labels.renew))
    written |= {label: value for label, value in others if value is not None} | labels.consent.encoded()
    read, errors = decode(written)
    if errors:
        raise ValueError("; ".join(str(error) for error in errors))
    if read != _canonical(labels):
        raise ValueError("labels cannot hold this: every link needs an alias, and every provider one link")
    return dict(sorted(written.items()))


def decode(labels: Mapping[str, str]) -> tuple[ServiceLabels, tuple[LabelError, ...]]:
    """Read the labels of one service; never raises.

    Bad parts are reported and ignored, and so opens nothing: a link without a good port range, or with too many, is
    ignored as a whole, since without ports it would be open to all; such a `linkwire.expose` reads as (), which lets
    nothing pass, not as None. Labels of others are skipped.
    """
    errors = _Errors()
    ours = {}
    shut = set()
    size = sum(len(label) + len(text) for label, text in labels.items() if label.lower().startswith(PREFIX))
    if size > MAX_LABELS:
        errors.add(PREFIX + "*", "", f"{size} characters in all, at most {MAX_LABELS} are allowed: all are left out")
        return ServiceLabels(expose=(), consent=consent.CLOSED), errors.all()
    for label in sorted(labels):
        if label.lower().startswith(PREFIX):
            if len(labels[label]) > MAX_VALUE:
                errors.add(label, labels[label], f"longer than {MAX_VALUE} characters")
                shut.add(label)
            else:
                ours[label] = labels[label]
    named = _decode_entries(ours.pop(LINKS, ""), errors)
    links = {
        provider: LinkLabel(provider, tuple(aliases))
        for provider, aliases in named.items()
        if aliases and f"{LINK}{provider}.ports" not in shut
    }
    expose = _decode_expose(ours.pop(EXPOSE, None), errors) if EXPOSE not in shut else ()
    strict, closed = _decode_strict(ours.pop(STRICT, "true"), errors)
    renew = _decode_renew(ours.pop(RENEW, None), errors)
    agreed = consent.decode(ours, shut, errors.add)
    ours.pop(ROLE, None)
    ours.pop(DEPLOY, None)
    for label, value in ours.items():
        provider, _, setting = label.removeprefix(LINK).rpartition(".")
        if not label.startswith(LINK) or setting not in _LINK_SETTINGS:
            errors.add(label, value, "no such label", label, _known(label, named))
        elif provider not in named:
            errors.add(label, value, f"{LINKS} names no service {provider[:_MAX_SHOWN]!r}", provider, named)
        elif provider in links:
            changed = _decode_setting(links[provider], label, setting, value, errors)
            if changed:
                links[provider] = changed
            else:
                del links[provider]
    found = tuple(_bounded(links, errors))
    return ServiceLabels(found, expose, strict, closed, renew, agreed), errors.all()


@dataclass(slots=True)
class _Errors:
    """Errors, no more than a person reads."""

    errors: list[LabelError] = field(default_factory=list)
    dropped: int = 0

    def add(self, label: str, value: str, reason: str, word: str = "", names: Collection[str] = ()) -> None:
        if len(self.errors) < _MAX_ERRORS:
            reason += suggestion(word, names)
            self.errors.append(LabelError(_cut(label), _cut(value), reason))
        else:
            self.dropped += 1

    def all(self) -> tuple[LabelError, ...]:
        if self.dropped:
            return (*self.errors, LabelError(PREFIX + "*", "", f"and {self.dropped} more errors"))
        return tuple(self.errors)


def _decode_entries(value: str, errors: _Errors) -> dict[str, list[str]]:
    """Read `linkwire.links` into aliases by provider; one with bad aliases only has an empty list."""
    named: dict[str, list[str]] = {}
    owners: dict[str, str] = {}  # lower-case alias -> provider: names resolve whatever their case
    entries = value.split(",") if value.strip() else []
    if len(entries) > MAX_LINKS:
        errors.add(LINKS, value, f"{len(entries)} links, at most {MAX_LINKS} are allowed: the rest is left out")
    for entry in entries[:MAX_LINKS]:
        provider, colon, alias = (part.strip() for part in entry.partition(":"))
        alias = alias if colon else provider
        try:
            check_service_name(provider)
            aliases = named.setdefault(provider, [])
            check_alias(alias)
        except ValueError as error:
            errors.add(LINKS, entry.strip(), str(error))
            continue
        owner = owners.setdefault(alias.lower(), provider)
        if owner != provider:
            errors.add(LINKS, entry.strip(), f"the alias {alias!r} is already that of {owner!r}")
        elif alias.lower() not in map(str.lower, aliases):
            aliases.append(alias)
    return named


def _decode_setting(link: LinkLabel, label: str, setting: str, value: str, errors: _Errors) -> LinkLabel | None:
    """Apply one `linkwire.link.PROVIDER.SETTING`; return None where the link has to be ignored."""
    if setting == "ports":
        ports = _decode_ports(label, value, errors)
        return replace(link, ports=ports) if ports else None
    try:
        if setting == "rotate":
            return replace(link, rotate=_decode_rotate(label, value, errors))
        check_service_name(value.strip())
    except ValueError as error:
        errors.add(label, value, str(error))
        return link
    return replace(link, key=value.strip())


def _decode_rotate(label: str, value: str, errors: _Errors) -> int:
    """Read a rotation; one that is too short is reported and becomes the shortest. Raises ValueError."""
    seconds = parse_duration(value)
    try:
        return parse_rotation(value)
    except ValueError as error:
        errors.add(label, value, f"{error}; until then it is {format_duration(MIN_ROTATE)}")
        return max(seconds, MIN_ROTATE)


def _bounded(links: Mapping[str, LinkLabel], errors: _Errors) -> Iterator[LinkLabel]:
    """Yield the links up to MAX_ALL_RANGES; report the others."""
    ranges = 0
    for provider, link in links.items():
        ranges += len(link.ports)
        if ranges <= MAX_ALL_RANGES:
            yield link
        else:
            text = f"{ranges} port ranges in the service's links, at most {MAX_ALL_RANGES} are allowed"
            errors.add(f"{LINK}{provider}.ports", _join(link.ports), text)
            ranges -= len(link.ports)


def _decode_ports(label: str, value: str, errors: _Errors) -> tuple[PortRange, ...]:
    ports: list[PortRange] = []
    for part in value.split(","):
        try:
            ports.append(PortRange.parse(part))
        except ValueError as error:
            errors.add(label, part.strip(), str(error))
    merged = merge(ports)
    if len(merged) > MAX_RANGES:
        errors.add(label, value, f"{len(merged)} port ranges, at most {MAX_RANGES} are allowed")
        return ()
    return merged


def _decode_expose(value: str | None, errors: _Errors) -> tuple[PortRange, ...] | None:
    """Read `linkwire.expose`: None without a label; an empty label exposes nothing."""
    if value is None:
        return None
    return _decode_ports(EXPOSE, value, errors) if value.strip() else ()


def _decode_strict(value: str, errors: _Errors) -> tuple[bool, bool]:
    """Return `ServiceLabels.strict` and `closed`."""
    text = value.strip().lower()
    if text not in STRICTNESS:
        errors.add(STRICT, value, "write true, false or all")
    return STRICTNESS.get(text, (True, False))


def _decode_renew(value: str | None, errors: _Errors) -> str | None:
    if value is not None and not _TOKEN.fullmatch(value):
        errors.add(RENEW, value, "not what docker linkwire rotate writes")
        return None
    return value


def _known(label: str, providers: Collection[str]) -> list[str]:
    """Return the possible labels, for a suggestion."""
    provider = label.removeprefix(LINK).rpartition(".")[0]
    settings = [f"{LINK}{provider}.{setting}" for setting in _LINK_SETTINGS] if provider in providers else []
    return [LINKS, EXPOSE, STRICT, RENEW, ALLOW, ACCEPT, FROM, *settings]


def _canonical(labels: ServiceLabels) -> ServiceLabels:
    links = tuple(replace(link, ports=merge(link.ports)) for link in labels.links)
    expose = None if labels.expose is None else merge(labels.expose)
    return replace(labels, links=links, expose=expose, consent=consent.canonical(labels.consent))


def _join(ports: tuple[PortRange, ...]) -> str:
    return ",".join(str(port) for port in merge(ports))


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."
