"""Survey of nodes: questions to several at once, to this one's own examiner and through etcd to the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from agent.asks.asker import Asker
from agent.probes.examiner import Examiner
from mesh.diagnosis.questions import Answer, Question
from mesh.errors import LinkwireError

UNHEARD = "did not answer: it hangs, or it does not reach etcd"


class Survey:
    """Survey of nodes, from one. Safe for several threads.

    Args:
        node: id of this one.
        examiner: looks at this node's own tasks.
        asker: asks other nodes.
    """

    def __init__(self, node: str, examiner: Examiner, asker: Asker) -> None:
        self.node = node
        self._examiner = examiner
        self._asker = asker

    def ask(self, questions: Sequence[Question], silent: Mapping[str, str]) -> list[Answer | str]:
        """Return the answers; a text says of an agent, as what it does, why there is none.

        Args:
            questions: to any nodes.
            silent: id of a node that is not asked, and what is said of it.
        """
        others = [at for at, question in enumerate(questions) if question.node not in {self.node, *silent}]
        mine = [at for at, question in enumerate(questions) if question.node == self.node]
        with ThreadPoolExecutor(max_workers=2) as pool:
            asked = pool.submit(self._asker.ask, [questions[at] for at in others])
            own = pool.submit(self._examiner.examine, [questions[at] for at in mine])
            try:
                answers, unheard = asked.result(), UNHEARD
            except LinkwireError as error:
                answers, unheard = {}, f"cannot be asked: {error}"
            heard: dict[int, Answer | str] = {others[at]: answer for at, answer in answers.items()}
            heard |= dict(zip(mine, own.result(), strict=True))
            return [heard.get(at, silent.get(question.node, unheard)) for at, question in enumerate(questions)]
