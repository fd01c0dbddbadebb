"""Asker: puts questions to other nodes' agents, and waits for their answers for a few seconds."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Collection, Mapping, Sequence

import structlog

from agent.asks.packing import pack_questions, unpack_answers
from agent.asks.writing import ShortLived
from mesh.diagnosis.questions import Answer, Question
from mesh.errors import LinkwireError, Retryable
from mesh.integrity.signature_cache import SignatureCache
from mesh.model import keyspace
from mesh.model.asks.records import Ask, Told
from mesh.model.records import Member
from mesh.model.snapshot import Snapshot
from mesh.store.client import Store

log = structlog.get_logger(__name__)

ANSWER_S = 8.0
"""For how long answers are waited for: a node looks and tries for at most some five seconds."""
_BUSY_S = 20.0
"""For how long an ask waits for those before it: a node has one record for its questions."""


class Asker:
    """Asker of one node. Safe for several threads.

    Args:
        node: its id.
        cluster: Swarm's id of it.
        store: to read the answers.
        written: writes the questions.
    """

    def __init__(self, node: str, cluster: str, store: Store, written: ShortLived) -> None:
        self._node = node
        self._cluster = cluster
        self._store = store
        self._written = written
        self._free = threading.Lock()

    def ask(self, questions: Sequence[Question]) -> dict[int, Answer]:
        """Return the answers that came, by the numbers of their questions.

        Raises:
            Retryable: etcd does not answer, or too much is being asked.
            Terminal: etcd does not let this agent ask.
        """
        if not questions:
            return {}
        if not self._free.acquire(timeout=_BUSY_S):
            raise Retryable("this node's agent asks others too much already")
        try:
            return self._asked(questions)
        finally:
            self._free.release()

    def _asked(self, questions: Sequence[Question]) -> dict[int, Answer]:
        nodes = {question.node for question in questions}
        members = self._store.load([keyspace.member(node) for node in sorted(nodes)])
        nonce, heard = secrets.token_hex(16), threading.Event()
        follower = self._store.follow([keyspace.told(node, self._node) for node in sorted(nodes)], heard.set)
        try:
            self._written.write(Ask(self._node, nonce, pack_questions(questions)))
            deadline = time.monotonic() + ANSWER_S
            while True:
                heard.clear()
                told = self._told(follower.snapshot, members, nonce, nodes)
                left = deadline - time.monotonic()
                if told.keys() == nodes or left <= 0:
                    break
                heard.wait(left)
        finally:
            follower.stop()
            with contextlib.suppress(LinkwireError):  # its lease ends it
                self._written.delete(keyspace.ask(self._node))
        return {
            number: answer
            for node, answers in told.items()
            for number, answer in answers.items()
            if 0 <= number < len(questions) and questions[number].node == node
        }

    def _told(
        self, snapshot: Snapshot, members: Snapshot, nonce: str, nodes: Collection[str]
    ) -> Mapping[str, dict[int, Answer]]:
        """Return the answers that have come, by node; those that nobody can believe are left out."""
        found: dict[str, dict[int, Answer]] = {}
        signatures = SignatureCache(self._cluster)
        for key, value in snapshot.keys_of(Told):
            node = value.record.node
            member = members.get(keyspace.member(node), Member)
            if node not in nodes or value.record.nonce != nonce or member is None:
                continue
            problem = signatures.problem(key, value, member.report_key)
            try:
                if problem is None:
                    found[node] = unpack_answers(value.record.packed)
            except LinkwireError as error:
                problem = str(error)
            if problem is not None:
                log.warning("answer not believed", node=node, error=problem)
        return found
