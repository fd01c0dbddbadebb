"""Records by which one node's agent asks others about their own tasks (agent.asks). Both end with a lease of seconds.

Everybody who reads etcd may read them, so neither holds a secret.
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
