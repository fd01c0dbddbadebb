"""The saved inputs of each target: few, since only those that reach something new are kept."""

from __future__ import annotations

import hashlib
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any

from tests.fuzz.targets import TARGETS

FOLDER = Path(__file__).parent / "corpus"
PACKAGES = tuple(f"{Path(__file__).parents[2] / name}/" for name in ("agent", "compose_ext", "controller", "mesh"))
MAX_BYTES = 4096
"""Of a saved input: what a bigger one reaches, a smaller one does too."""

Arc = tuple[str, int, int]


def saved(target: str) -> dict[str, bytes]:
    """The seeds and the saved inputs, by name."""
    seeds = {f"seed-{number}": seed for number, seed in enumerate(TARGETS[target].seeds)}
    return seeds | {path.name: path.read_bytes() for path in sorted((FOLDER / target).glob("*"))}


def reached(run: Callable[[bytes], None], data: bytes) -> frozenset[Arc]:
    """Steps from line to line of the project's code."""
    arcs: set[Arc] = set()

    def inside(frame: FrameType, name: str, line: int) -> Callable[[FrameType, str, Any], Any]:
        last = line

        def follow(_frame: FrameType, event: str, _value: object) -> Any:  # noqa: ANN401 - itself
            nonlocal last
            if event == "line":
                arcs.add((name, last, frame.f_lineno))
                last = frame.f_lineno
            return follow

        return follow

    def called(frame: FrameType, _event: str, _value: object) -> Any:  # noqa: ANN401 - a tracer or None
        name = frame.f_code.co_filename
        return inside(frame, name, frame.f_lineno) if name.startswith(PACKAGES) else None

    before = sys.gettrace()
    sys.settrace(called)
    try:
        with warnings.catch_warnings(action="ignore"):
            run(data)
    finally:
        sys.settrace(before)
    return frozenset(arcs)


def extend(target: str, inputs: Iterable[bytes], folder: Path | None = None) -> list[Path]:
    """Save those inputs that reach something that nothing saved does, the short ones first; their files."""
    run = TARGETS[target].run
    known = {arc for data in saved(target).values() for arc in reached(run, data)}
    into = (folder or FOLDER) / target
    into.mkdir(parents=True, exist_ok=True)
    new = []
    for data in sorted({data for data in inputs if len(data) <= MAX_BYTES}, key=lambda data: (len(data), data)):
        arcs = reached(run, data)
        if not arcs <= known:
            known |= arcs
            path = into / hashlib.sha256(data).hexdigest()[:16]
            path.write_bytes(data)
            new.append(path)
    return new
