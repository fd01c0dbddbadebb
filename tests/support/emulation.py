"""Tests that QEMU's user mode cannot run: left out there with a reason each, and a count. A pytest plugin.

Its processor is the other one, its kernel this machine's: a system call works as far as QEMU translates it.
"""

from __future__ import annotations

import os

import pytest

VARIABLE = "LINKWIRE_EMULATED"
"""Set by deploy/test-arm64.sh where the processor is emulated."""

NAMESPACES = "QEMU's user mode lacks ioctl NS_GET_NSTYPE, so no namespace can be told from another file"
LACKING = {
    **dict.fromkeys(
        (
            "tests/store/test_asks.py::test_answer_for_another_node_is_not_believed",
            "tests/store/test_asks.py::test_answer_to_other_questions_does_not_count",
            "tests/store/test_asks.py::test_each_node_answers_its_own_questions",
            "tests/store/test_asks.py::test_malformed_ask_harms_nobody",
            "tests/store/test_asks.py::test_many_long_answers_come_compressed",
            "tests/store/test_asks.py::test_many_questions_get_few_answers",
            "tests/store/test_asks.py::test_node_answers_no_question_to_another",
            "tests/store/test_asks.py::test_questions_in_anothers_name_stay_unanswered",
            "tests/store/test_asks.py::test_silent_node_is_left_out",
        ),
        NAMESPACES,
    ),
}
"""By a test's id without its parameters, the reason."""


def reason(nodeid: str) -> str | None:
    """Return why an emulated processor cannot run this test, or None."""
    return LACKING.get(nodeid.partition("[")[0])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if VARIABLE not in os.environ:
        return
    for item in items:
        if why := reason(item.nodeid):
            item.add_marker(pytest.mark.skip(reason=why))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if VARIABLE in os.environ:
        left_out = [each for each in terminalreporter.getreports("skipped") if reason(each.nodeid)]
        terminalreporter.section(f"LEFT OUT UNDER THE EMULATOR: {len(left_out)} tests")
        for why in sorted({reason(each.nodeid) or "" for each in left_out}):
            count = sum(reason(each.nodeid) == why for each in left_out)
            terminalreporter.line(f"{count}: {why}")
