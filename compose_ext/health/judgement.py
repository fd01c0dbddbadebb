"""Judgement of a Swarm's links and of Linkwire itself: everything that is wrong, worst first. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from compose_ext.docker_cli import printable
from compose_ext.health import node_encryption
from compose_ext.health.node_encryption import Encryption
from compose_ext.swarm.link_states import Answer
from mesh.store.etcd_member import EtcdMember

HOLDER = "linkwire-wireguard-go"
"""Container of wireguard-go on nodes without WireGuard in their kernel (agent.containers.holder_container)."""
WELL, DEGRADED, BROKEN = 0, 1, 2
"""Exit codes: all is well; something is wrong, and links work; links, or what makes new ones, do not work."""

NOTHING_SEEN = "nothing wrong is seen; check --live tries every link"
"""Said where all is well. Counters do not tell of a port where nobody listens, or of large packets that vanish."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the Swarm, as a manager's Docker shows it."""

    id: str
    hostname: str
    is_up: bool
    has_gate: bool
    is_drained: bool = False


@dataclass(frozen=True, slots=True)
class Expiry:
    """A certificate in use."""

    name: str
    days: int
    remedy: str | None
    """The command to run now; None: it is good for long."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong, with what to do, and how bad it is: DEGRADED or BROKEN."""

    severity: int
    text: str


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that is known of a Swarm.

    Attributes:
        answer: of the agent on the endpoint; None where there is none, or no answer.
        unanswered: why, in words.
        nodes: None where the endpoint is a worker's, which does not know.
        running: the nodes' names on which the tasks of Linkwire's own services run, by role; None as with `nodes`.
        certificates: in use.
        others: further problems, in words, whose links work.
        encryption: that between nodes; None where nobody says.
        missing: links of which one side has no task, judged (compose_ext.health.missing_tasks).
    """

    answer: Answer | None
    unanswered: str = ""
    nodes: tuple[Node, ...] | None = None
    running: Mapping[str, tuple[str, ...]] | None = None
    certificates: tuple[Expiry, ...] = ()
    others: tuple[str, ...] = ()
    missing: tuple[Finding, ...] = ()
    encryption: Encryption | None = None

    @property
    def control(self) -> Mapping[str, Any]:
        """The agent's account of the control plane; empty where it gives none."""
        found = self.answer.raw.get("control") if self.answer is not None else None
        return found if isinstance(found, dict) else {}

    @property
    def members(self) -> tuple[EtcdMember, ...]:
        """Etcd's members as the agent sees them; empty where it does not say."""
        found = self.control.get("members")
        return tuple(map(_member, found)) if isinstance(found, list) else ()

    @property
    def agents(self) -> Mapping[str, Mapping[str, Any]]:
        """The agents that are heard, by their node's id."""
        found = self.control.get("agents")
        return found if isinstance(found, dict) else {}


@dataclass(frozen=True, slots=True)
class Health:
    """A judged Swarm: findings, worst first."""

    facts: Facts
    findings: tuple[Finding, ...] = field(default=())

    @property
    def severity(self) -> int:
        """The exit code."""
        return max((finding.severity for finding in self.findings), default=WELL)


def judge(facts: Facts) -> Health:
    """Find everything that is wrong."""
    by_text: dict[str, Finding] = {}
    found = (*_control_plane(facts), *_links(facts), *facts.missing, *_agents(facts), *_holders(facts))
    found = (*found, *_certificates(facts))
    for finding in found:
        by_text.setdefault(finding.text, finding)
    for text in (
        *facts.others,
        *(node_encryption.problems(facts.encryption) if facts.encryption is not None else ()),
    ):
        by_text.setdefault(text, Finding(DEGRADED, text))
    return Health(facts, tuple(sorted(by_text.values(), key=lambda finding: -finding.severity)))


def _member(raw: Mapping[str, Any]) -> EtcdMember:
    texts = [printable(str(raw.get(field, ""))) for field in ("endpoint", "name", "problem")]
    size, in_use = (value if isinstance(value := raw.get(field), int) else None for field in ("size", "in_use"))
    return EtcdMember(texts[0], texts[1], raw.get("is_leader") is True, texts[2], size, in_use)


def silence(hostname: str) -> str:
    """Return how a problem about a silent agent begins, by whoever tells it."""
    return f"node {hostname}: its agent is silent"


def _control_plane(facts: Facts) -> Iterator[Finding]:
    if facts.running is not None:
        for role, loss in (
            ("controller", "new tasks and changes are not wired"),
            ("etcd", "new tasks and changes are not wired, running links go on"),
        ):
            if facts.running.get(role) == ():
                yield Finding(
                    BROKEN, f"no task of linkwire_{role} runs, so {loss}: docker service ps linkwire_{role}"
                )
    if facts.answer is None:
        yield Finding(BROKEN, facts.unanswered)
    elif facts.control.get("reached") and facts.control.get("leader") is None:
        yield Finding(
            BROKEN,
            "no controller leads, so new tasks and changes are not wired: docker service ps linkwire_controller",
        )
    if facts.control.get("reached"):
        for member in facts.members:
            if member.problem:
                yield Finding(DEGRADED, _unanswered(facts, member))


def _unanswered(facts: Facts, member: EtcdMember) -> str:
    """Name a member of etcd that does not answer while others do, with what to do."""
    node = next((node for node in facts.nodes or () if node.id == member.name), None)
    where, name = (f" on {node.hostname}", node.hostname) if node is not None else ("", "NODE")
    text = f"etcd at {member.endpoint}{where} does not answer; the others do: {member.problem}. "
    if node is not None and not node.is_up:
        text += "Its node is down: start it"
    else:
        port = member.endpoint.rpartition(":")[2]
        text += f"See docker service ps linkwire_etcd, its log, and that TCP {port} there is reached from here"
    replaced = f"docker node demote {name}, docker node rm --force {name}, docker linkwire install"
    return f"{text}; where the node is lost for good: {replaced}"


def holder_problem(agent: Mapping[str, Any]) -> str | None:
    """Return why a node's holder of wireguard-go does not answer, with what to do; None where nothing is wrong."""
    problem = (agent.get("holder") or {}).get("problem")
    if not problem:
        return None
    return (
        f"its container {HOLDER} is missing or does not answer, so links there are down, or new ones are not made: "
        f"{printable(str(problem))}. There: docker rm --force {HOLDER}, and its agent makes another"
    )


def holder_note(agent: Mapping[str, Any]) -> str | None:
    """Return that a node's holder of wireguard-go is of another version, with what to do; None where it is not."""
    if not (agent.get("holder") or {}).get("other_version"):
        return None
    return (
        f"{HOLDER} is of another version than the agent, until the node has no device; at once, with links there "
        f"down for seconds: docker rm --force {HOLDER}"
    )


def _links(facts: Facts) -> Iterator[Finding]:
    if facts.answer is None:
        return
    broken = frozenset(str(text) for field in ("unanswered", "unwired") for text in facts.answer.raw.get(field, ()))
    for text in facts.answer.problems:
        yield Finding(BROKEN if text in broken else DEGRADED, text)


def _agents(facts: Facts) -> Iterator[Finding]:
    """Name the nodes whose agents are not heard, unless the answering agent hears nobody, or has named them."""
    if facts.nodes is None or facts.answer is None or not facts.control.get("reached"):
        return
    for node in facts.nodes:
        named = any(text.startswith(silence(node.hostname)) for text in facts.answer.problems)
        # Of a drained node Swarm ends the agent too, when its linked tasks have ended.
        if node.is_up and not node.is_drained and node.id not in facts.agents and not named:
            yield Finding(
                DEGRADED,
                f"{silence(node.hostname)}; links there go on, changes do not reach them: see `docker service ps "
                "linkwire_agent`, and that the node reaches TCP 2379 of the managers",
            )


def _holders(facts: Facts) -> Iterator[Finding]:
    """Name the nodes without a holder of wireguard-go that answers: their links are broken, or new ones would be."""
    for agent in facts.agents.values():
        if problem := holder_problem(agent):
            yield Finding(BROKEN, f"node {printable(str(agent.get('hostname')))}: {problem}")


def _certificates(facts: Facts) -> Iterator[Finding]:
    for each in facts.certificates:
        if each.days < 0:
            yield Finding(BROKEN, f"{each.name} has expired: {each.remedy or 'docker linkwire renew'}")
        elif each.remedy:
            yield Finding(DEGRADED, f"{each.name} expires in {each.days} days: {each.remedy}")
