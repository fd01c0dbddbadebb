"""The guest's output port as the host sees it: a file that grows, and ends with the command's exit code.

A file and not a pipe, because QEMU does not wait for a slow reader: what still waits in the guest's queue when the
guest ends is lost. The guest says itself that all is written, by a last record with the exit code, so nobody has to
guess; it stays up until the host has read that.
"""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from pathlib import Path

CODE_DIGITS = 3


class OutputPort:
    """Follows one guest's output; `token` is how the guest marks the last record: NUL, token, space, code, NUL."""

    def __init__(self, path: Path, stream: TextIO | None, *, token: str) -> None:
        self.path = path
        self.token = token
        self.returncode: int | None = None
        # Not \0 in the pattern: before a digit of the token that is an octal number.
        self._end = re.compile(rb"\x00" + self.token.encode() + rb" (\d+)\x00")
        self._end_length = len(self.token) + CODE_DIGITS + 3
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._pending = b""
        self._text: list[str] = []
        self._stream = stream
        self._file = path.open("w+b")

    def close(self) -> None:
        """Close the host's side."""
        self._file.close()

    @property
    def text(self) -> str:
        """All that the command has written, as far as it was read."""
        return "".join(self._text)

    def read(self, *, final: bool = False) -> None:
        """Take what has come, and pass it on; with `final` also what might have been the beginning of the end."""
        if self.returncode is not None:
            return
        self._pending += self._file.read()
        end = self._end.search(self._pending)
        if end is not None:
            self.returncode = int(end[1])
            ready, self._pending = self._pending[: end.start()], b""
        else:
            # Hold back what may be the first half of the last record.
            nul = self._pending.rfind(b"\0", max(0, len(self._pending) - self._end_length))
            split = len(self._pending) if nul < 0 or final else nul
            ready, self._pending = self._pending[:split], self._pending[split:]
        text = self._decoder.decode(ready, final=final or end is not None)
        if text:
            self._text.append(text)
            if self._stream is not None:
                self._stream.write(text)
                self._stream.flush()
