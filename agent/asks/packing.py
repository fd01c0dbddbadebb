"""Packing of questions and answers as JSON, and their strict reading: they come from other nodes. Pure.

Few are plain JSON, as older agents read them; many are compressed: they name the same tasks and nodes again and
again.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import msgspec

from mesh.diagnosis.questions import Answer, Question
from mesh.errors import InvalidRecordError
from mesh.model.compression import decompressed

MOST_QUESTIONS = 256
"""Questions of one ask."""
MAX_ANSWERS = 48 * 1024
"""Bytes of one node's packed answers: base64 in a record, it stays below the limit of its kind."""
MAX_QUESTIONS = 22 * 1024
"""Bytes of packed questions, likewise."""
_MAX_PLAIN = 12 * 1024
"""Bytes of questions that are not compressed."""
_MAX_OPENED = 1 << 20
"""Bytes that compressed ones may have."""
_ROOM, _ROOM_PORT, _ROOM_PROBE = 75, 5, 60
"""Bytes of a compressed question whose two tasks and node nobody has named before, of a port, and of a probe."""


def room(question: Question) -> int:
    """Return how many bytes a question takes in a packed ask, at most, but for the first few dozen."""
    return _ROOM + _ROOM_PORT * len(question.ports) + (_ROOM_PROBE if question.probe is not None else 0)


def pack_questions(questions: Sequence[Question]) -> bytes:
    """Pack questions; their order numbers them. Raises ValueError where they are too many."""
    packed = _packed(msgspec.json.encode(tuple(questions)), _MAX_PLAIN)
    if len(questions) > MOST_QUESTIONS or len(packed) > MAX_QUESTIONS:
        raise ValueError(f"{len(questions)} questions in {len(packed)} bytes are more than one ask holds")
    return packed


def unpack_questions(packed: bytes) -> tuple[Question, ...]:
    """Read questions. Raises InvalidRecordError."""
    if len(packed) > MAX_QUESTIONS:
        raise InvalidRecordError("more questions than one ask holds")
    try:
        questions = msgspec.json.decode(_opened(packed), type=tuple[Question, ...])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InvalidRecordError(f"questions: {error}") from None
    if len(questions) > MOST_QUESTIONS:
        raise InvalidRecordError("more questions than one ask holds")
    return questions


def pack_answers(answers: Mapping[int, Answer]) -> bytes:
    """Pack answers by the numbers of their questions, as many as there is room for."""
    kept = dict(answers)
    while True:
        packed = _packed(msgspec.json.encode(tuple(kept.items())), MAX_ANSWERS)
        if len(packed) <= MAX_ANSWERS:
            return packed
        kept.popitem()


def unpack_answers(packed: bytes) -> dict[int, Answer]:
    """Read answers. Raises InvalidRecordError."""
    if len(packed) > MAX_ANSWERS:
        raise InvalidRecordError("answers: too large")
    try:
        return dict(msgspec.json.decode(_opened(packed), type=tuple[tuple[int, Answer], ...]))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InvalidRecordError(f"answers: {error}") from None


def _packed(plain: bytes, most: int) -> bytes:
    """Compress what is larger than `most`."""
    return plain if len(plain) <= most else zlib.compress(plain)


def _opened(packed: bytes) -> bytes:
    """Undo `_packed`. Raises ValueError."""
    if packed[:1] in {b"", b"["}:  # a compressed one begins otherwise (RFC 1950: with 0x78)
        return packed
    return decompressed(packed, _MAX_OPENED)
