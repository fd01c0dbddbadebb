"""The graph's document as JSON, made once for each reading: all windows share it."""

from __future__ import annotations

import json
import threading

from compose_ext.ui import snapshot
from compose_ext.ui.snapshot import Document, Reading


def encoded(document: Document) -> bytes:
    """Return a document as compact JSON."""
    return json.dumps(document, separators=(",", ":")).encode()


class GraphJson:
    """The last graph that was asked for. Safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: tuple[Reading | None, str | None] = (None, None)
        self._json = encoded({"version": snapshot.VERSION, "failed": None})

    def of(self, reading: Reading | None, failed: str | None) -> bytes:
        """Return the graph of a reading, with the reason why the agent could not be asked since."""
        with self._lock:
            if self._of[0] is not reading or self._of[1] != failed:
                document = snapshot.graph(reading) if reading else {"version": snapshot.VERSION}
                self._json = encoded({**document, "failed": failed})
                self._of = (reading, failed)
            return self._json
