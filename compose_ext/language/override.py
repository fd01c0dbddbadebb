"""The override: checked links, compiled into one more compose file for `docker stack deploy`. No I/O here."""

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from compose_ext.diagnostics import Place, Problem, Report
from compose_ext.document.interpolate import escape
from compose_ext.language import gated_services
from compose_ext.language.project import EXTENSION, LinkEntry, LinkOptions, Service
from compose_ext.language.validation import Links
from mesh.model.labels.consent import Consent
from mesh.model.labels.link_labels import GATE, GATE_READY, MAX_NAME, LinkLabel, ServiceLabels, encode
from mesh.model.labels.ports import merge

Override = dict[str, Any]
"""A compose file as plain dicts: `version` and `services`."""
_SHORTEST = "s"
"""Stands for the name of a stack that is not known."""

GATED_NODE = "node.labels.linkwire.gate == true"
"""The constraint for services that run on nodes with the gate alone: `docker linkwire gate install` labels these."""
# A text of this form is one for every YAML reader, unless it is one of the words below.
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_NOT_PLAIN = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})


def compile_override(links: Links, stack: str, report: Report) -> Override:
    """Return what has to be added to the user's files when they are deployed as `stack`.

    Labels, and nothing else: each service stays on the networks that it has without Linkwire (decision 31).
    """
    linked = _linked(links, stack)
    before = len(report)
    _check_lengths(links, linked, stack, report)
    if len(report) > before:
        return {}
    services: dict[str, Any] = {}
    for name, service in links.project.services.items():
        added: dict[str, Any] = {}
        labels = _labels(links, service, stack, report, linked=name in linked)
        if labels:
            added["deploy"] = {"labels": {label: escape(value) for label, value in labels.items()}}
        gate = _gate_labels(links, service, stack, linked=name in linked)
        if gate:
            added["labels"] = gate
        if service.gate == "true":
            added.setdefault("deploy", {})["placement"] = {"constraints": [GATED_NODE]}
        if added:
            services[name] = added
    override: Override = {} if links.project.version is None else {"version": links.project.version}
    if services:
        override["services"] = services
    return override


def check_labels(links: Links, report: Report) -> None:
    """Report what no stack could write as labels, whatever its name: too many links, values that are too long."""
    for service in links.project.services.values():
        _labels(links, service, _SHORTEST, report, linked=True)


def dump(override: Override) -> str:
    """Write an override as YAML that every reader reads alike, 1.1 and 1.2, and people too."""
    import yaml  # noqa: PLC0415 - see compose_ext.plugin: what Docker asks at every --help must be quick

    class Dumper(yaml.SafeDumper):
        """Quotes every text that some YAML version takes for something else."""

        def ignore_aliases(self, _data: object) -> bool:
            return True

    def represent(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
        plain = _PLAIN.fullmatch(text) and text.lower() not in _NOT_PLAIN
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')

    Dumper.add_representer(str, represent)
    return str(yaml.dump(override, Dumper=Dumper, sort_keys=False, width=10**9))


def _labels(links: Links, service: Service, stack: str, report: Report, *, linked: bool) -> dict[str, str]:
    aliases: dict[str, dict[str, str]] = {}  # provider -> lower-case alias -> alias: files may repeat each other
    options: dict[str, LinkOptions] = {}
    named: dict[str, str] = {}  # provider -> the name under which its options stand
    for entry in links.entries.get(service.name, ()):
        provider = _full_name(entry, stack)
        aliases.setdefault(provider, {}).setdefault(entry.alias.lower(), entry.alias)
        if entry.provider in service.options:
            options[provider] = service.options[entry.provider]
            if named.setdefault(provider, entry.provider) != entry.provider:
                message = f"{named[provider]!r} and {entry.provider!r} are one service in this stack: set it up once"
                place, key = options[provider].place, f"{EXTENSION}.links"
                report.add(Problem(message, place=place, service=service.name, key=key))
    found = tuple(
        _label(LinkLabel(provider, tuple(names.values())), options.get(provider), links, stack)
        for provider, names in aliases.items()
    )
    try:
        return encode(
            ServiceLabels(
                found,
                merge(service.expose) or None,
                strict=service.strict is not False,
                closed=service.closed,
                consent=_consent(links, service, speaks=service.speaks or linked),
            )
        )
    except ValueError as error:
        report.add(Problem(f"its labels cannot be written: {error}", place=service.place, service=service.name))
        return {}


def _consent(links: Links, service: Service, *, speaks: bool) -> Consent:
    """Return a service's own word; one that takes part says at least that its own stack alone may link to it."""
    allow = tuple(service.allow or ()) if speaks else None
    accept = None if service.accept is None else tuple(service.accept)
    return Consent(allow, accept, links.declared.get(service.name, ()))


def _gate_labels(links: Links, service: Service, stack: str, *, linked: bool) -> dict[str, str]:
    """Return the labels by which a service's containers wait for their start."""
    if service.gate == "false" or not (linked or service.gate == "true"):
        return {}
    found = gated_services.awaited(service, links.entries.get(service.name, ()))
    ready = {GATE_READY: ",".join(dict.fromkeys(_full_name(entry, stack) for entry in found))} if found else {}
    return {GATE: "true" if service.gate == "true" else "auto", **ready}


def _label(label: LinkLabel, options: LinkOptions | None, links: Links, stack: str) -> LinkLabel:
    if options is None:
        return label
    key = links.project.keys.get(options.key) if options.key is not None else None
    return replace(
        label,
        ports=merge(options.ports),
        key=f"{stack}_{options.key}" if key else None,
        rotate=key.rotate if key else None,
    )


def _check_lengths(links: Links, linked: Iterable[str], stack: str, report: Report) -> None:
    """Report names that only the stack's own makes too long; everything else about them is checked already."""
    ends = [links.project.services[name] for name in sorted(linked)]
    for problem in [
        *(_too_long(stack, end.name, "service", end.place, end.name) for end in ends),
        *(_too_long(stack, name, "link key", key.place) for name, key in links.project.keys.items()),
    ]:
        if problem:
            report.add(problem)


def _too_long(stack: str, name: str, what: str, place: Place, service: str | None = None) -> Problem | None:
    full = f"{stack}_{name}"
    if len(full) <= MAX_NAME:
        return None
    message = f"in this stack the {what} is {full!r}: {len(full)} characters, at most {MAX_NAME} are allowed"
    return Problem(message, place=place, service=service)


def _linked(links: Links, stack: str) -> set[str]:
    """Return the services that have a link at either end, also those which a file names like another stack's."""
    providers = {_full_name(entry, stack) for entries in links.entries.values() for entry in entries}
    named = {name for name in links.project.services if f"{stack}_{name}" in providers}
    return named | links.linked


def _full_name(entry: LinkEntry, stack: str) -> str:
    return entry.provider if entry.external else f"{stack}_{entry.provider}"
