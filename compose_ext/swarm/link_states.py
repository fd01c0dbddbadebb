"""The state of all links, as the agent on a Docker endpoint answers it."""

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from compose_ext.diagnostics import DockerError
from compose_ext.docker_cli import Docker, printable
from compose_ext.swarm import listings
from compose_ext.swarm.installation import STACK
from mesh.model.pair_columns import with_pairs
from mesh.process.gc_tuning import gc_paused

CONTRACT = 1
"""The version of the agent's answer that is understood here."""
SERVICE = f"{STACK}_agent"
"""The service that `docker linkwire install` makes; no other service of the Swarm can have its name."""
SWARMS_LABEL = "com.docker.swarm.service"
"""Prefix of Swarm's own labels of a container, which replace any of that name in a service's specification."""
ASK = "linkwire-ask"
"""The program in the agent's container that carries a query to the running agent."""
OLDER = (
    "the agent on this Docker endpoint is older than this program and cannot answer: update Linkwire, with "
    "`docker linkwire install --image IMAGE`"
)
NOT_INSTALLED = "this Swarm has no Linkwire: docker linkwire install --image IMAGE (--check looks whether it can)"
NO_READY_TASK = "no ready task"
"""The state of a link whose provider has none."""
TIMEOUT = 20.0
"""Seconds; an endpoint over ssh takes some to answer."""
LINKS_S = 120.0
"""Seconds for what an agent says of all links, 5,000 perhaps; `linkwire-ask` finds out one that hangs."""
_TICK_S = 0.5
_NO_SERVICE, _NO_LEADER = "no such service", "does not have a leader"
_ID = re.compile(r"[0-9a-f]{64}")
_NAMING = ("links", "ends", "problems", "unanswered", "unwired")
"""The fields that name nodes to people; others go by their ids."""
_PAIRS = ("pairs", "worst")
_NODE_ID = re.compile(r"\bnode [a-z0-9]{25}\b")


class Pair(NamedTuple):
    """Two tasks of a link, as measured at the consumer's device."""

    consumer_task: str
    consumer_node: str
    provider_task: str
    provider_node: str
    state: str
    handshake_age: float | None
    """Seconds since the last handshake; None: there was none."""
    received: int
    """Bytes."""
    sent: int
    """Bytes."""
    error: str | None
    lasting: float | None = None
    """Seconds for which it has been broken, or its node silent; None where it is neither, or nobody knows."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over the pairs of a link."""

    received: int
    """Bytes that its consumers received."""
    sent: int
    handshake_age: float | None
    """Seconds since the last handshake of any pair; None: there was none."""
    worst: tuple[Pair, ...]
    """Pairs that are neither connected nor idle, the worst first: some of them."""


@dataclass(frozen=True, slots=True)
class Link:
    """One link with all its pairs."""

    consumer: str
    provider: str
    aliases: tuple[str, ...]
    pairs: tuple[Pair, ...]
    """Empty where they were only counted."""
    refused: int | None  # packets that neither end's tasks let pass, in both directions; None: the agent does not say
    key: str
    """The name of its link key; empty: the agent does not say."""
    epoch: int | None
    """Number of the key's current secret; None: none yet."""
    allowed: bool = True
    """Whether the provider allows it; an older agent does not say."""
    ports: str = ""
    """Such as `5432/tcp, 53/udp`, `all` or `none`; empty: the agent does not say."""
    states: Mapping[str, int] = field(default_factory=dict)
    """How many pairs are in each state."""
    consumers: int | None = None
    """Tasks of the consumer; None: the agent does not say."""
    ready: int | None = None
    """Tasks of the provider that take new connections; None: the agent does not say."""
    totals: Totals | None = None
    """None where they were not asked for, or an older agent has named the pairs in their place."""

    @property
    def is_without_backend(self) -> bool:
        """Whether tasks of the consumer have no ready task of a provider that allows the link."""
        return self.allowed and self.ready == 0 and bool(self.consumers)


@dataclass(frozen=True, slots=True)
class Answer:
    """The agent's answer."""

    links: tuple[Link, ...]
    problems: tuple[str, ...]
    raw: dict[str, Any]
    stacks: tuple[str, ...] | None = None
    """The stacks that have linked services; None: an older agent does not say."""


def container(docker: Docker) -> str:
    """Find the agent on the endpoint; returns its container's id.

    Anybody may label or name a container as he likes, so only Swarm says which one it is: a manager by the task that
    it runs there. A worker's Docker, and a manager's while there is no leader, is asked for Swarm's own label, which
    no service can set.

    Raises:
        DockerError: there is none, or no Linkwire at all.
    """
    try:
        tasks = listings.tasks(docker, SERVICE, wanted="node=self")
    except DockerError as error:
        if _NO_SERVICE in str(error):
            raise DockerError(NOT_INSTALLED) from None
        if listings.NO_MANAGER not in str(error) and _NO_LEADER not in str(error):
            raise
        found = _on_worker(docker)
    else:
        # While an agent is being replaced there may be two.
        running = [task["Status"] for task in tasks if task["Status"]["State"] == "running"]
        newest: dict[str, Any] = max(running, key=lambda status: str(status.get("Timestamp", "")), default={})
        found = str((newest.get("ContainerStatus") or {}).get("ContainerID", ""))
    if not _ID.fullmatch(found):
        raise DockerError(
            "no Linkwire agent runs on this Docker endpoint. If Linkwire is installed, docker service ps --no-trunc "
            f"{SERVICE} on a manager says why; choose another node with -H or --context"
        )
    return found


def _on_worker(docker: Docker) -> str:
    words = ["ps", "--no-trunc", "--filter", f"label={SWARMS_LABEL}.name={SERVICE}", "--filter", "status=running"]
    form = f'{{{{.ID}}}} {{{{.Label "{SWARMS_LABEL}.id"}}}}'
    lines = [line.split() for line in docker.ask([*words, "--format", form], TIMEOUT).splitlines()]
    found = [words for words in lines if len(words) == 2 and _ID.fullmatch(words[0])]  # noqa: PLR2004 - as in `form`
    if len({service for _, service in found}) > 1:
        raise DockerError(
            f"containers of two services on this node are called {SERVICE}, so one is not Linkwire's: ask a manager, "
            "with -H or --context, and remove the other container"
        )
    return found[0][0] if found else ""  # the newest is listed first


def ask(docker: Docker, stack: str | None, *, counted: bool = False, totals: bool = False) -> Answer:
    """Ask the running agent on the endpoint.

    Args:
        docker: the endpoint.
        stack: only its links.
        counted: whether it is enough how many pairs of a link are in each state; an older agent names all.
        totals: likewise, with what a link's pairs come to and the worst of them.

    Raises:
        DockerError: there is no agent, or no answer that can be understood.
    """
    answer = judged(_with_names(docker, links(docker, stack, counted=counted, totals=totals)))
    problems = listings.with_near_services(docker, answer.problems)
    return replace(answer, problems=tuple(problems), raw={**answer.raw, "problems": problems})


def links(docker: Docker, stack: str | None, *, counted: bool = False, totals: bool = False) -> dict[str, Any]:
    """Ask the running agent on the endpoint as `ask` does; returns its answer as it came, {} where there is none.

    Pairs come in columns (mesh.model.pair_columns); an older agent does not know that word, and sends each by itself.

    Raises:
        DockerError: there is no agent, or its answer cannot be read.
    """
    form: dict[str, Any] = {"columns": not counted or None, "totals": totals or None, "counted": counted or None}
    return next(iter(documents(docker, "links", LINKS_S, stack=stack, **form)), {})


def _with_names(docker: Docker, raw: dict[str, Any]) -> dict[str, Any]:
    """Put names in the place of nodes' ids: an agent that has started since does not know those of silent nodes."""
    if not _has_ids(raw):
        return raw
    told = json.dumps({field: raw[field] for field in _NAMING if field in raw})
    with suppress(DockerError, KeyError, TypeError):  # a worker's Docker does not know them
        for node in listings.nodes(docker):
            told = told.replace(str(node["ID"]), json.dumps(str(node["Description"]["Hostname"]))[1:-1])
    named: dict[str, Any] = json.loads(told)
    return raw | named


def _has_ids(raw: dict[str, Any]) -> bool:
    """Tell whether an answer names a node by its id; a malformed one, which is refused later, does not."""
    try:
        pairs = (pair for link in raw.get("links", ()) for name in _PAIRS for pair in link.get(name, ()))
        nodes = {pair[side] for pair in pairs for side in ("consumer_node", "provider_node")}
        nodes.update(raw.get("ends", {}).get("node", ()))
        return any(map(_NODE_ID.search, (*(f"node {node}" for node in nodes), *raw.get("problems", ()))))
    except (AttributeError, KeyError, TypeError):
        return False


def ask_signers(docker: Docker) -> Answer:
    """Ask the agent, which then reads the whole store, for the names of the keys that signed it too.

    Raises:
        DockerError: as `ask`.
    """
    return read(docker.ask(["exec", container(docker), "linkwire-agent", "inspect"], LINKS_S))


def documents(docker: Docker, query: str, timeout: float = TIMEOUT, **arguments: object) -> list[dict[str, Any]]:
    """Ask the running agent on the endpoint; returns its answer's documents.

    Args:
        docker: the endpoint.
        query: its name (agent.queries).
        timeout: seconds for all of it.
        arguments: those that are not None.

    Raises:
        DockerError: there is no agent, it is older, it does not answer, or it says what is wrong.
    """
    asked = json.dumps({name: value for name, value in arguments.items() if value is not None})
    try:
        text = docker.ask(["exec", container(docker), ASK, query, asked], timeout)
    except DockerError as error:
        # From the runtime, in its own words: there is no such program. Docker hands them on as the program's output.
        if f'"{ASK}"' in f"{error}{error.output}":
            raise DockerError(OLDER) from None
        raise
    return [_document(line) for line in text.splitlines()]


def stream(
    docker: Docker,
    agent: str,
    query: str,
    arguments: Mapping[str, Any],
    *,
    quiet_s: float,
    waits: Callable[[], None],
) -> Iterator[dict[str, Any]]:
    """Ask a running agent and yield its answer's documents as they come.

    Args:
        docker: the endpoint.
        agent: the container's id (`container`).
        query: as of `documents`.
        arguments: of the query.
        quiet_s: seconds without a document after which it counts as one that does not answer.
        waits: called again and again while nothing comes.

    Raises:
        DockerError: as `documents`.
    """
    last, other = time.monotonic(), ""
    with closing(docker.follow_all([["exec", agent, ASK, query, json.dumps(arguments)]], _TICK_S)) as said:
        for each in said:
            line = each[1] if each is not None else ""
            if isinstance(line, DockerError):
                raise DockerError(OLDER) if f'"{ASK}"' in f"{line}{other}" else line
            if line and line.startswith("{"):
                yield _document(line)
                last = time.monotonic()
            other = line or other
            waits()
            if time.monotonic() - last > quiet_s:
                raise DockerError(f"the agent did not answer within {quiet_s:g} s")


def _document(line: str) -> dict[str, Any]:
    """Read one document. Raises DockerError, also where the document says what is wrong."""
    try:
        document = dict(json.loads(line))
    except (RecursionError, TypeError, ValueError):
        raise DockerError("the agent's answer is not JSON") from None
    if "error" in document:
        raise DockerError(printable(str(document["error"])))
    return document


def read(text: str) -> Answer:
    """Decode the agent's answer. Raises DockerError: it is of another version, or not of the agreed form."""
    try:
        raw = json.loads(text)
    except (RecursionError, ValueError):
        raise DockerError("the agent's answer is not JSON") from None
    return judged(raw)


@gc_paused()
def judged(raw: object) -> Answer:
    """Take the agent's answer apart. Raises DockerError, as `read`."""
    raw = raw if isinstance(raw, dict) else {}
    version = raw.get("version")
    if version != CONTRACT:
        raise DockerError(
            f"the agent speaks version {version!r}, this program version {CONTRACT}: upgrade the older of the two"
        )
    try:
        raw = with_pairs(raw) if "measured" in raw else raw
        links = tuple(_link(link) for link in raw.get("links", ()))
        problems = tuple(printable(str(problem)) for problem in raw.get("problems", ()))
        stacks = tuple(map(_text, raw["stacks"])) if "stacks" in raw else None
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise DockerError(f"the agent's answer is incomplete ({type(error).__name__}: {error})") from None
    return Answer(links, problems, raw, stacks)


def _link(raw: dict[str, Any]) -> Link:
    consumer, provider = _text(raw["consumer"]), _text(raw["provider"])
    pairs = () if "states" in raw else tuple(_pair(pair) for pair in raw["pairs"])
    states = raw.get("states", Counter(pair.state for pair in pairs))
    return Link(
        consumer,
        provider,
        tuple(_text(alias) for alias in raw["aliases"]),
        pairs,
        _refused(raw.get("refused")),
        _text(raw.get("key", "")),
        None if raw.get("epoch") is None else int(_number(raw["epoch"])),
        raw.get("allowed") is not False,
        _text(raw.get("ports") or ""),
        {_text(state): int(_number(count)) for state, count in states.items()},
        _count(raw.get("consumers")),
        _count(raw.get("ready")),
        _totals(raw) if "totals" in raw else None,
    )


def _totals(raw: dict[str, Any]) -> Totals:
    told, worst = raw["totals"], tuple(map(_pair, raw["worst"]))
    return Totals(int(_number(told["rx"])), int(_number(told["tx"])), _seconds(told["handshake_age"]), worst)


def _seconds(value: object) -> float | None:
    return None if value is None else float(_number(value))


def _count(value: object) -> int | None:
    return None if value is None else int(_number(value))


def _refused(raw: dict[str, dict[str, Any]] | None) -> int | None:
    """Sum up what both ends refused in both directions; an older agent does not say."""
    if raw is None:
        return None
    return sum(int(_number(end[way])) for end in (raw["consumer"], raw["provider"]) for way in ("in", "out"))


def _pair(raw: dict[str, Any]) -> Pair:
    return Pair(
        _text(raw["consumer_task"]),
        _text(raw["consumer_node"]),
        _text(raw["provider_task"]),
        _text(raw["provider_node"]),
        _text(raw["state"]),
        _seconds(raw["handshake_age"]),
        int(_number(raw["rx"])),
        int(_number(raw["tx"])),
        None if raw.get("error") is None else _text(raw["error"]),
        _seconds(raw.get("for")),
    )


def _number(value: object) -> int | float:
    # What a counter of 64 bits can hold; it also keeps out NaN, which compares with nothing.
    if not isinstance(value, (int, float)) or not 0 <= value < 2**64:
        raise TypeError(f"{str(value)[:40]!r} is not a number that fits")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:40]!r} is not a text")
    if value.isprintable():
        return value
    return printable(value).replace("\n", " ")
