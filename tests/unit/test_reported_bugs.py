"""docs/reported-bugs.md names the test of every line, those tests exist, and their modules name the report."""

import re

from tests.unit.test_threat_model import PROJECT, exists

PAGE = (PROJECT / "docs" / "reported-bugs.md").read_text()
NAMED = re.findall(r"`(tests/[a-z_0-9/]+\.py)::([a-z_0-9]+)`", PAGE)
ROWS = [line for line in PAGE.splitlines() if line.startswith("| [")]


def reports(row: str) -> list[str]:
    return re.findall(r"\[([\w.-]+#\d+)\]", row)


def test_the_tests_that_are_named_exist() -> None:
    assert [f"{file}::{test}" for file, test in NAMED if not exists(file, test)] == []


def test_every_row_names_a_test_that_names_it() -> None:
    for row in ROWS:
        files = {file for file, _ in NAMED if f"`{file}::" in row}
        texts = [(PROJECT / file).read_text() for file in files]
        missing = [report for report in reports(row) if not any(report in text for text in texts)]
        assert texts, row
        assert missing == [], "no named test says what it plays"


def test_reports_link_to_the_issue_they_name() -> None:
    for name, link in re.findall(r"\[([\w.-]+#\d+)\]\((\S+)\)", PAGE):
        project, number = name.split("#")
        assert re.search(rf"/{project}/(issues|pull)/{number}$", link), name
