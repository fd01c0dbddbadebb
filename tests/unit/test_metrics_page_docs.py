"""docs/metrics.md against the programs' own pages, and these against Prometheus' conventions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.log_events import PROJECT
from tests.support.metrics_pages import described, pages, promtool

PAGE = (PROJECT / "docs" / "metrics.md").read_text()
ROW = re.compile(r"^\| `([a-z_]+)` \| (gauge|counter|histogram) \| ([a-z_, ]*?) ?\| (.+) \|$", re.MULTILINE)

Row = tuple[str, str, frozenset[str]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return pages(tmp_path_factory.mktemp("metrics"))


def documented(section: str) -> set[Row]:
    """The rows of one section: name, type and labels."""
    text = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    (body,) = [part for part in text if part.startswith(section)]
    return {
        (name, kind, frozenset(label.strip() for label in labels.split(",") if label.strip()))
        for name, kind, labels, _ in ROW.findall(body)
    }


@pytest.mark.parametrize(
    ("program", "title"), [("agent", "The agent"), ("controller", "The contr"), ("etcd", "etcd's")]
)
def test_every_metric_is_described_as_it_is(made: dict[str, str], program: str, title: str) -> None:
    common = documented("On the pages") if program != "etcd" else set()
    real: set[Row] = {(one.name, one.kind, one.labels) for one in described(made[program])}
    assert documented(title) | common == real


@pytest.mark.parametrize("program", ["agent", "controller", "etcd"])
def test_promtool_finds_nothing_to_mend(made: dict[str, str], program: str) -> None:
    done = promtool("check", "metrics", given=made[program])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_promtool_would_notice() -> None:
    page = "# HELP linkwire_links_total Links.\n# TYPE linkwire_links_total gauge\nlinkwire_links_total 1\n"
    assert promtool("check", "metrics", given=page).returncode != 0


def test_help_is_a_sentence_of_its_own(made: dict[str, str]) -> None:
    helps = {one.help for page in made.values() for one in described(page) if one.name.startswith("linkwire_")}
    assert [text for text in helps if not re.fullmatch(r"[A-Z0-9].{10,}\.", text)] == []
    assert len(helps) == len({one.name for page in made.values() for one in described(page)} - process_names(made))


def process_names(made: dict[str, str]) -> set[str]:
    return {one.name for page in made.values() for one in described(page) if one.name.startswith("process_")}


def test_pages_hold_no_address_or_key(made: dict[str, str], tmp_path: Path) -> None:
    assert made.keys() == pages(tmp_path).keys()
    for page in made.values():
        assert re.findall(r"\d+\.\d+\.\d+\.\d+|[0-9a-f]{32}|[A-Za-z0-9+/]{43}=", page) == []
