"""Fitness of all nodes for an install, judged from the facts that each has told. Pure."""

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from compose_ext.install.options import Options
from compose_ext.swarm.node_jobs import Outcome
from mesh.model.encryption.status import DATA_PATH_PORT, LETTING_ALL, NOT_OWN, letting
from mesh.topology.underlay import ADDRESS_LABEL

OK, WARNING, PROBLEM = "ok", "warning", "problem"
IMAGE, ENGINE, WIREGUARD, PORTS, SUBNET, MTU, FIREWALL, CLOCK, ENCRYPTION = (
    *("image", "engine", "WireGuard", "ports", "subnet", "MTU", "firewall", "clock", "node encryption"),
)
OLDEST_ENGINE = (20, 10)
"""Services of it can be given capabilities (API 1.41)."""
MOST_APART = 60.0
"""Seconds between two clocks: certificates of this hour must hold on every node."""
_NOTABLE = 5.0
_FULL = 0.5
"""Share of a node's UDP ports."""
_IPV4_LEAST, _IPV6_LEAST = 576 + 60, 1280 + 60
"""Bytes on the way for what every host must take (RFC 791, RFC 8200), with WireGuard's around it."""
_CUT = 3
_TWO = 2
_UNKNOWN_TO_IT = "node encryption needs nodes that reach one another by addresses of their own"
_EARLIER_MODES = ("prefer", "strict")
"""Of an image that knows node encryption, and does not say which modes it knows."""
_OLDER = (
    "an agent of it would act on nothing new. Upgrade first (docker linkwire upgrade), or before you go back to it "
    "choose an earlier mode: docker linkwire node encryption on --mode strict, or off"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One check of one node.

    Attributes:
        node: its name.
        check: of what.
        level: OK, WARNING or PROBLEM.
        text: what is there, and where it is wrong what to do.
    """

    node: str
    check: str
    level: str
    text: str


@dataclass(frozen=True, slots=True)
class Wish:
    """Needs of an install.

    Attributes:
        options: of it.
        before: options of the installation that is there; None where there is none.
        etcd: names of the nodes that are to run etcd; none where the user has an etcd of his own.
        etcd_now: names of those that it runs on now.
        addresses: address of each node, by name.
        told: addresses that operators told of nodes (the node label linkwire.address), by name.
        data_path_port: UDP, of the Swarm's VXLAN.
    """

    options: Options
    before: Options | None = None
    etcd: frozenset[str] = frozenset()
    etcd_now: frozenset[str] = frozenset()
    addresses: Mapping[str, str] | None = None
    told: Mapping[str, str] = field(default_factory=dict)
    data_path_port: int = DATA_PATH_PORT

    @property
    def encrypts(self) -> bool:
        """Return whether node encryption is wanted."""
        return self.options.node_encryption != "off"

    @property
    def known(self) -> Mapping[str, str]:
        """Return the address by which each node is reached, by name: an operator's word goes first."""
        return {**(self.addresses or {}), **self.told}

    @property
    def ports(self) -> tuple[int, int]:
        """Return the first and last UDP port of a node's tasks."""
        first, _, last = self.options.ports.partition("-")
        return int(first), int(last)

    @property
    def metrics(self) -> int | None:
        """Return the TCP port of agents' metrics."""
        return None if self.options.metrics == "off" else int(self.options.metrics.rpartition(":")[2])

    @property
    def etcd_ports(self) -> tuple[int, ...]:
        """Return the TCP ports of etcd: for clients, and where it has several members for these."""
        port = int(self.options.etcd_port)
        return (port,) if self.options.etcd_nodes == "1" else (port, port + 1)

    def question(self) -> dict[str, Any]:
        """Return what each node is asked: `agent.fitness.facts.ASKED`."""
        tcp = [port for port in (*self.etcd_ports, self.metrics) if port is not None]
        asked = {
            "ports": self.ports,
            "tcp": sorted(set(tcp)),
            "subnet": self.options.subnet,
            "nodes": sorted({*(self.addresses or {}).values(), *self.told.values()}),
        }
        encryption = {"data_path_port": self.data_path_port, "mode": self.options.node_encryption}
        return {**asked, **({"encryption": encryption} if self.encrypts else {})}


def judge(outcomes: Sequence[Outcome], wish: Wish) -> tuple[Finding, ...]:
    """Judge every node; returns a finding for each check of each node."""
    found = tuple(finding for outcome in outcomes for finding in _node(outcome, wish))
    behind = [one.node for one in found if one.check == ENCRYPTION and NOT_OWN in one.text]
    if len(behind) < _TWO:
        return found
    text = (
        f"{' and '.join(behind)} are behind NAT, and two such nodes reach each other by no device: {_UNKNOWN_TO_IT}"
    )
    return (*found, Finding(behind[0], ENCRYPTION, PROBLEM, text))


def _node(outcome: Outcome, wish: Wish) -> Iterator[Finding]:
    report, node = outcome.report, outcome.node
    if outcome.problems:
        yield from (Finding(node, IMAGE, PROBLEM, problem) for problem in outcome.problems)
    else:
        yield Finding(node, IMAGE, OK, f"it runs, version {report.get('version', 'unknown')}")
    facts = report.get("facts")
    if not isinstance(facts, Mapping):
        if not outcome.problems:
            why = report.get("unread", "it is of an older version")
            yield Finding(node, IMAGE, WARNING, f"nothing else is known of the node: {why}")
        return
    try:
        yield from _engine(node, str(report.get("engine", "")))
        yield from _wireguard(node, report.get("backend"))
        yield from _ports(node, facts, wish)
        yield from _subnet(node, facts, wish)
        yield from _mtu(node, facts, wish)
        yield from _firewall(node, facts, wish)
        yield from _clock(node, outcome.ahead, wish)
        if wish.encrypts:
            yield from _encryption(node, facts.get("encryption") or {}, wish)
        yield from (Finding(node, FIREWALL, WARNING, f"not looked at: {text}") for text in facts["unread"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        yield Finding(node, IMAGE, WARNING, f"its answer is not understood ({type(error).__name__}: {error})")


def _engine(node: str, version: str) -> Iterator[Finding]:
    numbers = version.split(".")
    known = len(numbers) > 1 and all(number.isdecimal() for number in numbers[:2])
    if known and (int(numbers[0]), int(numbers[1])) < OLDEST_ENGINE:
        yield Finding(node, ENGINE, PROBLEM, f"Docker {version}: Linkwire needs 20.10 or later")
    else:
        yield Finding(node, ENGINE, OK, f"Docker {version}")


def _wireguard(node: str, backend: object) -> Iterator[Finding]:
    if backend == "kernel":
        yield Finding(node, WIREGUARD, OK, "the kernel's")
    elif backend is not None:
        text = "wireguard-go, since the kernel has none: much slower"
        yield Finding(node, WIREGUARD, WARNING, f"{text}. Where there is a module: modprobe wireguard")


def _ports(node: str, facts: Mapping[str, Any], wish: Wish) -> Iterator[Finding]:
    """Judge taken ports, but for those that our own installation has."""
    before, options = wish.before, wish.options
    first, last = wish.ports
    found = []
    runs = [(int(one), int(other)) for one, other in facts["udp"]]
    taken = sum(other - one + 1 for one, other in runs)
    if taken and (before is None or before.ports != options.ports):
        named = ", ".join(str(one) if one == other else f"{one}-{other}" for one, other in runs[:_CUT])
        full = taken > _FULL * (last - first + 1)
        text = f"{taken} of the UDP ports {options.ports} are taken ({named}{', ...' if len(runs) > _CUT else ''})"
        text += ": choose others with --ports" if full else ", and are passed over"
        found.append(Finding(node, PORTS, PROBLEM if full else WARNING, text))
    has_etcd = node in wish.etcd_now and before is not None and before.etcd_port == options.etcd_port
    for port in wish.etcd_ports if node in wish.etcd and not has_etcd else ():
        if port in facts["tcp"]:
            text = f"TCP {port} is taken, and etcd is to listen there: choose another with --etcd-port"
            found.append(Finding(node, PORTS, PROBLEM, text))
    if wish.metrics in facts["tcp"] and (before is None or before.metrics != options.metrics):
        text = f"TCP {wish.metrics} is taken, so its agent answers no Prometheus: choose another with --metrics"
        found.append(Finding(node, PORTS, WARNING, text))
    yield from found or [Finding(node, PORTS, OK, f"UDP {options.ports} are free")]


def _subnet(node: str, facts: Mapping[str, Any], wish: Wish) -> Iterator[Finding]:
    clashes = [f"its network {one}" for one in facts["networks"]] + [f"its route to {one}" for one in facts["routes"]]
    if not clashes:
        yield Finding(node, SUBNET, OK, f"{wish.options.subnet} leads nowhere else")
        return
    named = ", ".join(map(str, clashes[:_CUT]))
    text = f"{wish.options.subnet} clashes with {named}: tasks that reach both get no links"
    if wish.before is None:  # it is fixed when the store is first used
        yield Finding(node, SUBNET, PROBLEM, f"{text}. Choose another with --subnet")
    else:
        yield Finding(node, SUBNET, WARNING, text)


def _mtu(node: str, facts: Mapping[str, Any], wish: Wish) -> Iterator[Finding]:
    names = {address: name for name, address in (wish.addresses or {}).items()}
    ways = {names.get(address, address): int(mtu) for address, mtu in facts["mtu"].items()}
    ways.pop(node, None)
    if not ways:
        yield Finding(node, MTU, OK, "no way to another node")
        return
    least, to = min((mtu, name) for name, mtu in ways.items())
    text = f"{least} bytes to {to}"
    if least < _IPV4_LEAST:
        yield Finding(node, MTU, PROBLEM, f"{text}: links need {_IPV4_LEAST}")
    elif least < _IPV6_LEAST:
        yield Finding(node, MTU, WARNING, f"{text}: below {_IPV6_LEAST} a link's IPv6 is sent in fragments")
    elif least != max(ways.values()):
        other = max(ways, key=lambda name: ways[name])
        text += f", and {ways[other]} to {other}: make sure that each node takes what the others send"
        yield Finding(node, MTU, WARNING, text)
    else:
        yield Finding(node, MTU, OK, text)


def _firewall(node: str, facts: Mapping[str, Any], wish: Wish) -> Iterator[Finding]:
    found = []
    ends = {f"udp/{port}" for port in wish.ports}
    wanted = {"UDP " + wish.options.ports: ends}
    if node in wish.etcd:
        wanted |= {f"TCP {port}": {f"tcp/{port}"} for port in wish.etcd_ports}
    for name, ports in wanted.items():
        chains = sorted({str(chain) for port in ports for chain in facts["filters"].get(port, ())})
        if chains:
            text = f"drops {name}: nftables chain {', '.join(chains[:_CUT])}. Let the other nodes' packets in"
            found.append(Finding(node, FIREWALL, WARNING if wish.before else PROBLEM, text))
    if facts["legacy"]:
        text = f"it has rules of iptables-legacy, which are not read: do they let UDP {wish.options.ports} in?"
        found.append(Finding(node, FIREWALL, WARNING, text))
    yield from found or [Finding(node, FIREWALL, OK, "no chain of nftables drops our ports outright")]


def _clock(node: str, ahead: float, wish: Wish) -> Iterator[Finding]:
    apart = abs(ahead)
    if apart < _NOTABLE:
        yield Finding(node, CLOCK, OK, "agrees with that of Swarm's leader")
        return
    where = "ahead of" if ahead > 0 else "behind"
    text = f"at least {apart:.0f} s {where} that of Swarm's leader, and certificates have a beginning and an end"
    bad = apart >= MOST_APART and wish.before is None
    yield Finding(node, CLOCK, PROBLEM if bad else WARNING, f"{text}. Run chrony or systemd-timesyncd on all nodes")


def _encryption(node: str, facts: Mapping[str, Any], wish: Wish) -> Iterator[Finding]:
    """Judge whether a node can take part in node encryption."""
    mode = wish.options.node_encryption
    if mode not in facts.get("modes", _EARLIER_MODES if facts else ()):
        yield Finding(node, ENCRYPTION, PROBLEM, f"the image does not know mode {mode}: {_OLDER}")
        return
    problems = list(_unfit(node, facts, wish))
    ports = " and ".join(map(str, facts["ports"]))
    found = f"UDP {ports} {'are' if len(facts['ports']) > 1 else 'is'} free, and nothing drops packets there"
    yield from [Finding(node, ENCRYPTION, PROBLEM, text) for text in problems] or [
        Finding(node, ENCRYPTION, OK, found)
    ]


def _unfit(node: str, facts: Mapping[str, Any], wish: Wish) -> Iterator[str]:
    for port in facts["taken"]:
        yield f"UDP {port} is taken by another program: end it (ss -ulpn sport = :{port}), or choose other --ports"
    if facts["strict_filter"]:
        yield (
            "net.ipv4.conf.all.rp_filter is 1 (strict), and the kernel would drop what comes in encrypted: "
            "sysctl -w net.ipv4.conf.all.rp_filter=2, and in /etc/sysctl.d"
        )
    if facts["tables"]:
        yield f"nftables cannot be used, by which plain packets are refused: {facts['tables']}"
    for port, dropping in facts["wire_filters"].items():
        chains = ", ".join(dropping[:_CUT])
        yield f"drops UDP {port}: nftables chain {chains}. Let the other nodes' packets in"
    if facts["overlay_filters"]:
        chains = ", ".join(facts["overlay_filters"][:_CUT])
        rule = letting(wish.data_path_port)
        yield f"drops overlay packets that come out of its devices: nftables chain {chains}. Add: {rule}"
    if host_filters := facts.get("host_filters"):
        chains = "; ".join(host_filters[:_CUT])
        yield f"drops in its devices what it lets pass elsewhere: nftables chain {chains}. Add: {LETTING_ALL}"
    own = wish.known.get(node)
    if own and own not in facts["holds"]:
        yield f"other nodes reach it at {own}, which {NOT_OWN} (NAT, or a wrong linkwire.address): {_UNKNOWN_TO_IT}"
    for address in sorted(set(facts["sends_to"]) - {*wish.known.values(), *facts["holds"]}):
        yield (
            f"its overlays send to {address}, by which no node is known (a --data-path-addr?): say whose it is: "
            f"docker node update --label-add {ADDRESS_LABEL}={address} NODE"
        )


def is_address(text: str) -> bool:
    """Tell whether a node's address, as Swarm shows it, is one that others can reach."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_unspecified or address.is_loopback)
