"""What docs/bench has of a run: the plots, the page and the figures."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from tests.bench import docs, plots, report
from tests.bench.__main__ import main
from tests.bench.measure import Row

MOST = 30_000  # bytes of a plot
TASKS = (100, 1_000, 10_000)


def row(key: str, ours: list[float], theirs: list[float], aim: str = "", size: int | None = None) -> Row:
    base = TASKS[0] if size is not None and size != TASKS[0] else None
    return Row(
        key, f"what of {key}", "a < b & c", "ms", "lower", ours, theirs, aim, "busy" if aim else "", size, base
    )


SCALE = [
    row(f"scale.{what}.{size}", [0.5 * size], [0.5 * TASKS[0]], "<= 1.5", size)
    for what in ("writes", "bytes", "controller", "affected", "unaffected")
    for size in TASKS[1:]
]
DEVICES = [
    Row(f"devices.create.{n}", "made", "10", "ms", "lower", [n * 1.5], [15.0], size=n) for n in (10, 100, 1_000)
]
MANY = [row(f"group{n}.row", [1.0, 2.5 * n + 1, 1000.0], [2.0, 3.0, 4.0], "<= 1.2") for n in range(40)]
ROWS = [*MANY, *SCALE, *DEVICES, row("link.plain", [1.0], [3.0]), row("memory.all", [20.0], [60.0], "<= 300 ms")]


def result(rows: list[Row]) -> dict[str, Any]:
    machine: dict[str, Any] = {
        "cores": 2,
        "cpu": "A | B",
        "memory_gib": 24,
        "architecture": "x86_64",
        "kernel": "6.1",
        "wireguard": "kernel",
        "python": "3.11",
        "linkwire": "0.1",
        "load": 1.0,
        "load_after": 2.0,
        "versions": {"etcd": "etcd 3.4"},
    }
    more = {
        "quick": False,
        "seconds": {},
        "not_here": {"overlay": "no ESP"},
        "failed": {"docker": "LabError: no\nlog"},
    }
    text = json.dumps({"machine": machine, **more, "rows": [report.as_json(one) for one in rows]})
    made: dict[str, Any] = json.loads(text)
    return made


def drawn() -> dict[str, str]:
    text = plots.ratios(ROWS)
    assert text is not None
    return {"ratios": text, **plots.growth(ROWS)}


@pytest.mark.parametrize("name", ["ratios", "scale", "devices"])
def test_plots_are_small_valid_and_suit_both_themes(name: str) -> None:
    text = drawn()[name]
    root = ET.fromstring(text)  # noqa: S314 - our own
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert len(text.encode()) < MOST
    assert "prefers-color-scheme:dark" in text
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for shape in root.iter():
        for across, down in (("x", "y"), ("x1", "y1"), ("x2", "y2"), ("cx", "cy")):
            if across in shape.attrib:
                assert 0 <= float(shape.attrib[across]) <= width, shape.attrib
                assert 0 <= float(shape.attrib[down]) <= height, shape.attrib


def test_aimed_ratio_is_disc_if_met_else_ring() -> None:
    two = plots.ratios(
        [row("a.met", [1.0], [1.0], "<= 1.2"), row("a.not", [2.0], [1.0], "<= 1.2"), ROWS[-1], ROWS[-2]]
    )
    assert two is not None
    assert two.count("<circle") == 2
    assert '<circle class="good full"' in two
    assert '<circle class="bad open"' in two
    assert plots.ratios([ROWS[-1], ROWS[-2]]) is None


def test_curve_starts_at_reference_size_and_needs_two() -> None:
    scale = plots.growth(SCALE)["scale"]
    assert scale.count("<circle") == 5 * len(TASKS)
    assert all(f">{size:,}</text>" in scale for size in TASKS)
    assert plots.growth(DEVICES[:1]) == {}
    alone = plots.growth(
        [row(f"scale.memory.{who}", [60.0], [40.0], size=TASKS[-1]) for who in ("agent", "controller")]
    )
    assert alone["scale"].count("<circle") == 4
    assert all(f"memory.{who}" in alone["scale"] for who in ("agent", "controller"))


def test_same_run_writes_same_files_without_old_plots(tmp_path: Path) -> None:
    (tmp_path / "growth-gone.svg").write_text("of an earlier run")
    names = docs.write(result(ROWS), tmp_path)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert (
        set(first)
        == set(names)
        == {"results.json", "results.md", "ratios.svg", "growth-scale.svg", "growth-devices.svg"}
    )
    docs.write(json.loads(first["results.json"]), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first


def test_page_shows_rows_aims_notes_and_failures(tmp_path: Path) -> None:
    docs.write(result(ROWS), tmp_path)
    page = (tmp_path / "results.md").read_text()
    assert all(f"| `{one.key}`" in page for one in ROWS)
    assert page.count("busy") == 1
    assert "- `overlay`: no ESP" in page
    assert "- `docker`: LabError: no\n" in page
    assert "log" not in page.splitlines()
    assert "![growth-scale](growth-scale.svg)" in page
    met = sum(bool(one.met) for one in ROWS)
    assert f"{met} of {sum(one.met is not None for one in ROWS)} aims are met." in page


def test_the_command_writes_what_was_measured_last(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured, folder = tmp_path / "result.json", tmp_path / "docs"
    arguments = ["--output", str(measured), "--docs", str(folder)]
    assert main(arguments) == 1
    assert "run `make bench` first" in capsys.readouterr().err
    measured.write_text(json.dumps({**result(ROWS), "quick": True}))
    assert main(arguments) == 1
    assert "--quick" in capsys.readouterr().err
    measured.write_text(json.dumps(result(ROWS)))
    assert main(arguments) == 0
    assert "ratios.svg" in capsys.readouterr().out
    assert (folder / "results.md").exists()
