"""`docker linkwire renew`: new certificates, or a new signing key, in small steps while everything runs.

The services' mounts tell how far a renewal has come, so an interrupted one continues when it is run again. Each step
is deployed, and every task runs with it, before the next begins.
"""

import datetime as dt
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from compose_ext.diagnostics import DockerError
from compose_ext.docker_cli import Docker
from compose_ext.install import rollout
from compose_ext.install.install import WAIT
from compose_ext.install.options import choose
from compose_ext.install.target import Target, work_out
from compose_ext.secrets import etcd_certificates, external_etcd, seeds
from compose_ext.secrets.docker_secrets import DockerSecret, DockerSecrets
from compose_ext.swarm import installation, link_states, listings
from mesh.crypto.signed_envelope import VerifyKey

SIGNED_WITHIN = 60
"""Seconds for the controller to re-sign all records that it can."""
RENEWED_WITHIN = 120
"""Seconds for every link key to begin a new epoch: a leader that ends without a word is replaced within six."""
SOON = dt.timedelta(days=30)
"""Before the end, `--check` and `install` say so."""


class _Renewal:
    """One run of the command."""

    def __init__(self, docker: Docker, say: Callable[[str], None]) -> None:
        self.docker = docker
        self.say = say
        swarm = listings.manager(docker)
        self.cluster = swarm.cluster
        before = installation.deployed(docker)
        if not before.services:
            raise DockerError("Linkwire is not installed in this Swarm: `docker linkwire install` does it")
        self.secrets = DockerSecrets(docker, before)
        self.target: Target = work_out(
            docker, self.secrets, swarm, before, choose({}, before.options), given={}, say=say
        )
        self.in_use = before.mounts("controller") | before.mounts("agent") | before.mounts("etcd")

    def step(self, target: Target, what: str) -> None:
        """Deploy what mounts other secrets or configs, and wait until every task runs with it.

        Other services stay: Docker would replace the tasks of one that somebody has changed by hand, and a replaced
        agent may cost requests.
        """
        self.say(what)
        self.target = target
        release = target.release(self.secrets)
        now = installation.deployed(self.docker)
        changed = [role for role in release.services if release.mounts(role) != now.mounts(role)]
        if changed:
            rollout.deploy(self.docker, release, self.secrets, "changed", services=changed)
        rollout.wait(self.docker, WAIT, self.say)

    def clean(self) -> None:
        """Remove secrets and configs that no service mounts any more."""
        used = installation.deployed(self.docker).mounted_ids
        tls = self.target.tls
        kept = {*tls.server_trusts, *tls.clients_trust} if tls else set()
        for secret in self.secrets.everything():
            if secret.id not in used and not (secret.kind == etcd_certificates.CA and secret.number in kept):
                self.secrets.remove(secret)


def renew(
    docker: Docker, *, signing_key: bool, drop_old: bool, say: Callable[[str], None], link_seed: bool = False
) -> None:
    """Renew the certificates between Linkwire and etcd, the signing key, or the link seed with all link keys.

    Args:
        docker: a manager's.
        signing_key: renew that instead of the certificates.
        drop_old: end trust in the old authority at once.
        say: prints a line of progress.
        link_seed: renew that instead.

    Raises:
        DockerError: Docker failed or a step did not come to its end; run again, it goes on there.
    """
    renewal = _Renewal(docker, say)
    if signing_key:
        _signing_key(renewal)
    elif link_seed:
        _link_seed(renewal)
    else:
        _certificates(renewal, drop=drop_old)
    renewal.clean()


def _certificates(renewal: _Renewal, *, drop: bool) -> None:
    state = renewal.target.tls
    if state is None:
        raise DockerError(
            "etcd is your own here, and so are its certificates: `docker linkwire install` takes new ones, with "
            "--etcd-ca, --etcd-cert and --etcd-key"
        )
    newest = etcd_certificates.generations(renewal.secrets)[-1]
    begun = newest.number not in {state.server, state.clients} or state.server != state.clients
    several = bool(renewal.target.members)
    if begun and etcd_certificates.following(state, newest.number, several=several):
        renewal.say(f"continuing with certificates number {newest.number}")
    else:
        newest = etcd_certificates.make(renewal.secrets, newest.addresses)
        renewal.say(f"made certificates number {newest.number}")
    while step := etcd_certificates.following(state, newest.number, drop=drop, several=several):
        what = _described(state, step)
        state = step
        renewal.step(replace(renewal.target, tls=step), what)
    renewal.say(f"renewed: good until {newest.expires:%Y-%m-%d}")


def _described(before: etcd_certificates.State, after: etcd_certificates.State) -> str:
    if before.clients != after.clients:
        return "controllers and agents present the new certificate"
    if before.server != after.server and len(after.server_trusts) > 1:
        return "etcd's members present the new certificate, one after the other"
    if before.server != after.server or (len(before.server_trusts) > len(after.server_trusts) == 1):
        return "etcd presents the new certificate, and accepts no old one"
    if before.clients_trust != after.clients_trust:
        return "controllers and agents accept no old certificate"
    return "etcd accepts the new certificates too"


def _signing_key(renewal: _Renewal) -> None:
    secrets, current = renewal.secrets, renewal.target.seeds
    newest = secrets.all(seeds.SIGNING)[-1]
    both = seeds.verify_keys(secrets, renewal.cluster, [current.signing, newest])
    if newest == current.signing and current.verify_keys.name in renewal.in_use:
        newest = seeds.new_signing(secrets, current.installation)
        both = seeds.verify_keys(secrets, renewal.cluster, [current.signing, newest])
    if newest != current.signing:
        renewal.step(
            replace(renewal.target, seeds=replace(current, verify_keys=both)),
            "controllers and agents accept the new key too",
        )
        current = replace(current, signing=newest, verify_keys=both)
        renewal.step(replace(renewal.target, seeds=current), "the controllers sign with the new key")
        _wait_signed(renewal, newest)
    last = seeds.verify_keys(secrets, renewal.cluster, [newest])
    renewal.step(
        replace(renewal.target, seeds=replace(current, verify_keys=last)), "controllers and agents accept no old key"
    )
    renewal.say("the signing key is renewed")


def _link_seed(renewal: _Renewal) -> None:
    current = renewal.target.seeds
    newest, before = seeds.new_link(renewal.secrets, current), _epochs(renewal)
    renewal.step(
        replace(renewal.target, seeds=replace(current, link=newest)),
        "the controllers take a new link seed, and every link key gets a new secret",
    )
    deadline = time.monotonic() + RENEWED_WITHIN
    while old := sorted(key for key, epoch in _epochs(renewal, before).items() if epoch <= before.get(key, -1)):
        if time.monotonic() > deadline:
            raise DockerError(
                f"after {RENEWED_WITHIN} s the old seed is still part of {', '.join(old)}: a node "
                "with it is silent, see `docker linkwire ps`; it is renewed when that one returns"
            )
        time.sleep(rollout.LOOK_EVERY)
    renewal.say("the link seed is renewed: the old one opens no link key any more")


def _epochs(renewal: _Renewal, otherwise: dict[str, int] | None = None) -> dict[str, int]:
    """Return the epoch of each link key; `otherwise` while there is no agent to ask."""
    try:
        links = link_states.ask(renewal.docker, None).links
    except DockerError:
        if otherwise is None:
            raise
        return otherwise
    return {link.key: link.epoch for link in links if link.epoch is not None}


def _wait_signed(renewal: _Renewal, newest: DockerSecret) -> None:
    """Wait until every record is signed with the new key, so that a reader who trusts only that one misses none."""
    wanted = VerifyKey.parse(newest.labels.get(seeds.VERIFY_LABEL, "")).id.hex()
    # A resting address is not rewritten: its lease would be lost. Its signature goes when its rest ends.
    within = SIGNED_WITHIN + int(renewal.target.options.address_rest)
    deadline = time.monotonic() + within
    renewal.say(f"waiting until every record is signed with it: as long as freed addresses rest, at most {within} s")
    while True:
        try:
            signers = link_states.ask_signers(renewal.docker).raw.get("signed_by")
        except DockerError:  # this node's agent is being replaced
            signers = None
        if signers == [wanted]:
            renewal.say("every record is signed with the new key")
            return
        if time.monotonic() > deadline:
            raise DockerError(
                f"after {within} s there are records that are not signed with the new key, so the old one "
                "still counts; see `docker service logs linkwire_controller`, and run this again"
            )
        time.sleep(rollout.LOOK_EVERY)


@dataclass(frozen=True, slots=True)
class Stored:
    """A secret or config of Linkwire, with its expiry."""

    name: str
    sort: str
    in_use: bool
    verify_key: str | None
    """Of a signing key."""
    expires: str | None
    """As ISO 8601 has it; None: never."""
    days: int | None
    """Until then."""
    remedy: str | None
    """The command to run now; None: it is good."""

    def __str__(self) -> str:
        words = [self.sort, "in use" if self.in_use else "not in use"]
        words += [f"verify key {self.verify_key}"] if self.verify_key else []
        if self.expires:
            end = f": {self.remedy}" if self.remedy else ""
            words.append(f"good until {self.expires[:10]} ({self.days} days){end}")
        return f"{self.name}: {', '.join(words)}"


def check(docker: Docker) -> tuple[list[Stored], list[str]]:
    """Return all secrets and configs with their expiry, and other problems.

    Raises:
        DockerError: Docker failed, or Linkwire is not installed.
    """
    found = installation.deployed(docker)
    if not found.services:
        raise DockerError("Linkwire is not installed in this Swarm: `docker linkwire install` does it")
    secrets = DockerSecrets(docker, found)
    used = {name for service in found.services for name in found.mounts(service)}
    now = dt.datetime.now(dt.UTC)
    stored = [
        _stored(secret, secret.name in used, now)
        for secret in sorted(secrets.everything(), key=lambda secret: secret.name)
    ]
    shown = [
        secret for secret in secrets.everything() if secret.kind in etcd_certificates.SECRETS and secret.name in used
    ]
    broken_off = len({secret.number for secret in shown}) > 1
    problems = ["a renewal was broken off: docker linkwire renew"] if broken_off else []
    strangers = ", ".join(secret.name for secret in secrets.strangers)
    problems += [f"no install has recorded {strangers}: nothing uses them, remove them"] if strangers else []
    return stored, problems


def _remedy(secret: DockerSecret) -> str:
    own = secret.kind in external_etcd.KINDS
    return "docker linkwire install with new files" if own else "docker linkwire renew"


def _stored(secret: DockerSecret, in_use: bool, now: dt.datetime) -> Stored:
    expires = secret.labels.get(etcd_certificates.EXPIRES)
    left = dt.datetime.fromisoformat(expires) - now if expires else None
    ends = in_use and left is not None and left <= SOON
    key = secret.labels.get(seeds.VERIFY_LABEL, "unknown") if secret.kind == seeds.SIGNING else None
    remedy = _remedy(secret) if ends else None
    return Stored(secret.name, secret.sort, in_use, key, expires, left.days if left else None, remedy)
