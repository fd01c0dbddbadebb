"""Overlay networks that compose files have Docker make, and one more file that gives them an MTU. No I/O here.

Docker takes a network that stands in several files whole from the last one (docker/cli cli/compose/loader/merge.go,
mergeNetworks). So the file stands behind the user's, and has each definition whole, as their last file has it, with
one option more.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from compose_ext.diagnostics import Report
from compose_ext.document import tree
from compose_ext.document.cursor import Context, Cursor
from compose_ext.document.loader import Document
from compose_ext.document.tree import Entry, Scalar, Tree

MTU = "com.docker.network.driver.mtu"
"""Option of an overlay network, in bytes. It can be given only when the network is made."""
ENCRYPTED = "encrypted"
"""Option of one whose packets Docker encrypts itself."""
DEFAULT = "default"
"""The network of services that name none."""
DOCKERS_TRUE = ("true", "y", "yes", "on")
"""Words that Docker casts to true, in any case (docker/cli cli/compose/loader/interpolate.go, toBoolean)."""
_DRIVERS = ("", "overlay")
_STRING = "tag:yaml.org,2002:str"


@dataclass(frozen=True, slots=True)
class Overlay:
    """An overlay network of the files, with neither an MTU of its own nor Docker's encryption.

    Attributes:
        key: its name in the files.
        name: Docker's.
        definition: as the last file has it; None where none has it.
    """

    key: str
    name: str
    definition: tree.Mapping | None


def overlays(documents: Sequence[Document], environment: Mapping[str, str], stack: str) -> tuple[Overlay, ...]:
    """Return those that services are on, and that no other stack or operator makes.

    Args:
        documents: the files, in their order.
        environment: the variables.
        stack: its name.
    """
    context = Context(Report(), environment)  # what is wrong is Docker's to say
    roots = [Cursor(context, document.file, document.root) for document in documents]
    defined = {name: network for root in roots for name, network in _below(root, "networks")}
    found = (_overlay(key, defined.get(key), stack) for key in dict.fromkeys(_used(roots)))
    return tuple(overlay for overlay in found if overlay is not None)


def with_mtu(networks: Iterable[Overlay], mtu: int, documents: Sequence[Document]) -> str:
    """Return a compose file that gives networks an MTU; empty where there is none.

    Args:
        networks: as `overlays` found them.
        mtu: bytes.
        documents: the files, of whose version Docker wants this one to be.
    """
    definitions: dict[str, Tree] = {}
    for network in networks:
        entries = dict(network.definition.entries) if network.definition is not None else {}
        options = entries["driver_opts"].value if "driver_opts" in entries else None
        known = {name: e.value for name, e in options.entries.items()} if isinstance(options, tree.Mapping) else {}
        more = _mapping({**known, MTU: Scalar(0, 0, str(mtu), plain=False)})
        definitions[network.key] = _mapping({**{name: e.value for name, e in entries.items()}, "driver_opts": more})
    if not definitions:
        return ""
    version = documents[0].root.entries.get("version")
    first = {"version": version.value} if version is not None else {}
    return _yaml(_mapping({**first, "networks": _mapping(definitions)}))


def _used(roots: Iterable[Cursor]) -> Iterator[str]:
    """Go through the networks that services are on: of all files together, else the default one."""
    services: dict[str, list[str]] = {}
    for root in roots:
        for service, definition in _below(root, "services"):
            named = services.setdefault(service, [])
            networks = definition.get("networks")
            if networks is not None and isinstance(networks.tree, tree.Sequence):
                named += [text for item in networks.items() if (text := item.text()) is not None]
            elif networks is not None:
                named += [name for name, _ in networks.children()]
    for named in services.values():
        yield from named or [DEFAULT]


def _overlay(key: str, network: Cursor | None, stack: str) -> Overlay | None:
    name = f"{stack}_{key}"
    if network is None:
        return Overlay(key, name, None) if key == DEFAULT else None
    if network.is_null:
        return Overlay(key, name, None)
    external, own, options = network.get("external"), network.get("name"), network.get("driver_opts")
    if not isinstance(network.tree, tree.Mapping) or (external is not None and _is_external(external)):
        return None
    if options is not None and not options.is_null and not _takes_one_more(options):
        return None
    driver = network.get("driver")
    if driver is not None and not driver.is_null and driver.text() not in _DRIVERS:
        return None
    if own is not None and not own.is_null:
        name = own.text() or name
    return Overlay(key, name, network.tree)


def _is_external(external: Cursor) -> bool:
    """Tell whether a network is another's; a mapping with its name is the way before version 3.5."""
    if isinstance(external.tree, tree.Mapping):
        return True
    return not external.is_null and (external.text() or "").lower() in DOCKERS_TRUE


def _below(root: Cursor, key: str) -> Iterator[tuple[str, Cursor]]:
    below = root.get(key)
    return below.children() if below is not None else iter(())


def _takes_one_more(options: Cursor) -> bool:
    return isinstance(options.tree, tree.Mapping) and not {MTU, ENCRYPTED} & options.tree.entries.keys()


def _mapping(values: Mapping[str, Tree]) -> tree.Mapping:
    return tree.Mapping(0, 0, {name: Entry(Scalar(0, 0, name, plain=False), value) for name, value in values.items()})


def _yaml(root: Tree) -> str:
    """Write a tree; each value is plain or a text, as it was written."""
    import yaml  # noqa: PLC0415 - see compose_ext.plugin: what Docker asks at every --help must be quick

    dumper = yaml.SafeDumper

    def node(value: Tree) -> yaml.Node:
        if isinstance(value, tree.Mapping):
            pairs = [
                (node(entry.key._replace(text=name)), node(entry.value)) for name, entry in value.entries.items()
            ]
            return yaml.MappingNode("tag:yaml.org,2002:map", pairs, flow_style=False)
        if isinstance(value, tree.Sequence):
            return yaml.SequenceNode("tag:yaml.org,2002:seq", [node(item) for item in value.items], flow_style=False)
        if not value.plain:
            return yaml.ScalarNode(_STRING, value.text, style='"')
        # Of the kind that a reader takes it for: then it is written as it was.
        return yaml.ScalarNode(resolve(yaml.ScalarNode, value.text, (True, False)), value.text)

    resolve: Callable[..., str] = yaml.resolver.Resolver().resolve
    return str(yaml.serialize(node(root), Dumper=dumper, width=10**9))
