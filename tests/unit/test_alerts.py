"""Alerts and dashboard of deploy/ against the programs' own pages, and by promtool."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.log_events import PROJECT
from tests.support.metrics_pages import described, pages, promtool

FOLDER = PROJECT / "deploy" / "prometheus"
RULES = yaml.safe_load((FOLDER / "linkwire-alerts.yml").read_text())
ALERTS: dict[str, dict[str, Any]] = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"]}
DASHBOARD = PROJECT / "deploy" / "grafana" / "linkwire.json"
SCRAPED = frozenset({"node", "job", "instance", "le"})
"""Labels that Prometheus adds by deploy/prometheus/prometheus.yml, and a histogram's own."""
KNOWN_OF_ETCD = {"etcd_disk_wal_fsync_duration_seconds_bucket": frozenset[str](), "up": frozenset[str]()}
"""Names that are etcd's or Prometheus'; tests/store/test_etcd_metrics.py finds etcd's on a real one."""
WORDS = frozenset(
    {"by", "sum", "max", "min", "count", "rate", "increase", "or", "time", "histogram_quantile", "topk"}
)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, frozenset[str]]:
    """Names of samples, with their labels, of all pages."""
    found = dict(KNOWN_OF_ETCD)
    for page in pages(tmp_path_factory.mktemp("metrics")).values():
        for one in described(page):
            ends = ("_bucket", "_sum", "_count") if one.kind == "histogram" else ("",)
            found |= {f"{one.name}{end}": one.labels for end in ends}
    return found


def unknown(expression: str, real: dict[str, frozenset[str]]) -> Iterator[str]:
    """Names in an expression that no page has: metrics, and labels in matchers and in `by`."""
    bare = re.sub(r'"[^"]*"', '""', re.sub(r"\[[^\]]*\]", "", expression)).replace("$__rate_interval", "")
    groups = {label.strip() for found in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", bare) for label in found.split(",")}
    without_groups = re.sub(r"\b(?:by|on|group_left)\s*\([^)]*\)", "", bare)
    used: set[str] = set()
    for name, matchers in re.findall(
        r"\b([a-z_][a-z_0-9:]*)\b\s*(?:\{([^}]*)\})?", re.sub(r"(?<=,)\s*", "", without_groups)
    ):
        if name in WORDS or f"{name}=" in without_groups.replace(" ", "") or not name:
            continue
        if name not in real:
            yield name
            continue
        used |= real[name]
        labels = set(re.findall(r"([a-z_]+)\s*(?:=|!|=~)", matchers))
        yield from (f"{name}{{{label}}}" for label in labels - real[name] - SCRAPED)
    for matchers in re.findall(r'\{__name__=~""\}', bare):
        used |= {"version"} if matchers else set()
    yield from (f"by ({label})" for label in groups - used - SCRAPED if label)


def expressions() -> list[tuple[str, str]]:
    """Every expression of the dashboard, with its panel's title."""
    document = json.loads(DASHBOARD.read_text())
    panels = [panel for row in document["panels"] for panel in (row, *row.get("panels", ()))]
    shown = [(panel["title"], target["expr"]) for panel in panels for target in panel.get("targets", ())]
    return shown + [("variable", item["query"]) for item in document["templating"]["list"] if item["type"] == "query"]


def test_promtool_takes_configuration_and_rules() -> None:
    for what, file in (("config", "prometheus.yml"), ("rules", "linkwire-alerts.yml")):
        done = promtool("check", what, file, folder=FOLDER)
        assert done.returncode == 0, done.stdout + done.stderr


def test_each_fault_fires_its_alert_and_no_other() -> None:
    done = promtool("test", "rules", "linkwire-alerts-test.yml", folder=FOLDER)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_case_fires_each_alert() -> None:
    cases = (FOLDER / "linkwire-alerts-test.yml").read_text()
    assert {name for name in ALERTS if f'alertname="{name}"' not in cases} == set()


def test_no_case_holds_by_itself(tmp_path: Path) -> None:
    """With every alert silenced, each case fails but the one of a Swarm that is well."""
    for file in ("linkwire-alerts.yml", "linkwire-alerts-test.yml"):
        shutil.copy(FOLDER / file, tmp_path)
    rules = (tmp_path / "linkwire-alerts.yml").read_text()
    (tmp_path / "linkwire-alerts.yml").write_text(re.sub(r"expr: (.*)", r"expr: (\1) and vector(1) == 2", rules))
    done = promtool("test", "rules", "linkwire-alerts-test.yml", folder=tmp_path)
    cases = yaml.safe_load((FOLDER / "linkwire-alerts-test.yml").read_text())["tests"]
    expected = sum(bool(check["exp_samples"]) for case in cases for check in case["promql_expr_test"])
    assert (done.stdout + done.stderr).count("got:") == expected


def test_alerts_page_explains_each() -> None:
    page = (PROJECT / "docs" / "alerts.md").read_text()
    assert re.findall(r"^### (\w+)$", page, re.MULTILINE) == [
        name for title in ("control", "nodes", "links", "etcd") for name in of_group(f"linkwire-{title}")
    ]
    for name, rule in ALERTS.items():
        assert rule["annotations"]["runbook"] == f"docs/alerts.md#{name.lower()}"
        assert rule["labels"]["severity"] in {"critical", "warning"}


def of_group(name: str) -> list[str]:
    return [rule["alert"] for group in RULES["groups"] if group["name"] == name for rule in group["rules"]]


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_asks_for_what_pages_have(name: str, real: dict[str, frozenset[str]]) -> None:
    assert list(unknown(ALERTS[name]["expr"], real)) == []


@pytest.mark.parametrize(("title", "expression"), expressions())
def test_dashboard_asks_for_what_pages_have(title: str, expression: str, real: dict[str, frozenset[str]]) -> None:
    if expression.startswith("label_values("):
        expression = expression.removeprefix("label_values(").partition(", ")[0]
    assert list(unknown(expression, real)) == [], title


@pytest.mark.parametrize(
    ("expression", "missing"),
    [
        ("linkwire_task > 0", "linkwire_task"),
        ('sum(linkwire_tasks{service="a"})', "linkwire_tasks{service}"),
        ("sum by (service) (linkwire_tasks)", "by (service)"),
        ("rate(linkwire_refused_packets[5m])", "linkwire_refused_packets"),
    ],
)
def test_names_that_no_page_has_are_noticed(expression: str, missing: str, real: dict[str, frozenset[str]]) -> None:
    assert list(unknown(expression, real)) == [missing]
