"""Answerer: hears what other nodes ask about this node's tasks, looks, and tells.

Its own connection to etcd and its own threads: it answers also while the loop that wires tasks is busy. Each asker is
answered one ask at a time, and few askers at once, so that a hostile node costs this one little.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from agent.asks.packing import pack_answers, unpack_questions
from agent.asks.writing import ShortLived
from agent.probes.examiner import MOST_OWN, Examiner
from agent.status.node_status import believed
from mesh.diagnosis.questions import Question
from mesh.errors import LinkwireError
from mesh.model import keyspace
from mesh.model.asks.records import Ask, Told
from mesh.model.snapshot import Snapshot
from mesh.store.client import Follower, Store

log = structlog.get_logger(__name__)

MOST_ASKERS = 4
"""Nodes that are answered at the same time; others wait until their next ask."""


class Answerer:
    """Answerer of one node.

    Args:
        node: its id.
        cluster: Swarm's id of it.
        store: to hear, and to check who asks.
        written: writes the answers.
        examiner: looks at this node's tasks.
        beside: called with all that is asked, for other kinds of asks.
    """

    def __init__(
        self,
        node: str,
        cluster: str,
        store: Store,
        written: ShortLived,
        examiner: Examiner,
        *,
        beside: Callable[[Snapshot], None] = lambda _snapshot: None,
    ) -> None:
        self._node = node
        self._cluster = cluster
        self._store = store
        self._written = written
        self._examiner = examiner
        self._beside = beside
        self._lock = threading.Lock()
        self._answered: dict[str, str] = {}  # asker -> nonce
        self._busy: set[str] = set()
        self._follower: Follower | None = None

    def start(self) -> None:
        """Begin to listen."""
        self._follower = self._store.follow((keyspace.FLOW_ASKS, keyspace.ASKS), self._changed)

    def stop(self) -> None:
        """Listen no more."""
        if self._follower is not None:
            self._follower.stop()

    def _changed(self) -> None:
        """Hear what is new. Called from the follower's thread."""
        if self._follower is not None:
            self._beside(self._follower.snapshot)
        self._heard()

    def _heard(self) -> None:
        """Begin to answer asks that are new. Called from the follower's thread, and after each answer."""
        if self._follower is None:
            return
        asks = {ask.node: ask for ask in self._follower.snapshot.all(Ask) if ask.node != self._node}
        with self._lock:
            self._answered = {node: nonce for node, nonce in self._answered.items() if node in asks}
            for node, ask in asks.items():
                if self._answered.get(node) == ask.nonce or node in self._busy:
                    continue
                if len(self._busy) >= MOST_ASKERS:
                    break
                self._answered[node] = ask.nonce
                own = self._own(ask)
                if own:
                    self._busy.add(node)
                    threading.Thread(target=self._serve, args=(ask, own), name="answer", daemon=True).start()

    def _own(self, ask: Ask) -> dict[int, Question]:
        """Return the questions to this node, by their numbers."""
        try:
            questions = unpack_questions(ask.packed)
        except LinkwireError as error:
            log.warning("questions not read", node=ask.node, error=str(error))
            return {}
        own = [(number, question) for number, question in enumerate(questions) if question.node == self._node]
        return dict(own[:MOST_OWN])

    def _serve(self, ask: Ask, own: dict[int, Question]) -> None:
        try:
            self._answer(ask, own)
        except LinkwireError as error:
            log.warning("questions not answered", node=ask.node, error=str(error))
        except Exception as error:
            log.exception("answering questions crashed", node=ask.node, error=str(error))
        finally:
            with self._lock:
                self._busy.discard(ask.node)
            self._heard()

    def _answer(self, ask: Ask, own: dict[int, Question]) -> None:
        if not self._is_believed(ask):
            log.warning("questions not answered", node=ask.node, error="they are not signed by that node")
            return
        answers = dict(zip(own, self._examiner.examine(list(own.values())), strict=True))
        with self._lock:  # so that the asker's next ask, which it makes when it reads this, is heard
            self._busy.discard(ask.node)
        self._written.write(Told(self._node, ask.node, ask.nonce, pack_answers(answers)))

    def _is_believed(self, ask: Ask) -> bool:
        """Tell whether the node itself has signed it: who writes for several nodes could have put it there."""
        read = believed(self._store.load((keyspace.member(ask.node), keyspace.ask(ask.node))), self._cluster)
        seen = read.get(keyspace.ask(ask.node), Ask)
        return seen is not None and seen.nonce == ask.nonce
