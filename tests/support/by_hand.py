"""The reference: a task wired as a person would, by `wg`, `ip`, `nft` and wireguard-go; no code of the agent's."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Iterable
from pathlib import Path

from mesh.topology.wgtypes import InterfaceConfig, PeerConfig

_TABLE = "byhand"


class ReferenceFailed(Exception):  # noqa: N818 - read as a sentence
    """A program of the reference did not do its part: there is nothing to compare with."""


def run(*command: str, stdin: str = "") -> str:
    """Run a program to its end and return what it says. Raises ReferenceFailed."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, input=stdin)
    if done.returncode:
        raise ReferenceFailed(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr.strip()}")
    return done.stdout


class Wiring:
    """How one device is made in one task, and read.

    Args:
        node: the name of the node's namespace, where the UDP socket is to be.
        task: the name of the task's namespace.
        userspace: by wireguard-go, or else by the kernel.
    """

    def __init__(self, node: str, task: str, *, userspace: bool) -> None:
        self._node = node
        self._task = task
        self._userspace = userspace

    def wire(self, config: InterfaceConfig, wg_file: Path, nft_file: Path | None = None) -> None:
        """Nine processes with wireguard-go, eight with the kernel; one less where there is no `nft_file`."""
        name = config.name
        if self._userspace:
            self.start(name)
            # It returns before it has opened its device, and gives up when that has moved by then; its answer tells.
            self.wg("setconf", name, str(wg_file))
            run("ip", "-n", self._node, "link", "set", name, "netns", self._task)
        else:
            run("ip", "-n", self._node, "link", "add", name, "netns", self._task, "type", "wireguard")
            self.wg("setconf", name, str(wg_file))
        for address in config.addresses:
            unasked = ("nodad",) if address.version == 6 else ()
            run("ip", "-n", self._task, "address", "add", str(address), "dev", name, *unasked)
        run("ip", "-n", self._task, "link", "set", name, "mtu", str(config.mtu), "up")
        for route in config.routes:
            run("ip", "-n", self._task, "route", "add", str(route.network), "dev", name)
        if nft_file is not None:
            self.nft("-f", str(nft_file))

    def nft(self, *arguments: str) -> str:
        """Run `nft` in the task."""
        return run("nsenter", f"--net=/run/netns/{self._task}", "nft", *arguments)

    def forget_rules(self) -> None:
        """Take the rules away, if they are there."""
        self.nft(f"add table inet {_TABLE}; delete table inet {_TABLE}")

    def wg(self, *arguments: str) -> str:
        """Run `wg`. wireguard-go is found by its control socket, from any namespace."""
        inside = () if self._userspace else ("nsenter", f"--net=/run/netns/{self._task}")
        return run(*inside, "wg", *arguments)

    def look(self, name: str) -> None:
        """Read what there is to read of a device and its rules, as text: five processes."""
        self.wg("show", name, "dump")
        run("ip", "-n", self._task, "address", "show", "dev", name)
        for family in ("-4", "-6"):
            run("ip", "-n", self._task, family, "route", "show", "dev", name)
        self.nft("list", "table", "inet", _TABLE)

    def peers(self, name: str) -> int:
        """How many peers the device has."""
        return len(self.wg("show", name, "peers").splitlines())

    def start(self, name: str) -> None:
        """Start wireguard-go, which puts itself into the background. A pipe for its output would stay open."""
        subprocess.run(
            ["nsenter", f"--net=/run/netns/{self._node}", "wireguard-go", name],
            check=True,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )


def write_wg_file(path: Path, config: InterfaceConfig) -> Path:
    """What `wg setconf` reads. It holds the private key."""
    key = base64.b64encode(config.private_key.raw).decode()
    lines = ["[Interface]", f"PrivateKey = {key}", f"ListenPort = {config.listen_port}"]
    for peer in config.peers:
        lines += _peer_lines(peer)
    path.touch(mode=0o600)
    path.write_text("\n".join([*lines, ""]))
    return path


def write_nft_file(path: Path, config: InterfaceConfig) -> Path:
    """What `nft -f` reads: a VIP for all peers, and nothing passes the device that no peer has begun or answers."""
    addresses: dict[int, list[str]] = {4: [], 6: []}
    for peer in config.peers:
        for network in sorted(peer.allowed_ips, key=str):
            addresses[network.version].append(str(network.network_address))
    families = [(family, addresses[version]) for family, version in (("ip", 4), ("ip6", 6))]
    vips = [str(entry.address) for entry in config.hosts]
    lines = [f"table inet {_TABLE} {{", "chain vip {", "type nat hook output priority -100;"]
    for (family, backends), vip in zip(families, vips, strict=True):
        choice = backends[0]
        if len(backends) > 1:
            elements = ", ".join(f"{number} : {backend}" for number, backend in enumerate(backends))
            choice = f"numgen random mod {len(backends)} map {{ {elements} }}"
        lines.append(f"{family} daddr {vip} dnat {family} to {choice}")
    lines += ["}"]
    for hook, device, field in (("input", "iifname", "saddr"), ("output", "oifname", "daddr")):
        lines += [f"chain {hook} {{", f"type filter hook {hook} priority 0;", f'{device} != "{config.name}" accept']
        lines += ["ct state established,related accept"]
        lines += [f"{family} {field} {{ {', '.join(its)} }} accept" for family, its in families]
        lines += ["counter drop", "}"]
    path.write_text("\n".join([*lines, "}", ""]))
    return path


def _peer_lines(peer: PeerConfig) -> Iterable[str]:
    yield "[Peer]"
    yield f"PublicKey = {peer.public_key}"
    if peer.preshared_key is not None:
        yield f"PresharedKey = {base64.b64encode(peer.preshared_key.raw).decode()}"
    yield f"Endpoint = {peer.endpoint}"
    yield f"AllowedIPs = {', '.join(map(str, sorted(peer.allowed_ips, key=str)))}"
    yield f"PersistentKeepalive = {peer.keepalive}"
