"""Render cache of one task: results that come out the same again; only ever a short cut, never a fact.

Rendering a policy and comparing a thousand peers take tens of milliseconds, and both are asked for at each look,
though nearly always nothing has changed.
"""

from __future__ import annotations

from agent.firewall.ruleset import render
from agent.linux.nft_json import Rules
from mesh.crypto.keys import PublicKey
from mesh.crypto.preshared_keys import PresharedKey
from mesh.model.net import IPNetwork, UdpEndpoint
from mesh.topology.policy import Policy
from mesh.topology.wgtypes import Peer, PeerConfig

_Alike = tuple[PeerConfig, UdpEndpoint | None, frozenset[IPNetwork], PresharedKey | None, int]


class RenderCache:
    """Cache of one task's interface. It holds the very objects that were compared: no other can be taken for them."""

    def __init__(self) -> None:
        self._rendered: tuple[Policy, str, Rules] | None = None
        self._alike: dict[PublicKey, _Alike] = {}

    def render(self, policy: Policy, device: str) -> Rules:
        """See `agent.firewall.ruleset.render`."""
        last = self._rendered
        if last is None or last[1] != device or last[0] != policy:
            last = (policy, device, render(policy, device))
        self._rendered = last
        return last[2]

    def alike(self, wanted: PeerConfig, seen: Peer) -> bool:
        """Tell whether a peer, which must have a preshared key, is observed to be just as desired."""
        last = self._alike.get(wanted.public_key)
        if (
            last is not None
            and last[0] is wanted
            and last[1] is seen.endpoint
            and last[2] is seen.allowed_ips
            and last[3] is seen.preshared_key
            and last[4] == seen.keepalive
        ):
            return True
        alike = (
            wanted.preshared_key is not None
            and wanted.keepalive == seen.keepalive
            and wanted.endpoint == seen.endpoint
            and wanted.preshared_key == seen.preshared_key
            and wanted.allowed_ips == seen.allowed_ips
        )
        if alike:
            last = (wanted, seen.endpoint, seen.allowed_ips, seen.preshared_key, seen.keepalive)
            self._alike[wanted.public_key] = last
        return alike

    def drop_all_but(self, peers: dict[PublicKey, PeerConfig]) -> None:
        """Forget peers other than these."""
        if len(self._alike) > len(peers):
            self._alike = {key: last for key, last in self._alike.items() if key in peers}
