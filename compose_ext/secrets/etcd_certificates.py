"""Certificates between Linkwire and its etcd, in generations: list, current state, next step.

A generation is an authority's certificate with one certificate each for etcd, the controllers and the agents. The
authority's own key is in this process's memory while it makes them, and then nowhere: a new generation has a new one.
So while one takes another's place, both authorities are trusted, in an order in which nobody is ever refused.
"""

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from compose_ext.diagnostics import DockerError
from compose_ext.secrets.docker_secrets import AUTHORITY, CONFIG, SECRET, DockerSecret, DockerSecrets, name_of
from mesh.identity.ca import CertificateAuthority
from mesh.identity.etcd_users import AGENT, CONTROLLER, MEMBER

CA, SERVER, TRUST = AUTHORITY, "etcd_server", "etcd_trust"
CONTROLLER_KEY, AGENT_KEY = "etcd_controller", "etcd_agent"
PEER = "etcd_peer"
"""Shown by etcd's members to each other; there where etcd has several."""
SECRETS = (SERVER, CONTROLLER_KEY, AGENT_KEY)
EXPIRES = "org.linkwire.expires"
"""Label: when, in UTC, as ISO 8601 writes it."""
ADDRESS = "org.linkwire.address"
"""Label: the addresses that etcd's certificate is good at, comma separated."""
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class State:
    """The generation whose certificate each side presents, and the generations that it trusts."""

    server: int
    clients: int
    server_trusts: frozenset[int]
    clients_trust: frozenset[int]


@dataclass(frozen=True, slots=True)
class Generation:
    """A complete generation.

    Attributes:
        number: of its secrets and config.
        expires: with all of its certificates.
        addresses: that etcd's certificate is good at.
        has_peer: whether it has a certificate for members among each other.
    """

    number: int
    expires: dt.datetime
    addresses: tuple[str, ...]
    has_peer: bool = False

    def covers(self, addresses: Iterable[str]) -> bool:
        """Tell whether it will do for etcd's members at these addresses."""
        wanted = set(addresses)
        return wanted <= set(self.addresses) and (len(wanted) == 1 or self.has_peer)


def settled(number: int) -> State:
    """Return the state in which one generation is used throughout."""
    return State(number, number, frozenset({number}), frozenset({number}))


def following(state: State, wanted: int, *, drop: bool = False, several: bool = False) -> State | None:
    """The next step on the way to a generation; None at the end.

    In every step each side trusts what the other shows, before and after it, and in whatever order Swarm does it.

    Args:
        state: as it is.
        wanted: the generation.
        drop: clients are restarted once more, not to trust the old authority; else that ends with its certificate.
        several: etcd has several members, which show each other certificates and are restarted one by one.
    """
    old = {state.clients, state.server} if several else {state.clients}
    step = state
    if (wanted not in state.server_trusts and state.clients != wanted) or (
        several and state.server != wanted and not {state.server, wanted} <= state.server_trusts
    ):
        step = replace(state, server_trusts=frozenset({*old, wanted}))
    elif state.clients != wanted or wanted not in state.clients_trust:
        step = replace(state, clients=wanted, clients_trust=frozenset({state.server, wanted}))
    elif state.server != wanted and several:
        step = replace(state, server=wanted)
    elif state.server != wanted or state.server_trusts != {wanted}:
        step = replace(state, server=wanted, server_trusts=frozenset({wanted}))
    elif drop and state.clients_trust != {wanted}:
        step = replace(state, clients_trust=frozenset({wanted}))
    return None if step == state else step


def without_surplus(state: State) -> State | None:
    """Return the state in which etcd trusts only what is shown to it; None where it does, as in a renewal."""
    shown = frozenset({state.server, state.clients})
    return replace(state, server_trusts=shown) if shown < state.server_trusts else None


def generations(secrets: DockerSecrets) -> list[Generation]:
    """Return the complete generations, the oldest first."""
    found = []
    for ca in secrets.all(CA):
        if all(secrets.find(kind, ca.number) for kind in SECRETS):
            try:
                expires = dt.datetime.fromisoformat(ca.labels[EXPIRES])
            except (KeyError, ValueError):
                continue
            addresses = tuple(ca.labels.get(ADDRESS, "").split(","))
            found.append(Generation(ca.number, expires, addresses, secrets.find(PEER, ca.number) is not None))
    return found


def make(
    secrets: DockerSecrets, addresses: Sequence[str], authority: CertificateAuthority | None = None
) -> Generation:
    """Make a generation. Leftovers of an interrupted one stay unused: its authority's key is gone.

    Args:
        secrets: of the Swarm.
        addresses: at which etcd is reached, one of each member.
        authority: for tests; None: a new one.

    Raises:
        DockerError: Docker failed.
    """
    number, several = secrets.next_number(CA, *SECRETS, PEER), len(addresses) > 1
    authority = authority or CertificateAuthority(f"Linkwire etcd {number}")
    labels = {EXPIRES: authority.expires.isoformat(), ADDRESS: ",".join(addresses)}
    secrets.make(SECRET, SERVER, number, authority.server([*addresses, LOOPBACK]), labels)
    if several:
        secrets.make(SECRET, PEER, number, authority.member(MEMBER, addresses), labels)
    secrets.make(SECRET, CONTROLLER_KEY, number, authority.client(CONTROLLER), labels)
    secrets.make(SECRET, AGENT_KEY, number, authority.client(AGENT), labels)
    secrets.make(CONFIG, CA, number, authority.pem, labels)
    return Generation(number, authority.expires, tuple(addresses), several)


def state_of(secrets: DockerSecrets, server: frozenset[str], clients: frozenset[str]) -> State | None:
    """Return the generations that the services mount.

    Args:
        secrets: of the Swarm.
        server: names that etcd's service mounts.
        clients: names that the agents' service mounts.

    Returns:
        None where they mount no certificates.
    """
    shown = _mounted(secrets.all(SERVER), server), _mounted(secrets.all(AGENT_KEY), clients)
    trusted = _mounted(secrets.all(TRUST), server), _mounted(secrets.all(TRUST), clients)
    if not (shown[0] and shown[1] and trusted[0] and trusted[1]):
        return None
    return State(
        shown[0].number, shown[1].number, _authorities(secrets, trusted[0]), _authorities(secrets, trusted[1])
    )


def mounted(secrets: DockerSecrets, state: State) -> dict[str, str]:
    """Variables of the stack file for a state; makes the configs of trusted authorities that it needs.

    Raises:
        DockerError: Docker failed, or an authority's certificate is gone.
    """
    return {
        "LINKWIRE_ETCD_SERVER_NAME": name_of(SERVER, state.server),
        "LINKWIRE_ETCD_PEER_NAME": name_of(PEER, state.server),
        "LINKWIRE_ETCD_CONTROLLER_NAME": name_of(CONTROLLER_KEY, state.clients),
        "LINKWIRE_ETCD_AGENT_NAME": name_of(AGENT_KEY, state.clients),
        "LINKWIRE_ETCD_SERVER_TRUST_NAME": _trust(secrets, state.server_trusts).name,
        "LINKWIRE_ETCD_CLIENT_TRUST_NAME": _trust(secrets, state.clients_trust).name,
    }


def _trust(secrets: DockerSecrets, numbers: Iterable[int]) -> DockerSecret:
    found = [secrets.find(CA, number) for number in sorted(numbers)]
    if None in found:
        raise DockerError(f"a config {name_of(CA, 0)[:-1]}N that is in use is gone: run `docker linkwire renew`")
    content = b"".join(ca.content for ca in found if ca)
    for secret in secrets.all(TRUST):
        if secret.content == content:
            return secret
    return secrets.make(CONFIG, TRUST, secrets.next_number(TRUST), content)


def _mounted(secret: Iterable[DockerSecret], names: frozenset[str]) -> DockerSecret | None:
    return next((one for one in secret if one.name in names), None)


def _authorities(secrets: DockerSecrets, trust: DockerSecret) -> frozenset[int]:
    return frozenset(ca.number for ca in secrets.all(CA) if ca.content in trust.content)
