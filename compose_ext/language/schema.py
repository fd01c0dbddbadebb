"""Schema of `x-wireguard`, `links` and `external_links`: read from all files into one project.

Files add up as in `docker stack deploy`: lists append, single values of later files win. Unlike there, the top-level
`x-wireguard` of every file counts.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from compose_ext.diagnostics import Place, Report
from compose_ext.document import tree
from compose_ext.document.cursor import Context, Cursor
from compose_ext.document.loader import Document
from compose_ext.document.networks import DOCKERS_TRUE
from compose_ext.language.extension_keys import plain_links, report_misplaced
from compose_ext.language.project import (
    EXTENSION,
    Gate,
    KeyDefinition,
    LinkEntry,
    LinkOptions,
    Network,
    Project,
    Service,
    Source,
)
from compose_ext.language.version import read_version
from mesh.model.labels.consent import ANYBODY, check_party
from mesh.model.labels.durations import parse_rotation
from mesh.model.labels.link_labels import DEPLOY, GATE, GATE_READY, PREFIX, ROLE, STRICTNESS, check_service_name
from mesh.model.labels.ports import PortRange

_Value = TypeVar("_Value")

_TOP = ("keys",)
_SERVICE = ("links", "expose", "strict", "gate", "allow", "accept", "from")
_LINK = ("key", "ports", "gate")
_KEY = ("rotate",)
_IN_SERVICE = dict.fromkeys(_SERVICE, f"it belongs to a service, under `services: NAME: {EXTENSION}:`")
_AT_TOP = {"keys": f"link keys are defined at the top of the file, under `{EXTENSION}: keys:`"}
_EMPTY = f"write `{EXTENSION}: {{}}` where there is nothing to say"
_SETTINGS = "settings of links stand here, by provider; the links themselves are the service's own `links`"
_AT_KEY = {"rotate": f"a key is rotated where it is defined, under `{EXTENSION}: keys:` at the top of the file"}
_BOOLEANS = {"true": True, "false": False}
_GATES: dict[str, Gate] = {"auto": "auto", "true": "true", "false": "false", "ready": "ready"}
_HEALTHY = "service_healthy"


def read(
    documents: Sequence[Document], environment: Mapping[str, str], report: Report, unset_hint: str = ""
) -> Project | None:
    """Read what all files say about links; what is wrong goes into the report.

    Args:
        documents: the files, in their order.
        environment: the variables.
        report: takes what is wrong.
        unset_hint: what to say after that a variable is not set.

    Returns:
        None if no file has `x-wireguard`: then nothing in them concerns us.
    """
    context = Context(report, environment, unset_hint)
    roots = [Cursor(context, document.file, document.root) for document in documents]
    marks = [mark for root in roots for place in _places(root) if (mark := place.get(EXTENSION))]
    for root in roots:
        report_misplaced(root)
    if not marks:
        for links, _ in plain_links(roots):
            links.warn(
                f"Docker ignores these, and without {EXTENSION} so does Linkwire: for links by WireGuard write "
                f"`{EXTENSION}: {{}}` at the top of {roots[0].file}",
                links.key_place,
            )
        return None
    project = Project(version=read_version(roots, marks))
    for root in roots:
        top = root.get(EXTENSION)
        if top is not None and not top.is_null:
            _read_top(top, project)
        services = root.get("services")
        for name, service in services.entries() if services else ():
            _read_service(name, service.of_service(name), project)
        _read_networks(root, project)
    return project


def _places(root: Cursor) -> Iterator[Cursor]:
    """Go through what may hold `x-wireguard`: the file's top, then each service."""
    yield root
    services = root.get("services")
    for name, service in services.children() if services else ():
        yield service.of_service(name)


def _read_top(top: Cursor, project: Project) -> None:
    for _, keys in top.entries(_TOP, _IN_SERVICE, _EMPTY):
        for name, definition in keys.entries():
            if not _is_key_name(name, definition):
                continue
            known = project.keys.setdefault(name, KeyDefinition(definition.key_place))
            for _, rotate in definition.entries(_KEY) if not definition.is_null else ():
                known.rotate = _parsed(parse_rotation, rotate)


def _read_service(name: str, found: Cursor, project: Project) -> None:
    service = project.services.setdefault(name, Service(name, found.key_place))
    readers: dict[str, Callable[[Cursor, Service], None]] = {
        "links": lambda value, into: _read_links(value, into, external=False),
        "external_links": lambda value, into: _read_links(value, into, external=True),
        EXTENSION: _read_extension,
        "networks": _read_service_networks,
        "network_mode": _read_network_mode,
        "expose": _read_docker_expose,
        "depends_on": _read_depends_on,
        "deploy": _check_deploy,
        "labels": _check_labels,
    }
    if not isinstance(found.tree, tree.Mapping):
        found.error(f"must be a mapping, not {tree.kind(found.tree)}")
        return
    for key, reader in readers.items():
        value = found.get(key)
        if value is not None:
            reader(value, service)


def _read_links(links: Cursor, service: Service, *, external: bool) -> None:
    seen: dict[str, int] = {}
    for item in links.items():
        pair = list(item.children())
        if len(pair) == 1 and isinstance(pair[0][1].tree, tree.Scalar):
            written = f"{pair[0][0]}:{pair[0][1].tree.text}"
            item.error(f'YAML reads a mapping here: write "{written}", without the space after the colon')
            continue
        text = item.text()
        if text is None:
            continue
        if text in seen:
            item.error(f"{text!r} is here twice, first on line {seen[text]}: Docker takes each entry once")
            continue
        seen[text] = item.place.line
        provider, colon, alias = text.partition(":")
        if not provider or (colon and not alias) or ":" in alias:
            item.error(f"{text!r}: write it as SERVICE or SERVICE:ALIAS")
            continue
        service.links.append(LinkEntry(provider, alias or provider, external, item.place))


def _read_extension(extension: Cursor, service: Service) -> None:
    service.speaks = True
    for key, value in extension.entries(_SERVICE, _AT_TOP, _EMPTY) if not extension.is_null else ():
        if key == "links":
            for provider, options in value.entries(instead=_SETTINGS):
                known = service.options.setdefault(provider, LinkOptions(options.key_place))
                _read_options(options, known)
        elif key == "expose":
            service.expose += _read_ports(value)
            service.expose_place = value.key_place
        elif key == "gate":
            service.gate, service.gate_place = _read_gate(value), value.key_place
        elif key == "strict":
            service.strict, service.closed = _read_strict(value)
        else:
            _read_consent(key, value, service)


def _read_consent(key: str, value: Cursor, service: Service) -> None:
    if key == "from":
        service.sources += [Source(party, place) for party, place in _read_parties(value)]
    elif key == "allow":
        service.allow = [*(service.allow or ()), *(party for party, _ in _read_parties(value))]
    elif isinstance(value.tree, tree.Scalar) and not value.is_null and value.tree.text != ANYBODY:
        service.accept = [ANYBODY] if _read_boolean(value) else None
    else:
        service.accept = [*(service.accept or ()), *(party for party, _ in _read_parties(value))]


def _read_parties(parties: Cursor) -> list[tuple[str, Place]]:
    if isinstance(parties.tree, tree.Scalar) and parties.tree.text == ANYBODY:
        return [(ANYBODY, parties.place)]
    read = [(_parsed(_party, item), item.place) for item in parties.items()]
    return [(party, place) for party, place in read if party]


def _party(text: str) -> str:
    if ":" in text:
        raise ValueError("the other side sees this service as STACK_SERVICE: no other name can be given here")
    check_party(text)
    return text


def _read_boolean(value: Cursor) -> bool | None:
    text = value.text()
    boolean = _BOOLEANS.get(text.lower()) if text is not None else None
    if text is not None and boolean is None:
        value.error(f"{text!r}: write true or false")
    return boolean


def _read_strict(value: Cursor) -> tuple[bool | None, bool]:
    text = value.text()
    if text is not None and text.lower() not in STRICTNESS:
        value.error(f"{text!r}: write true, false or all")
    return STRICTNESS.get((text or "").lower(), (None, False))


def _read_gate(value: Cursor) -> Gate | None:
    text = value.text()
    gate = _GATES.get(text.lower()) if text is not None else None
    if text is not None and gate is None:
        value.error(f"{text!r}: write auto, true, false or ready")
    return gate


def _read_options(options: Cursor, known: LinkOptions) -> None:
    for key, value in options.entries(_LINK, _AT_KEY) if not options.is_null else ():
        if key == "ports":
            known.ports += _read_ports(value)
        elif key == "gate":
            text = value.text()
            if text is not None and text.lower() != "ready":
                value.error(
                    f"{text!r}: a link's gate can only be `ready`; all else is said of the service as a whole"
                )
            known.ready = value.place
        else:
            text = value.text()
            if text is not None and _is_key_name(text, value):
                known.key, known.key_place = text, value.place


def _read_ports(ports: Cursor) -> list[PortRange]:
    read = [_parsed(PortRange.parse, item) for item in ports.items()]
    if isinstance(ports.tree, tree.Sequence) and not ports.tree.items:
        ports.error("names no port; leave the key out where every port is meant")
    return [port for port in read if port]


def _read_service_networks(networks: Cursor, service: Service) -> None:
    if networks.is_null:
        return
    if isinstance(networks.tree, tree.Sequence):
        for item in networks.items():
            text = item.text()
            if text is not None:
                service.networks[text] = item.place
    elif isinstance(networks.tree, tree.Scalar):
        networks.error("must be a list or a mapping of networks, not a single value")
    else:
        for name, network in networks.entries():
            service.networks[name] = network.key_place
            aliases = network.get("aliases")
            if aliases and isinstance(aliases.tree, tree.Sequence):
                names = (alias.text() for alias in aliases.items())
                service.network_aliases.setdefault(name, set()).update(text.lower() for text in names if text)


def _read_network_mode(mode: Cursor, service: Service) -> None:
    service.network_mode = mode.place


def _read_docker_expose(expose: Cursor, service: Service) -> None:
    service.docker_expose = expose.key_place


def _read_depends_on(depends: Cursor, service: Service) -> None:
    """Take the long form's wish that a service be healthy; everything else about it is Docker's."""
    if isinstance(depends.tree, tree.Mapping):
        service.long_depends.append(depends.place)
        for name, options in depends.children():
            condition = options.get("condition") if isinstance(options.tree, tree.Mapping) else None
            if condition is not None and condition.text() == _HEALTHY:
                service.healthy[name] = options.key_place


def _check_deploy(deploy: Cursor, _service: Service) -> None:
    misplaced = deploy.get(EXTENSION)
    if misplaced:
        deploy.error(f"{EXTENSION} stands in the service itself, beside `deploy`", misplaced.key_place)
    labels = deploy.get("labels")
    for label, place in _read_label_names(labels) if labels else ():
        if labels and label.startswith(PREFIX) and label not in {ROLE, DEPLOY}:
            labels.error(f"{label!r} is written by docker linkwire: say it with links and {EXTENSION}", place)


def _check_labels(labels: Cursor, _service: Service) -> None:
    for label, place in _read_label_names(labels):
        if label in {GATE, GATE_READY}:
            hint = f"`{EXTENSION}: {{gate: {'true' if label == GATE else 'ready'}}}`"
            labels.error(f"{label!r} is written by docker linkwire: say it with {hint}", place)


def _read_label_names(labels: Cursor) -> list[tuple[str, Place]]:
    written = [(label, value.key_place) for label, value in labels.children()]
    for item in labels.items() if isinstance(labels.tree, tree.Sequence) else ():
        text = item.text() or ""
        written.append((text.partition("=")[0], item.place))
    return written


def _read_networks(root: Cursor, project: Project) -> None:
    networks = root.get("networks")
    for name, network in networks.entries() if networks and not networks.is_null else ():
        known = project.networks.setdefault(name, Network(network.key_place))
        external, real_name = network.get("external"), network.get("name")
        if external is not None and isinstance(external.tree, tree.Mapping):  # the way before version 3.5
            known.external, real_name = True, external.get("name")
        elif external is not None:
            known.external = (external.text() or "").lower() in DOCKERS_TRUE
        if real_name is not None:
            known.name = real_name.text()


def _is_key_name(name: str, cursor: Cursor) -> bool:
    try:
        check_service_name(name)
    except ValueError as error:
        cursor.error(f"{name!r} cannot name a link key: {error}", cursor.key_place)
        return False
    return True


def _parsed(parse: Callable[[str], _Value], cursor: Cursor) -> _Value | None:
    """Read a text in its own language; report what that finds wrong."""
    text = cursor.text()
    if text is None:
        return None
    try:
        return parse(text)
    except ValueError as error:
        cursor.error(f"{text!r}: {error}")
        return None
