"""Validation of a project: its links against its services, aliases, keys and networks. No I/O here."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from compose_ext.diagnostics import Place, Problem, Report
from compose_ext.language import gated_services
from compose_ext.language.project import EXTENSION, LinkEntry, Project, Service
from mesh.model.labels.consent import ANYBODY
from mesh.model.labels.link_labels import check_alias, check_service_name
from mesh.model.labels.ports import PortRange

_HOST = ("host", "none")
"""Networks that give a task no network namespace of its own, or nothing but one."""
_NAMED = 8
"""Services that are named in place of one that does not exist."""


@dataclass(frozen=True, slots=True)
class Links:
    """The links that are sound, by consumer, with all services that have one at either end."""

    project: Project
    entries: dict[str, tuple[LinkEntry, ...]] = field(default_factory=dict)
    linked: frozenset[str] = frozenset()
    declared: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Service -> the parties outside these files from which it declares links to itself."""

    @property
    def count(self) -> int:
        """Number of links: a link is one consumer and one provider, whatever its aliases."""
        return sum(len({(entry.provider, entry.external) for entry in entries}) for entries in self.entries.values())

    @property
    def summary(self) -> str:
        """Say how many links there are between how many services."""
        external = {entry.provider for entries in self.entries.values() for entry in entries if entry.external}
        services = len(self.linked | external)
        if not services and not any(service.speaks for service in self.project.services.values()):
            return "no service has `links`, so there is nothing to wire"
        text = f"{self.count} link{'' if self.count == 1 else 's'} between {services} services"
        return f"{text}; {', '.join(sorted(self.declared))} with links from other stacks" if self.declared else text


def _others(project: Project, service: Service) -> str:
    """Name the other services, if they are few."""
    names = sorted(project.services.keys() - {service.name})
    return f"; there are: {', '.join(names)}" if 0 < len(names) <= _NAMED else ""


def _port_hint(entry: LinkEntry) -> str | None:
    """Say where ports stand, if an alias is one."""
    try:
        PortRange.parse(entry.alias)
    except ValueError:
        return None
    place = f"`{EXTENSION}: {{links: {{{entry.provider}: {{ports: [{entry.alias}]}}}}}}`"
    return f"this is an alias's place, and no port's: the ports of a link stand in {place}"


def check(project: Project, report: Report) -> Links:
    """Check every link against the rest of the project; problems go into the report."""
    checker = _Checker(project, report)
    declared = {name: checker.sources(service) for name, service in project.services.items()}
    entries = {name: checker.entries(service) for name, service in project.services.items()}
    ends = {name for name, found in entries.items() if found}
    ends |= {name for name, service in project.services.items() if declared[name] or service.accept is not None}
    ends |= {entry.provider for found in entries.values() for entry in found if not entry.external}
    for name in sorted(ends):
        checker.end(project.services[name])
    for name, found in entries.items():
        checker.options(project.services[name])
        checker.shared_networks(project.services[name], found)
    checker.unlinked_ports(entries)
    checker.unlinked_gates(ends)
    for problem in gated_services.problems(project, entries):
        report.add(problem)
    checker.unused_keys()
    declared = {name: parties for name, parties in declared.items() if parties}
    return Links(project, {name: found for name, found in entries.items() if found}, frozenset(ends), declared)


class _Checker:
    """Holds the project and the report while one service after the other is looked at."""

    def __init__(self, project: Project, report: Report) -> None:
        self._project = project
        self._report = report
        self._owners: dict[tuple[str, str], Service] | None = None

    def sources(self, service: Service) -> tuple[str, ...]:
        """Give each service of these files that `from` names a link; return the parties that are none of them."""
        outside: list[str] = []
        for source in service.sources:
            consumer = self._project.services.get(source.party)
            if source.party == ANYBODY:
                message = "'*': name the stack or the service that the links come from"
                self._error(service, f"{EXTENSION}.from", source.place, message)
            elif consumer is None:
                outside.append(source.party)
            elif not any(link.provider == service.name and not link.external for link in consumer.links):
                consumer.links.append(LinkEntry(service.name, service.name, external=False, place=source.place))
        return tuple(dict.fromkeys(outside))

    def entries(self, service: Service) -> tuple[LinkEntry, ...]:
        """Return those entries of a service's links that are sound."""
        owners: dict[str, LinkEntry] = {}  # lower-case alias -> entry: names resolve whatever their case
        return tuple(entry for entry in service.links if self._entry_is_sound(service, entry, owners))

    def _entry_is_sound(self, service: Service, entry: LinkEntry, owners: dict[str, LinkEntry]) -> bool:
        key = "external_links" if entry.external else "links"
        before = len(self._report)
        if not entry.external and entry.provider not in self._project.services:
            hint = self._report.suggestion(entry.provider, self._project.services)
            if not hint and "_" in entry.provider:
                hint = "; a service of another stack stands in `external_links`"
            hint = hint or _others(self._project, service)
            self._error(service, key, entry.place, f"no service {entry.provider!r} in these files{hint}")
            if entry.alias == entry.provider:
                return False
        elif entry.external:
            if entry.provider in self._project.services:
                message = f"{entry.provider!r} is a service of these files: write it in `links`"
                self._error(service, key, entry.place, message)
            self._check_name(service, key, entry.place, entry.provider)
        try:
            check_alias(entry.alias)
        except ValueError as error:
            self._error(service, key, entry.place, f"the alias {entry.alias!r}: {_port_hint(entry) or error}")
        owner = owners.setdefault(entry.alias.lower(), entry)
        if (owner.provider, owner.external) != (entry.provider, entry.external):
            message = f"the alias {entry.alias!r} is already that of {owner.provider!r} ({owner.place})"
            self._error(service, key, entry.place, message)
        return len(self._report) == before

    def end(self, service: Service) -> None:
        """Check a service that has a link at either end."""
        self._check_name(service, None, service.place, service.name)
        if service.network_mode:
            message = "docker stack deploy ignores it; name `networks` instead"
            self._warn(service, "network_mode", service.network_mode, message)
        for name, place in self._project.attached(service).items():
            network = self._project.networks.get(name)
            if network and network.external and (network.name or name) in _HOST:
                message = (
                    f"{network.name or name!r} leaves the tasks without a network of their own: WireGuard needs one"
                )
                self._error(service, "networks", place, message)

    def options(self, service: Service) -> None:
        """Check `x-wireguard.links` of a service against its links and the keys."""
        providers = list(dict.fromkeys(entry.provider for entry in service.links))
        aliases = {entry.alias: entry.provider for entry in service.links}
        for provider, options in service.options.items():
            if provider not in providers:
                hint = self._report.suggestion(provider, providers) or "; add it to `links` or `external_links`"
                if provider in aliases:
                    hint = f": it is an alias of {aliases[provider]!r}, and that is what to write here"
                message = f"{provider!r} is not in this service's links{hint}"
                self._error(service, f"{EXTENSION}.links", options.place, message)
            if options.key is not None and options.key not in self._project.keys:
                hint = self._report.suggestion(options.key, self._project.keys)
                hint = hint or f"; define it at the top: `{EXTENSION}: {{keys: {{{options.key}: {{}}}}}}`"
                path = f"{EXTENSION}.links.{provider}.key"
                self._error(service, path, options.key_place, f"no link key {options.key!r}{hint}")

    def shared_networks(self, service: Service, entries: tuple[LinkEntry, ...]) -> None:
        """Warn where Docker itself resolves a link's name, and carries what goes there in plain text.

        Not on the default network where the files do not configure it: that every service of a stack is on it is how
        Docker makes stacks, and nobody's choice.
        """
        attached = self._project.attached(service)
        for name, place in attached.items():
            for entry in entries:
                owner = self._owner(entry, name)
                if owner is None or owner is service:
                    continue
                of_another = "" if owner.name == entry.alias else f" (a name of {owner.name!r} there)"
                message = (
                    f"{entry.alias!r}{of_another} is on {name!r} too: until a task is wired, or if it never is, "
                    "that name leads there, in plain text"
                )
                self._warn(service, "networks", place, message)

    def _owner(self, entry: LinkEntry, network: str) -> Service | None:
        """Return the service to which Docker resolves a link's alias on a network, if there is one."""
        alias = entry.alias.lower()
        if self._owners is None:
            self._owners = {}
            for service in self._project.services.values():
                for name in self._project.attached(service):
                    self._owners.setdefault((name, service.name.lower()), service)
                    for other in service.network_aliases.get(name, ()):
                        self._owners.setdefault((name, other), service)
        return self._owners.get((network, alias))

    def unlinked_ports(self, entries: Mapping[str, tuple[LinkEntry, ...]]) -> None:
        """Warn of `expose` that no link of these files reads."""
        providers = {entry.provider for found in entries.values() for entry in found}
        for service in self._project.services.values():
            if service.expose and service.expose_place and not service.sources and service.name not in providers:
                message = "no link here leads to this service: only links of other stacks heed it"
                self._warn(service, f"{EXTENSION}.expose", service.expose_place, message)
        self._docker_exposes(entries)

    def _docker_exposes(self, entries: Mapping[str, tuple[LinkEntry, ...]]) -> None:
        """Warn of Docker's `expose` where a link opens every port, which it seems to limit."""
        for consumer, found in entries.items():
            options = self._project.services[consumer].options
            for entry in found:
                provider = self._project.services.get(entry.provider)
                if provider is None or entry.external or not provider.docker_expose or provider.expose:
                    continue
                if entry.provider not in options or not options[entry.provider].ports:
                    message = (
                        f"this limits nothing, and links reach every port: write it under `{EXTENSION}:`, "
                        "so that they reach these alone"
                    )
                    self._warn(provider, "expose", provider.docker_expose, message)

    def unlinked_gates(self, ends: AbstractSet[str]) -> None:
        """Warn of services that wait for a link which these files do not give them."""
        for service in self._project.services.values():
            if service.gate == "true" and service.name not in ends and service.gate_place:
                message = (
                    "no link here has this service at either end: it never starts, unless another stack links to it"
                )
                self._warn(service, f"{EXTENSION}.gate", service.gate_place, message)

    def unused_keys(self) -> None:
        """Warn of link keys that no link uses."""
        used = {option.key for service in self._project.services.values() for option in service.options.values()}
        for name, key in self._project.keys.items():
            if name not in used:
                self._report.add(
                    Problem("no link uses this key", place=key.place, key=f"{EXTENSION}.keys.{name}", warning=True)
                )

    def _check_name(self, service: Service, key: str | None, place: Place, name: str) -> None:
        try:
            check_service_name(name)
        except ValueError as error:
            self._error(service, key, place, f"{name!r} cannot name a Swarm service: {error}")

    def _error(self, service: Service, key: str | None, place: Place | None, message: str) -> None:
        self._report.add(Problem(message, place=place, service=service.name, key=key))

    def _warn(self, service: Service, key: str, place: Place, message: str) -> None:
        self._report.add(Problem(message, place=place, service=service.name, key=key, warning=True))
