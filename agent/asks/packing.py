"""Packing of questions and answers as JSON, and their strict reading: they come from other nodes. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from mesh.diagnosis.questions import Answer, Question
from mesh.errors import InvalidRecordError

MOST_QUESTIONS = 32
"""Questions of one ask."""
MAX_ANSWERS = 48 * 1024
"""Bytes of one node's packed answers: base64 in a record, it stays below the limit of its kind."""
MAX_QUESTIONS = 12 * 1024
"""Bytes of packed questions, likewise."""


def pack_questions(questions: Sequence[Question]) -> bytes:
    """Pack questions; their order numbers them. Raises ValueError where they are too many."""
    packed = msgspec.json.encode(tuple(questions))
    if len(questions) > MOST_QUESTIONS or len(packed) > MAX_QUESTIONS:
        raise ValueError(f"{len(questions)} questions in {len(packed)} bytes are more than one ask holds")
    return packed


def unpack_questions(packed: bytes) -> tuple[Question, ...]:
    """Read questions. Raises InvalidRecordError."""
    if len(packed) > MAX_QUESTIONS:
        raise InvalidRecordError("more questions than one ask holds")
    try:
        questions = msgspec.json.decode(packed, type=tuple[Question, ...])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InvalidRecordError(f"questions: {error}") from None
    if len(questions) > MOST_QUESTIONS:
        raise InvalidRecordError("more questions than one ask holds")
    return questions


def pack_answers(answers: Mapping[int, Answer]) -> bytes:
    """Pack answers by the numbers of their questions, as many as there is room for."""
    kept = dict(answers)
    while True:
        packed = msgspec.json.encode(tuple(kept.items()))
        if len(packed) <= MAX_ANSWERS:
            return packed
        kept.popitem()


def unpack_answers(packed: bytes) -> dict[int, Answer]:
    """Read answers. Raises InvalidRecordError."""
    if len(packed) > MAX_ANSWERS:
        raise InvalidRecordError("answers: too large")
    try:
        return dict(msgspec.json.decode(packed, type=tuple[tuple[int, Answer], ...]))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InvalidRecordError(f"answers: {error}") from None
