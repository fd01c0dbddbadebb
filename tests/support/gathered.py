"""Values for the end of a run's report, from every process that runs tests: one alone, or pytest-xdist's workers.

A pytest plugin. A worker hands over all that it has kept when it ends; who reports puts the parts together.
"""

from __future__ import annotations

from typing import Any

import pytest

_KEPT: pytest.StashKey[dict[str, list[Any]]] = pytest.StashKey()


def is_worker(config: pytest.Config) -> bool:
    """Whether this process runs tests for another one, which reports them."""
    return hasattr(config, "workerinput")


def kept(config: pytest.Config, what: str) -> list[Any]:
    """Return the list of that name. Put plain values in: numbers, strings, and lists and dicts of them."""
    return config.stash.setdefault(_KEPT, {}).setdefault(what, [])


def pytest_sessionfinish(session: pytest.Session) -> None:
    if is_worker(session.config):
        session.config.workeroutput["kept"] = session.config.stash.get(_KEPT, {})  # type: ignore[attr-defined]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:  # noqa: ANN401 - xdist's controller of a worker
    # One that crashed has handed over nothing.
    for what, values in getattr(node, "workeroutput", {}).get("kept", {}).items():
        kept(node.config, what).extend(values)
