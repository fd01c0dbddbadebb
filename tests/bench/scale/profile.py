"""Where all threads of a process spend their time, sampled, for docs/bench: never on while anything is measured."""

from __future__ import annotations

import re
import sys
import threading
from collections import Counter
from types import CodeType, FrameType
from typing import Any

_TOP = 30
_EVERY_S = 0.002
_FOLDERS = re.compile(r"/\S*/(?=(?:site-packages|python3\.\d+|controller|agent|mesh|tests)/)")
_WAITING = ("threading.py", "queue.py", "selectors.py", "socket.py", "scale/profile.py", "scale/part.py")


class Profile:
    """Looks at every thread some hundred times a second, while it is on."""

    def __init__(self) -> None:
        self._own: Counter[CodeType] = Counter()
        self._under: Counter[CodeType] = Counter()
        self._off = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> dict[str, Any]:
        """Begin."""
        self._off.clear()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return {}

    def stop(self) -> dict[str, str]:
        """What was found, as text without a path of this machine."""
        self._off.set()
        if self._thread is not None:
            self._thread.join()
        lines = [f"{sum(self._own.values())} samples of threads that did not wait"]
        for title, found in (("in the function itself", self._own), ("with all that it calls", self._under)):
            lines += ["", title]
            lines += [f"{count:7} {_place(code)}" for code, count in found.most_common(_TOP)]
        return {"text": "\n".join(lines) + "\n"}

    def _run(self) -> None:
        while not self._off.wait(_EVERY_S):
            for frame in sys._current_frames().values():
                self._take(frame)

    def _take(self, frame: FrameType) -> None:
        if frame.f_code.co_filename.endswith(_WAITING):
            return
        self._own[frame.f_code] += 1
        under = set()
        at: FrameType | None = frame
        while at is not None:
            under.add(at.f_code)
            at = at.f_back
        self._under.update(under)


def _place(code: CodeType) -> str:
    return f"{_FOLDERS.sub('', code.co_filename)}:{code.co_firstlineno} {code.co_qualname}"
