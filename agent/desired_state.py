"""Desired state of this node's interfaces, derived from what was verified of the store."""

from __future__ import annotations

import time
from collections.abc import Set as AbstractSet
from dataclasses import replace
from ipaddress import IPv4Address

from agent.interface.path_mtu import PathMtu
from agent.interface.task import TaskState
from agent.linux import sysctl
from agent.node_encryption import tunnel as tunnels
from agent.node_encryption.keeper import Wanted
from agent.node_encryption.key import HeldKey, NodeKeys
from agent.node_encryption.tunnel import NodeTunnel, Places
from agent.state.link_keys import HeldLinkKeys
from agent.state.verified_state import VerifiedState
from agent.wireguard.backend import Backend
from mesh.crypto.hpke import NodeKey
from mesh.crypto.keys import PrivateKey, PublicKey
from mesh.crypto.preshared_keys import LinkKeys, PresharedKey
from mesh.errors import Terminal
from mesh.integrity.sealed_keys import open_key
from mesh.model import keyspace
from mesh.model.encryption.records import NODES_KEY, NodeEncryption, Underlay
from mesh.model.records import Endpoint, SealedKey
from mesh.model.snapshot import Snapshot
from mesh.topology.desired import desired
from mesh.topology.link_graph import LinkGraph, index, reindex
from mesh.topology.strict_isolation import LocalNetworks
from mesh.topology.wgtypes import InterfaceConfig


class DesiredState:
    """The records that a node acts on, and the interfaces that its tasks should have. Only the loop calls it.

    Attributes:
        trust: decides what is acted on.
        backend: of the tasks' devices.
        verified: the records that are acted on.
        graph: their index.
    """

    def __init__(
        self, node: str, key: NodeKey, trust: VerifiedState, backend: Backend, *, node_keys: NodeKeys | None = None
    ) -> None:
        """Act on nothing yet. `node`: this node's id; `key`: its sealing key; `node_keys`: its own devices'."""
        self._node = node
        self._key = key
        self.backend = backend
        self._path_mtu = PathMtu()
        self._ipv6 = sysctl.has_ipv6()
        self._link_keys = HeldLinkKeys(node, key)
        self._task_keys: dict[tuple[str, int], PrivateKey] = {}
        self._node_keys = node_keys
        self._tunnel: tuple[Snapshot, LinkKeys, tuple[HeldKey, ...], Wanted] = (
            Snapshot(),
            self._link_keys.held,
            (),
            Wanted(),
        )
        self._places = Places()
        self._shown = Snapshot()
        self.trust = trust
        self.verified = Snapshot()
        self.graph: LinkGraph = index(self.verified)

    @property
    def is_whole(self) -> bool:
        """Whether everything is known, so that it may be removed from, and a controller uses the store."""
        return self.graph.complete and self.graph.cluster is not None

    @property
    def link_keys(self) -> LinkKeys:
        """The link keys that this node holds: another object when one of them has a new epoch."""
        return self._link_keys.held

    def update(self, snapshot: Snapshot, unreachable: frozenset[IPv4Address]) -> None:
        """Act on a snapshot from now on, if it may be acted on; and on which endpoints answer here."""
        if snapshot is not self._shown or not snapshot.revision or self.trust.is_unsaved:
            self._shown = snapshot
            verified = self.trust.update(snapshot)
            if verified is not self.verified:
                self.graph = reindex(self.graph, self.verified, verified)
                self.verified = verified
                self._link_keys.learn(verified)
        if unreachable != self.graph.unreachable:
            self.graph = replace(self.graph, unreachable=unreachable)

    def node_tunnel(self) -> Wanted:
        """Derive this node's part in node encryption."""
        snapshot, held, had, wanted = self._tunnel
        keys = self._node_keys.held if self._node_keys is not None else ()
        changed = self.verified.changed_since(snapshot)
        kinds = (keyspace.ENCRYPTION, keyspace.UNDERLAYS)
        concerns = None if changed is None else {key for key in changed if key.startswith(kinds)}
        if held is not self.link_keys or had != keys:
            concerns = None
        if concerns is None or concerns:
            joined = self._join_tunnel(wanted.tunnel, snapshot, concerns)
            wanted = replace(wanted, tunnel=joined or self._derive_tunnel(keys, had))
        wanted = replace(wanted, complete=self.is_whole and bool(keys))
        self._tunnel = (self.verified, self.link_keys, keys, wanted)
        return wanted

    def _derive_tunnel(self, keys: tuple[HeldKey, ...], had: tuple[HeldKey, ...]) -> NodeTunnel | None:
        encryption = self.verified.get(keyspace.ENCRYPTION, NodeEncryption)
        if encryption is None or not keys:
            return None

        self._places = Places(self.verified.all(Underlay))
        tunnel = tunnels.desired(encryption, self.verified.all(Underlay), self._node, keys, self._nodes_preshared_key)
        peers = {device.private_key.public: device.peers for device in tunnel.devices}
        for key in {*keys, *had}:
            own = key.private_key.public
            self.link_keys.drop_stale(own, [peer.public_key for peer in peers.get(own, ())])
        return tunnel

    def _join_tunnel(
        self, tunnel: NodeTunnel | None, before: Snapshot, changed: AbstractSet[str] | None
    ) -> NodeTunnel | None:
        """Derive it after some places have come; None where something else changed, or that does not tell."""
        for key in changed or ():
            place = self.verified.get(key, Underlay)
            if tunnel is None or place is None or place.node == self._node:
                return None
            come = self._places.take(before.get(key, Underlay), place)
            tunnel = tunnels.joined(tunnel, place, come, self._nodes_preshared_key) if come is not None else None
        return tunnel if changed else None

    def _nodes_preshared_key(self, own: PublicKey, other: PublicKey) -> PresharedKey | None:
        return self.link_keys.between(own, other, (NODES_KEY,))

    def drop_keys(self, task: str) -> None:
        """Forget the keys of a task that ended."""
        for key in [key for key in self._task_keys if key[0] == task]:
            self._link_keys.held.drop_stale(self._task_keys.pop(key).public, ())

    def interface(self, state: TaskState, endpoint: Endpoint, here: LocalNetworks) -> InterfaceConfig | None:
        """Derive a task's interface; None while something that it rests on is missing.

        Raises:
            Terminal: its key cannot be had.
        """
        key = self._private_key(endpoint)
        hosts = tuple({peer.underlay.host for peer in self.graph.peers(endpoint)})
        mtu = self.backend.largest(self._path_mtu.least(hosts))
        state.suspects = self.graph.suspects(endpoint)
        config = desired(self.graph, endpoint, key, mtu, here, link_keys=self.link_keys, peer_configs=state.peers)
        if config is None:
            return None
        applied = state.interface.applied
        bounded = state.bounds.within(
            config.policy, applied.policy if applied is not None else None, time.monotonic()
        )
        config = replace(config, policy=bounded)
        resolving = state.dns.resolving(state.local.hosts, config.policy.resolving.names)
        config = replace(config, policy=replace(config.policy, resolving=resolving))
        return config if self._ipv6 else config.without_ipv6()

    def _private_key(self, endpoint: Endpoint) -> PrivateKey:
        """Open the task's sealed key, once. Raises Terminal."""
        opened = self._task_keys.get((endpoint.task, endpoint.epoch))
        if opened is not None and opened.public == endpoint.public_key:
            return opened
        sealed = self.verified.get(keyspace.sealed_key(self._node, endpoint.task), SealedKey)
        if sealed is None:
            raise Terminal("its key is not in the store yet")
        key = open_key(sealed, self._key)
        if key.public != endpoint.public_key:
            raise Terminal("its key in the store does not match its endpoint")
        self._task_keys[endpoint.task, endpoint.epoch] = key
        return key
