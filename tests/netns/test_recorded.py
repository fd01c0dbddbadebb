"""A session with a real device, recorded, and attacked with every private key that it rests on, stolen or computed.

What it says stays closed without the link key.
"""

from __future__ import annotations

import socket
import time

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from mesh.crypto.preshared_keys import PresharedKey
from tests.netns.noise import RESPONSE, Secrets, initiation, opened, udp_packet
from tests.netns.test_linkkeys import between, secret, set_key
from tests.netns.test_traffic import PORT, receiver, udp
from tests.netns.world import Task, World
from tests.support.attacks import Attempts

CANARY = b"canary-of-a-recorded-session"
NONE = bytes(32)  # what WireGuard mixes in where there is no preshared key


def answer(inbound: socket.socket) -> bytes:
    """The response to our initiation; the other side makes initiations of its own meanwhile."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        message = inbound.recv(2000)
        if message[0] == RESPONSE:
            return message
    raise AssertionError("no answer to a good initiation")


@pytest.mark.parametrize("defended", [False, True], ids=["without a link key", "with one"])
def test_private_keys_open_no_recording_without_link_key(world: World, defended: bool, attempt: Attempts) -> None:
    here, there = world.nodes()
    ours, theirs = world.task(here), world.task(there)
    theirs.wire()
    key = between(ours, theirs, [secret("shop")]) if defended else None
    set_key(theirs, ours, key)
    everything = Secrets(
        X25519PrivateKey.from_private_bytes(ours.key.raw),
        X25519PrivateKey.generate(),
        X25519PublicKey.from_public_bytes(theirs.key.public.raw),
    )
    response, chain, digest, recorded = session(ours, theirs, everything, key)

    def attack(preshared: bytes) -> bytes | None:
        found = opened(everything, chain, digest, response, preshared)
        return found.read(recorded) if found else None

    plain = attack(NONE)
    assert (CANARY in plain if plain else False) != defended, "with the defence off the attack succeeds"
    if key is not None:
        tried = attempt("for a quantum computer: a recorded session, with every private key of it")
        for other in (PresharedKey.generate(), between(ours, theirs, [secret("shop", 1)])):
            assert attack(other.raw) is None
        tried.works(CANARY in (attack(key.raw) or b""), "with the link key too")
        tried.stopped(plain is None)


def session(
    ours: Task, theirs: Task, everything: Secrets, key: PresharedKey | None
) -> tuple[bytes, bytes, bytes, bytes]:
    """A handshake and one data message, which arrives: what was on the wire, and the state after the initiation."""
    with udp(ours.node.netns) as wire, receiver(theirs) as inside:
        wire.bind((str(ours.node.address.ip), ours.port))
        wire.settimeout(10)
        message, chain, digest = initiation(everything)
        wire.sendto(message, (str(theirs.node.address.ip), theirs.port))
        response = answer(wire)
        both = opened(everything, chain, digest, response, key.raw if key else NONE)
        assert both is not None, "the handshake is a good one"
        recorded = both.data(0, udp_packet(ours.address.ip, theirs.address.ip, PORT, CANARY))
        wire.sendto(recorded, (str(theirs.node.address.ip), theirs.port))
        inside.settimeout(10)
        assert inside.recv(100) == CANARY
    return response, chain, digest, recorded
