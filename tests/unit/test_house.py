"""The rules of CONTRIBUTING.md that neither ruff nor mypy nor import-linter checks."""

import ast
import collections
import re
from pathlib import Path

import pytest

from tests.support import log_events

PROJECT = log_events.PROJECT
LINES = 400
MODULES = 9
FIELDS = 12

CROWDED: dict[str, str] = {}
"""Folders that may have more than nine modules, and why."""

TOUR = (PROJECT / "docs" / "tour.md").read_text()

SOURCES = [(package, path.relative_to(PROJECT)) for package, path in log_events.modules()]


def docstrings(path: Path) -> list[tuple[int, str]]:
    """Line and text of each docstring of a module, its classes and its functions."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse((PROJECT / path).read_text())) if isinstance(node, documented)]
    texts = [(getattr(node, "lineno", 1), ast.get_docstring(node)) for node in nodes]
    return [(line, text) for line, text in texts if text]


def begins_with_a_question_word(text: str) -> bool:
    return re.match(r"(what|who|whose|whom|which)\b", text, re.IGNORECASE) is not None


def crowded(paths: list[Path]) -> set[str]:
    """Folders of more than nine modules, not counting the one that makes a folder a package."""
    folders = collections.Counter(str(path.parent) for path in paths if path.name != "__init__.py")
    return {folder for folder, count in folders.items() if count > MODULES}


def prose(page: Path) -> str:
    """A page's text, each paragraph or item on one line, without code."""
    text = re.sub(r"(?s)```.*?```", "", page.read_text())
    return re.sub(r"(?<!\n)\n(?=[ \w`(*\[])(?![*] )", " ", text)


def anchor(title: str) -> str:
    """The anchor that a heading gets on GitHub."""
    return re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")


def test_docstrings_begin_with_a_noun_or_verb() -> None:
    riddles = [
        f"{path}:{line}: {text.splitlines()[0]}"
        for _, path in SOURCES
        for line, text in docstrings(path)
        if begins_with_a_question_word(text)
    ]
    assert riddles == []


@pytest.mark.parametrize("text", ["What it is.", "Who signs.", "Whose it is.", "Which one."])
def test_question_words_are_noticed(text: str) -> None:
    assert begins_with_a_question_word(text)
    assert not begins_with_a_question_word(f"The thing: {text}")


def test_folders_hold_at_most_nine_modules() -> None:
    assert crowded([path for _, path in SOURCES]) - set(CROWDED) == set()


def test_no_exception_for_folders_outlives_its_need() -> None:
    assert set(CROWDED) - crowded([path for _, path in SOURCES]) == set()


def test_modules_stay_under_400_lines() -> None:
    lengths = {str(path): len((PROJECT / path).read_text().splitlines()) for _, path in SOURCES}
    assert {path: lines for path, lines in lengths.items() if lines > LINES} == {}


@pytest.mark.parametrize("module", ["controller/loop.py", "agent/loop.py"])
def test_loops_hold_at_most_twelve_fields(module: str) -> None:
    """What they are made of are objects with names."""
    (loop,) = (node for node in ast.parse((PROJECT / module).read_text()).body if isinstance(node, ast.ClassDef))
    kept = [node for node in ast.walk(loop) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)]
    fields = {node.attr for node in kept if isinstance(node.value, ast.Name) and node.value.id == "self"}
    assert 0 < len(fields) <= FIELDS


def test_a_complex_function_gives_its_reason() -> None:
    """Ruff's C901 refuses a McCabe complexity over 10; an exception to it says why."""
    excused = [
        f"{path}:{number}: {line.strip()}"
        for _, path in SOURCES
        for number, line in enumerate((PROJECT / path).read_text().splitlines(), 1)
        if re.search(r"# noqa: [A-Z0-9, ]*C901", line) and not re.search(r"C901[A-Z0-9, ]* - \w", line)
    ]
    assert excused == []


def test_log_events_and_fields_are_constants() -> None:
    assert log_events.events()[1] == []


def test_logging_page_has_the_codes_events() -> None:
    page = log_events.PAGE.read_text()
    current, _ = log_events.events()
    of_events, of_fields = log_events.tables(page)
    code = {key: event.row for key, event in current.items()}
    assert {key: tuple(cells[:-2]) for key, cells in of_events.items()} == code, (
        "python -m tests.support.log_events --write"
    )
    assert set(of_fields) == {field for event in current.values() for field in event.fields}


def test_logging_page_explains_every_event() -> None:
    _, remarks = log_events.rendered(log_events.PAGE.read_text())
    assert remarks == []


def test_a_renamed_event_inherits_its_text() -> None:
    page = log_events.PAGE.read_text()
    key, event = next((key, event) for key, event in log_events.events()[0].items() if len(event.fields) > 1)
    renamed = page.replace(f"| `{event.name}` |", "| `an event of before` |")
    assert renamed != page
    text, remarks = log_events.rendered(renamed)
    assert text == page
    assert [remark for remark in remarks if remark.startswith("inherited")] != []
    assert key in log_events.tables(text)[0]


def test_functions_of_the_tour_exist() -> None:
    """After a file's name, `name` in backquotes is a function or class of that module."""
    named = re.findall(r"`((?:mesh|agent|controller|compose_ext)/[a-z_/]+\.py)`((?:,? (?:and )?`\w+`)*)", TOUR)
    defined = {
        package: "\n".join((PROJECT / path).read_text() for of, path in SOURCES if of == package)
        for package, _ in SOURCES
    }
    missing = []
    for file, names in named:
        path = PROJECT / file
        source = path.read_text() if path.is_file() else defined[file.partition("/")[0]]
        missing += [
            (file, name) for name in re.findall(r"`(\w+)`", names) if not re.search(rf"(def|class) {name}\b", source)
        ]
    assert len(named) > 20
    assert missing == []


def test_the_decisions_index_lists_every_page() -> None:
    folder = PROJECT / "docs" / "decisions"
    index = (folder / "README.md").read_text()
    assert [path.name for path in sorted(folder.glob("0*.md")) if f"({path.name})" not in index] == []


def test_no_docs_sentence_begins_with_a_question_word() -> None:
    pages = [*PROJECT.glob("*.md"), *(PROJECT / "docs").rglob("*.md")]
    found = [
        f"{page.relative_to(PROJECT)}: {sentence[0]}"
        for page in pages
        for sentence in re.finditer(
            r"(?m)(?:^(?:[-*|] )?|(?<=[.:;?] ))(?:What|Who|Whose|Whom|Which)\b.{0,60}", prose(page)
        )
    ]
    assert found == []


def test_modules_named_in_the_docs_exist() -> None:
    text = "".join(page.read_text() for page in [*PROJECT.glob("*.md"), *(PROJECT / "docs").rglob("*.md")])
    named = set(re.findall(r"`((?:mesh|agent|controller|compose_ext)/[a-z_/]+\.py)`", text))
    assert len(named) > 30
    assert sorted(file for file in named if not (PROJECT / file).is_file()) == []


def test_links_of_the_docs_lead_somewhere() -> None:
    pages = [*PROJECT.glob("*.md"), *(PROJECT / "docs").rglob("*.md")]
    anchors = {page: {anchor(title) for title in re.findall(r"(?m)^#+ (.*)$", page.read_text())} for page in pages}
    broken = []
    for page in pages:
        for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
            file, _, title = link.partition("#")
            target = (page.parent / file).resolve() if file else page
            leads = target.exists() and (not title or title in anchors.get(target, set()))
            if not leads and "://" not in link:
                broken.append(f"{page.relative_to(PROJECT)}: {link}")
    assert broken == []
