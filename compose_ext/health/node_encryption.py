"""Node encryption as it is: what was asked for, how far each node is, and what is wrong."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from compose_ext.diagnostics import DockerError
from compose_ext.docker_cli import Docker, printable
from compose_ext.document.networks import ENCRYPTED, MTU
from compose_ext.install.options import Options, read_label
from compose_ext.swarm import installation, link_states, listings
from mesh.model.encryption.status import LAST, NOT_OWN
from mesh.topology.underlay import ports_beside

FITS = 1386
"""MTU of an overlay network whose packets fit into node encryption, where the nodes' own network has 1500 and IPv4:
WireGuard takes 60 bytes (64 by wireguard-go), VXLAN 50."""
_DEFAULT_MTU = 1450
_NAMED = 5


@dataclass(frozen=True, slots=True)
class NodeState:
    """A node's part in node encryption.

    Attributes:
        hostname: of the node.
        step: that is in place there; `off` also where its agent does not say.
        acknowledged: generation of the record that the node has acted on.
        peers: other nodes that its device has as peers.
        ready: those of them that it reaches by its device.
        refused: plain packets that it refused.
        received: bytes from all its peers.
        sent: bytes to them.
        handshake_age: seconds since the last handshake, of the peer of which that is the longest ago; None for never.
        problem: in words; empty for none.
        why_not: why it has no part in it; empty where it has.
        epochs: of its keys, sorted: two while keys rotate.
        waits_for: nodes to which it does not send by its newest key yet.
    """

    hostname: str
    step: str = "off"
    acknowledged: int = 0
    peers: int = 0
    ready: int = 0
    refused: int = 0
    problem: str = ""
    why_not: str = ""
    epochs: tuple[int, ...] = ()
    waits_for: tuple[str, ...] = ()
    received: int = 0
    sent: int = 0
    handshake_age: float | None = None


@dataclass(frozen=True, slots=True)
class Encryption:
    """Node encryption of a Swarm.

    Attributes:
        wanted: mode of the last install or `node encryption on`; `off`.
        mode: that the controllers are at; `off`.
        step: that every node is to take now; `off`.
        generation: of the controllers' record; 0 where there is none.
        nodes: those that are up.
        epoch: of the keys that nodes are to have.
        since: when those were asked for, in seconds since 1970; 0 where nobody says.
        ports: UDP, that have to be open between nodes for it, sorted.
    """

    wanted: str
    mode: str = "off"
    step: str = "off"
    generation: int = 0
    nodes: tuple[NodeState, ...] = ()
    epoch: int = 0
    since: int = 0
    ports: tuple[int, ...] = ()

    @property
    def behind(self) -> tuple[NodeState, ...]:
        """The nodes that take part, and have another key than one of the newest epoch, or an older one beside it."""
        own = [node for node in self.nodes if not node.why_not and self.mode != "off"]
        return tuple(node for node in own if (node.epochs or (0,)) != (self.epoch,))

    @property
    def _is_at_goal(self) -> bool:
        return (self.mode, self.step) == (self.wanted, LAST.get(self.wanted, "off"))

    @property
    def is_reached(self) -> bool:
        """Whether every node that is up does what was asked for."""
        return self._is_at_goal and all(
            node.step == self.step and (self.wanted == "off" or node.acknowledged == self.generation)
            for node in self.nodes
        )

    @property
    def summary(self) -> str:
        """Return it in one line."""
        if self.wanted == self.mode == "off":
            return "off"
        there = sum(node.step == self.step for node in self.nodes)
        switching = "" if self._is_at_goal else f", to be {self.wanted}"
        return f"{self.mode}{switching}: {there} of {len(self.nodes)} nodes at step {self.step}"


def wanted(deployed: installation.Deployed) -> str:
    """Return the mode that was asked for last."""
    return _goal(read_label(deployed.options or ""))


def _goal(options: Options) -> str:
    return options.node_encryption if options.node_encryption in LAST else "off"


def ports(options: Options) -> tuple[int, ...]:
    """Return the UDP ports of a node's devices, sorted."""
    first, _, last = options.ports.partition("-")
    return tuple(sorted(port for port in ports_beside(int(first), int(last)) if port))


def read(control: Mapping[str, Any], up: Mapping[str, str], options: Options) -> Encryption | None:
    """Read the agent's account of the control plane.

    Args:
        control: the account.
        up: id of each node that is up, with its hostname.
        options: of the last install, or of what switched it since.

    Returns:
        None where the agent does not say: it is of an earlier version, or does not reach etcd.
    """
    if "encryption" not in control or not control.get("reached"):
        return None
    record = control["encryption"] or {}
    agents, keys = control.get("agents") or {}, control.get("node_keys") or {}
    is_all = bool(keys.get("all_since"))
    return Encryption(
        _goal(options),
        str(record.get("mode", "off")),
        str(record.get("step", "off")),
        int(record.get("generation", 0)),
        tuple(_node(hostname, agents.get(node), up, is_all) for node, hostname in up.items()),
        int(keys.get("epoch", 0)),
        int(keys.get("since", 0)),
        ports(options),
    )


def _node(hostname: str, agent: Mapping[str, Any] | None, up: Mapping[str, str], is_all: bool = False) -> NodeState:
    """Read the account of a node; `is_all` tells whether nodes are asked whether they know mode `all`."""
    if agent is None:
        return NodeState(hostname, why_not="its agent is silent")
    part = agent.get("encryption") or {}
    why_not = ""
    if not part.get("able"):
        why_not = "its agent states no encryption key: it is of an earlier version, or its log says why"
    elif is_all and not part.get("all"):
        why_not = "its agent does not say that it knows mode all: one of an earlier version does not, and then acts "
        why_not += "on nothing new. Upgrade it: docker linkwire upgrade"
    elif not part.get("placed"):
        why_not = "the controllers have given it no place: see `docker linkwire events --kind problem`"
    state = part.get("state") or {}
    acknowledged, peers, ready, refused = (
        int(state.get(name, 0)) for name in ("generation", "peers", "ready", "refused")
    )
    step, problem = str(state.get("step", "off")), printable(str(state.get("problem", "")))
    keys = part.get("keys") or {}
    figures = part.get("figures") or {}
    age = figures.get("handshake_age")
    return NodeState(
        hostname,
        step,
        acknowledged,
        peers,
        ready,
        refused,
        problem,
        why_not,
        epochs=tuple(map(int, keys.get("epochs", ()))),
        waits_for=tuple(up[other] for other in keys.get("waiting", ()) if other in up),
        received=int(figures.get("received", 0)),
        sent=int(figures.get("sent", 0)),
        handshake_age=float(age) if isinstance(age, int | float) else None,
    )


def node_state(control: Mapping[str, Any], node: str, hostname: str) -> NodeState | None:
    """Read the account of one node; None where its agent is silent or the answering one does not say."""
    agent = (control.get("agents") or {}).get(node)
    return _node(hostname, agent, {}) if isinstance(agent, Mapping) and "encryption" in agent else None


def peers(control: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the figures of the answering node's own peers: each as `node` (its name), and what its agent says."""
    agents = control.get("agents") or {}
    names = {node: printable(str(agent.get("hostname", node))) for node, agent in agents.items()}
    found = control.get("peers") or ()
    return [{**peer, "node": names.get(peer.get("node"), printable(str(peer.get("node"))))} for peer in found]


def problems(encryption: Encryption) -> Iterator[str]:
    """Name everything that is wrong with it, nothing while it is off and was asked to be."""
    if encryption.wanted == encryption.mode == "off":
        return
    without = [node for node in encryption.nodes if node.why_not]
    for node in without:
        effect = "nothing is switched before that" if encryption.mode == "off" else _PLAIN[encryption.step]
        yield f"node encryption: node {node.hostname} has no part in it: {node.why_not}; {effect}"
    for node in encryption.nodes:
        if node.problem:
            yield f"node encryption: node {node.hostname}: {node.problem}"
    behind = [node.hostname for node in encryption.nodes if NOT_OWN in node.problem]
    if len(behind) > 1:
        yield (
            f"node encryption: {_some(behind)} are behind NAT, and two such nodes reach each other by no device: "
            "give them addresses that are their own, and say which: docker node update --label-add "
            "linkwire.address=ADDRESS NODE"
        )
    if encryption.mode == "off" and not without:
        yield (
            f"node encryption: {encryption.wanted} was asked for, and no controller has begun it: see `docker "
            "service logs linkwire_controller`"
        )
    elif not encryption.is_reached and encryption.mode != "off":
        yield from _switching(encryption)
    elif names := _unready(encryption, sum(not node.why_not for node in encryption.nodes)):
        effect = "do not get through" if encryption.step == "enforce" else "go in plain text"
        yield f"node encryption: {names}: overlay packets to the others {effect}: {_advice(encryption)}"


def rotation(encryption: Encryption) -> str:
    """Say what a rotation of the nodes' keys waits for; empty while none is under way."""
    if not encryption.behind:
        return ""
    waits = [f"{node.hostname} ({node.why_not})" for node in encryption.nodes if node.why_not]
    for node in encryption.behind:
        if encryption.epoch not in node.epochs:
            waits.append(f"{node.hostname} (has not got its new key)")
        elif node.waits_for:
            waits.append(f"{node.hostname} (does not reach {_some(list(node.waits_for))} by it)")
        else:
            waits.append(f"{node.hostname} (has its older key yet)")
    return f"new keys of nodes are under way: waiting for {_some(waits)}"


_PLAIN = {
    "enforce": "overlay packets to and from it are refused",
    "send": "overlay packets to and from it go in plain text",
    "accept": "overlay packets to and from it go in plain text",
    "off": "overlay packets to and from it go in plain text",
}


def _switching(encryption: Encryption) -> Iterator[str]:
    behind = [
        node.hostname
        for node in encryption.nodes
        if not node.why_not and (node.step, node.acknowledged) != (encryption.step, encryption.generation)
    ]
    text = f"node encryption is being switched: {encryption.mode}, step {encryption.step}"
    names = _unready(encryption, len(encryption.nodes))
    if behind:
        yield f"{text}: waiting for {_some(behind)}"
    elif LAST.get(encryption.wanted) == "enforce" and encryption.step == "send" and names:
        yield f"{text}: waiting for {names}: {_advice(encryption)}"
    else:
        yield text


def _unready(encryption: Encryption, among: int) -> str:
    """Name the nodes that reach fewer than all others of so many by their devices; empty for none."""
    lacking = [node for node in encryption.nodes if not node.why_not and node.ready < among - 1]
    return _some([f"{node.hostname} (reaches {node.ready} of {among - 1} other nodes)" for node in lacking])


def _advice(encryption: Encryption) -> str:
    udp = " and ".join(map(str, encryption.ports))
    return f"see that firewalls let UDP {udp} pass between the nodes, and that no two are behind NAT"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


@dataclass(frozen=True, slots=True)
class OverlayNetworks:
    """Overlay networks to which node encryption makes a difference.

    Attributes:
        encrypted: those that Docker encrypts itself.
        large: those whose packets do not fit, with their MTU.
        fits: the MTU of one whose packets do.
    """

    encrypted: tuple[str, ...] = ()
    large: tuple[tuple[str, int], ...] = ()
    fits: int = FITS

    def problems(self) -> Iterator[str]:
        """Name what is wrong with them."""
        if self.encrypted:
            yield (
                f"networks {_some(list(self.encrypted))} are encrypted by Docker too (option `encrypted`), which is "
                "double: their packets go past node encryption, as IPsec. To leave it, make a network without that "
                "option for each, move its services there (docker service update --network-rm OLD --network-add NEW "
                "SERVICE; in a compose file, name another network), and remove the old one"
            )

    def costs(self) -> Iterator[str]:
        """Say what node encryption costs on them."""
        if self.large:
            names = _some([f"{name} ({mtu})" for name, mtu in self.large])
            yield (
                f"the MTU of networks {names} is above {self.fits}: with node encryption the first large packets of "
                "a connection are fragmented or lost, until the sender has adapted. Where that matters, make the "
                f"network again with `driver_opts: {{{MTU}: {self.fits}}}`"
            )


def overlays(docker: Docker, fits: int = FITS) -> OverlayNetworks:
    """Look at all overlay networks of the Swarm; `fits` as of `fitting`. Raises DockerError."""
    ids = docker.ask(["network", "ls", "--quiet", "--filter", "driver=overlay"], listings.TIMEOUT).split()
    found = listings.read(docker.ask(["network", "inspect", *ids], listings.TIMEOUT)) if ids else []
    encrypted: list[str] = []
    large: list[tuple[str, int]] = []
    for raw in found:
        name, options = printable(str(raw.get("Name", ""))), raw.get("Options") or {}
        if ENCRYPTED in options:
            encrypted.append(name)
        text = str(options.get(MTU, _DEFAULT_MTU))
        mtu = int(text) if text.isdecimal() else _DEFAULT_MTU
        if mtu > fits:
            large.append((name, mtu))
    return OverlayNetworks(tuple(sorted(encrypted)), tuple(sorted(large)), fits)


def fitting(docker: Docker) -> int | None:
    """Return the MTU of an overlay network whose packets fit into node encryption; None where nobody wants that.

    The agent here says what fits on its ways to all other nodes; an older one does not.

    Raises:
        DockerError: the endpoint is no manager, or does not answer.
    """
    if wanted(installation.deployed(docker)) == "off":
        return None
    told: object = None
    with suppress(DockerError, ValueError):
        (answer,) = link_states.documents(docker, "overlay-mtu")
        told = answer.get("fits")
    return min(FITS, told) if isinstance(told, int) and told > 0 else FITS
