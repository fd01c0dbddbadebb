"""Records by which one node's agent asks others about their own tasks (agent.asks). All end with a lease of seconds.

Everybody who reads etcd may read them, so none holds a secret.
"""

from __future__ import annotations

from dataclasses import dataclass

from mesh.model.records import Record


@dataclass(frozen=True, slots=True)
class Ask(Record, key="asks/{0.node}", writer="agent"):
    """Questions of a node's agent to others; a node has one such record at a time."""

    node: str
    """The one that asks."""
    nonce: str
    """Random: an answer names it, and an agent answers it once."""
    packed: bytes
    """mesh.diagnosis.questions, as JSON."""


@dataclass(frozen=True, slots=True)
class Told(Record, key="told/{0.node}/{0.asker}", writer="agent"):
    """Answers of a node's agent to another's questions."""

    node: str
    """The one that answers."""
    asker: str
    nonce: str
    """Of the questions."""
    packed: bytes
    """Each answer with the number of its question, as JSON."""


@dataclass(frozen=True, slots=True)
class FlowAsk(Record, key="askflows/{0.node}/{0.slot}", writer="agent"):
    """A node's agent asks others to watch flows; it is written again every few seconds while somebody reads."""

    node: str
    """The one that asks."""
    slot: int
    """Of its queries, from 0."""
    nonce: str
    """Random: what is watched for this ask names it."""
    name: str
    """Stack or service whose links are asked for; empty for all."""
    nodes: tuple[str, ...]
    """Those that are asked; empty for all."""
    ending: bool
    """Whether each is to write what it has left, and to end."""


@dataclass(frozen=True, slots=True)
class Watched(Record, key="watched/{0.node}/{0.asker}/{0.slot}/{0.part}", writer="agent"):
    """A batch of events of a node's own tasks, watched for another node."""

    node: str
    """The one that watches."""
    asker: str
    slot: int
    part: int
    """Of a few that are written in turn, so that one is not replaced before it is read."""
    nonce: str
    """Of the ask."""
    watch: str
    """Random: an agent that starts anew begins another watch."""
    number: int
    """Of the batch in the watch, from 0 and without a gap."""
    packed: bytes
    """agent.flows.batch, as compressed JSON."""
