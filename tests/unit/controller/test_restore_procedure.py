"""Restore procedure: a term of the leader begins without the questions of an earlier one."""

from __future__ import annotations

from types import SimpleNamespace

from controller.recovery.restore_procedure import RestoreProcedure


def test_a_new_term_asks_anew() -> None:
    """Else a node asked in an earlier term has no time to answer, and an older state is restored over its own."""
    restore = RestoreProcedure(SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]
    restore._asked, restore.waiting = ("n2", 1.0), True
    restore.passed_over.add("n3")
    restore.start_term()
    assert (restore._asked, restore.waiting, restore.passed_over) == (("", 0.0), False, set())
