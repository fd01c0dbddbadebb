"""A run's results as what docs/bench has of them: the figures, the table and the plots."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.bench import plots, report
from tests.bench.measure import Row

_DIGITS = 6  # that count, of a single measurement


def write(result: Mapping[str, Any], folder: Path) -> list[str]:
    """Write all of it, in place of what was there of an earlier run; the names of the files.

    Args:
        result: what `make bench` has written.
        folder: docs/bench.

    Raises:
        KeyError, ValueError: `result` is no such thing.
    """
    rows = [report.from_json(row) for row in result["rows"]]
    drawn = {f"growth-{group}.svg": text for group, text in plots.growth(rows).items()}
    if (text := plots.ratios(rows)) is not None:
        drawn = {"ratios.svg": text, **drawn}
    files = {
        "results.json": json.dumps(_rounded(result), indent=1) + "\n",
        "results.md": "\n".join(_page(result, rows, drawn)) + "\n",
        **drawn,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.svg"):
        old.unlink()
    for name, text in files.items():
        (folder / name).write_text(text)
    return list(files)


def _page(result: Mapping[str, Any], rows: list[Row], drawn: Iterable[str]) -> Iterable[str]:
    yield from ("# Figures of one run", "")
    yield "Written by `python -m tests.bench --docs` from `results.json`; [what the rows are](../bench.md)."
    whole = sum(seconds for name, seconds in result["seconds"].items() if "." not in name)
    yield from ("", *_machine(result["machine"]), f"- {whole / 60:.0f} minutes in all", "")
    judged = [row for row in rows if row.met is not None]
    yield f"{sum(bool(row.met) for row in judged)} of {len(judged)} aims are met."
    yield ""
    for name in drawn:
        yield from (f"![{name.removesuffix('.svg')}]({name})", "")
    notes: list[str] = []
    yield "| row | what | against | unit | Linkwire | reference | ratio | aim | |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for row in rows:
        if row.note and row.note not in notes:
            notes.append(row.note)
        mark = f" ({notes.index(row.note) + 1})" if row.note else ""
        ours, theirs, ratio = report.spreads(row)
        cells = (f"`{row.key}`{mark}", row.what, row.reference, row.unit, ours, theirs, f"**{ratio}**", row.aim)
        yield "| " + " | ".join(_cell(cell) for cell in (*cells, report.verdict(row))) + " |"
    yield ""
    yield "Median (least..most). The ratio is taken turn by turn; an aim with a unit is about Linkwire's own median."
    yield from ("", *(f"{number}. {note}" for number, note in enumerate(notes, 1)))
    for heading, found in (("Not measured on this machine", "not_here"), ("Failed", "failed")):
        if result[found]:
            yield from (
                "",
                f"{heading}:",
                "",
                *(f"- `{name}`: {_first_line(why)}" for name, why in result[found].items()),
            )


def _machine(facts: Mapping[str, Any]) -> Iterable[str]:
    versions = ", ".join(facts["versions"].values())
    yield f"- {facts['cores']} cores of {facts['cpu']}, {facts['memory_gib']} GiB, {facts['architecture']}"
    yield f"- kernel {facts['kernel']}, WireGuard: {facts['wireguard']}"
    yield f"- Python {facts['python']}, Linkwire {facts['linkwire']}; {versions}"
    yield f"- load {facts['load']} before, {facts['load_after']} after (the run itself is part of it)"


def _first_line(text: str) -> str:
    return next(iter(text.splitlines()), "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _rounded(value: Any) -> Any:  # noqa: ANN401 - it is JSON
    match value:
        case float():
            return float(f"{value:.{_DIGITS}g}")
        case dict():
            return {key: _rounded(one) for key, one in value.items()}
        case list():
            return [_rounded(one) for one in value]
        case _:
            return value
