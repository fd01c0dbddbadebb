"""The page's server, in this process: the agent says what a test puts here."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from compose_ext.diagnostics import DockerError
from compose_ext.swarm.link_states import Answer
from compose_ext.ui import server
from compose_ext.ui.source import Source
from tests.ui import world


class Page:
    """A server with the shop; `failure` is why the agent cannot be asked.

    Args:
        answer: the agent's instead, for what takes long to make.
        files: the page's own, of another version.
    """

    PROJECT = Path(__file__).resolve().parents[2]

    def __init__(self, answer: Callable[[], Answer] | None = None, files: Path = server.FILES) -> None:
        self.document = world.shop()
        self.log: list[dict[str, Any]] = list(world.LOG)
        self.failure: str | None = None
        self.source = Source(answer or self._answer, lambda: self.log)
        opened = server.listener(0)
        self.port, self.token = opened.getsockname()[1], server.token()
        app = server.application(self.source, self.port, self.token, files)
        self._server = server.Server(server.configured(app))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [opened]}, daemon=True)
        self._thread.start()

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def address(self) -> str:
        return f"{self.origin}/{self.token}/"

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)

    def _answer(self) -> Answer:
        if self.failure:
            raise DockerError(self.failure)
        return world.answer(self.document)
