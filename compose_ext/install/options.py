"""Options of an install: flags over the options of an earlier install, validated together. No I/O here."""

import ipaddress
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace

from compose_ext.diagnostics import UsageError
from mesh.model.encryption.status import MODES
from mesh.model.labels.durations import parse_rotation
from mesh.topology.underlay import FIRST_PORT

MAX_PORT = 65535
_ENDPOINT = re.compile(r"(https?)://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
_PORTS = re.compile(r"([0-9]{1,5})-([0-9]{1,5})")
_LISTEN = re.compile(r"(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
_LEVELS = ("debug", "info", "warning", "error")
NODE_ENCRYPTION = ("off", *MODES)
_MOST_CONTROLLERS = 9
_LARGEST_NET = 29
_ETCD_NODES = (1, 3, 5)
"""An even number bears no more losses than one less."""
_MAX_REST = 7 * 86400


@dataclass(frozen=True, slots=True)
class Options:
    """Options of an install; every field is a flag of that name. Swarm keeps them, as a label of the controller.

    Attributes:
        image: of controller, agent and etcd.
        etcd: `https://HOST:PORT` of etcds of the user's own, comma separated; "" for the one that we bring.
        etcd_insecure: `true`: those may be `http://`.
        etcd_address: where nodes reach the etcd that we bring; "" for what its node advertises.
        etcd_port: its TCP port.
        etcd_nodes: how many nodes it runs on; its members reach each other at the port after that.
        subnet: the mesh's addresses.
        controllers: how many.
        ports: UDP ports of a node for its tasks, `FIRST-LAST`.
        metrics: where an agent answers Prometheus, or `off`.
        controller_metrics: where a controller does.
        etcd_metrics: where the etcd that we bring does.
        node_encryption: `prefer` or `strict`: overlay packets between nodes are encrypted; `all`: what they send one
            another themselves, too; `off`.
        node_key_rotation: after how long nodes get new keys for it, such as `30d`; `off`.
        address_rest: seconds before a released address may be reused.
        log_level: of controller and agent.
    """

    image: str = "linkwire:latest"
    etcd: str = ""
    etcd_insecure: str = "false"
    etcd_address: str = ""
    etcd_port: str = "2379"
    etcd_nodes: str = "1"
    subnet: str = "100.96.0.0/16"
    controllers: str = "2"
    ports: str = "51820-53819"
    metrics: str = "127.0.0.1:9586"
    controller_metrics: str = "127.0.0.1:9587"
    etcd_metrics: str = "127.0.0.1:9588"
    node_encryption: str = "off"
    node_key_rotation: str = "off"
    address_rest: str = "600"
    log_level: str = "info"

    def label(self) -> str:
        """Encode the options for the next install."""
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def in_clear(self) -> bool:
        """Whether connections to etcd are plaintext: only to the user's own etcd, and only on request."""
        return self.etcd.startswith("http://")


NAMES = frozenset(field.name for field in fields(Options))


def choose(given: Mapping[str, str], earlier: str | None) -> Options:
    """Take the flags that were given, and for the others what an earlier install was given, else the defaults.

    Args:
        given: fields of `Options` with their values; other names are ignored.
        earlier: what `Options.label` wrote.

    Raises:
        UsageError: a flag has a value that will not do.
    """
    chosen = {name: value for name, value in given.items() if name in NAMES}
    options = replace(read_label(earlier) if earlier else Options(), **chosen)
    for problem in _problems(options):
        raise UsageError(problem)
    return options


def read_label(text: str) -> Options:
    """Read what `Options.label` wrote, perhaps in another version: what is unknown is left out."""
    try:
        raw = json.loads(text)
        return Options(**{name: str(value) for name, value in raw.items() if name in NAMES})
    except (ValueError, AttributeError, RecursionError):
        return Options()


def _problems(options: Options) -> Iterable[str]:
    if not options.image or options.image != "".join(options.image.split()):
        yield f"--image {options.image!r} is no image's name"
    yield from _etcd_problems(options)
    yield from _etcd_nodes_problems(options)
    yield from _address_problems(options)
    if not 1 <= _number(options.controllers) <= _MOST_CONTROLLERS:
        yield f"--controllers {options.controllers!r} is not a number from 1 to {_MOST_CONTROLLERS}"
    ports = _PORTS.fullmatch(options.ports)
    if not ports or not FIRST_PORT <= _number(ports[1]) <= _number(ports[2]) <= MAX_PORT:
        yield f"--ports {options.ports!r} is not a range of UDP ports from {FIRST_PORT} on, such as 51820-53819"
    pages = ("metrics", options.metrics), ("controller-metrics", options.controller_metrics)
    for flag, page in (*pages, ("etcd-metrics", options.etcd_metrics)):
        if page != "off" and not _is_port((_LISTEN.fullmatch(page) or ("", ""))[1]):
            yield f"--{flag} {page!r} is neither an address and port such as 127.0.0.1:9586 nor off"
    if not 1 <= _number(options.address_rest) <= _MAX_REST:
        yield f"--address-rest {options.address_rest!r} is not a number of seconds from 1 to {_MAX_REST}"
    if options.node_encryption not in NODE_ENCRYPTION:
        yield f"--node-encryption {options.node_encryption!r} is none of {', '.join(NODE_ENCRYPTION)}"
    try:
        _ = options.node_key_rotation == "off" or parse_rotation(options.node_key_rotation)
    except ValueError as error:
        yield f"--node-key-rotation {options.node_key_rotation!r}: {error}"
    if options.log_level not in _LEVELS:
        yield f"--log-level {options.log_level!r} is none of {', '.join(_LEVELS)}"


def _etcd_problems(options: Options) -> Iterable[str]:
    for endpoint in options.etcd.split(",") if options.etcd else ():
        if not _is_port((_ENDPOINT.fullmatch(endpoint.strip()) or (0, 0, 0, ""))[3]):
            yield f"--etcd {endpoint!r} is no etcd endpoint such as https://10.0.0.1:2379; several take commas"
    if len({endpoint.strip().partition(":")[0] for endpoint in options.etcd.split(",")}) > 1:
        yield f"--etcd {options.etcd!r}: some are https:// and some are not: all of them, or none"
    if options.in_clear and options.etcd_insecure != "true":
        yield (
            f"--etcd {options.etcd} is plaintext http:// to another host: anyone on the path can read and modify it. "
            "Use https:// endpoints, or add --etcd-insecure"
        )


def _etcd_nodes_problems(options: Options) -> Iterable[str]:
    if _number(options.etcd_nodes) not in _ETCD_NODES:
        yield f"--etcd-nodes {options.etcd_nodes!r} is none of {', '.join(map(str, _ETCD_NODES))}"
    elif options.etcd_nodes == "1":
        return
    elif options.etcd:
        yield "--etcd names etcds of your own, --etcd-nodes is for those that Linkwire brings: give one"
    elif options.etcd_address:
        yield "--etcd-address is for etcd on one node; with --etcd-nodes each is reached where it advertises itself"
    elif _number(options.etcd_port) == MAX_PORT:
        yield f"--etcd-port {MAX_PORT} leaves none for members among each other, which take the next one"


def _address_problems(options: Options) -> Iterable[str]:
    if options.etcd_address:
        try:
            address = ipaddress.ip_address(options.etcd_address)
        except ValueError:
            yield f"--etcd-address {options.etcd_address!r} is not an IP address"
        else:
            if address.is_unspecified or address.is_loopback:
                yield f"--etcd-address {address}: other nodes cannot reach the manager there"
    if options.etcd and options.etcd_address:
        yield "--etcd names etcds of your own, --etcd-address a place for the one that Linkwire brings: give one"
    if not _is_port(options.etcd_port):
        yield f"--etcd-port {options.etcd_port!r} is not a TCP port"
    try:
        subnet = ipaddress.IPv4Network(options.subnet)
    except ValueError as error:
        yield f"--subnet {options.subnet!r} is not an IPv4 subnet such as 100.96.0.0/16: {error}"
    else:
        if subnet.prefixlen > _LARGEST_NET:
            yield f"--subnet {options.subnet!r} has too few addresses: at most /{_LARGEST_NET}"


def _is_port(text: str | int) -> bool:
    return 0 < _number(text) <= MAX_PORT


def _number(text: str | int) -> int:
    """Return a number of at most nine digits, -1 for anything else: Python itself refuses one of 4,301 digits."""
    return int(text) if re.fullmatch(r"[0-9]{1,9}", str(text)) else -1
