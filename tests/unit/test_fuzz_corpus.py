"""Every input that fuzzing has saved, once more; and saving itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import corpus
from tests.fuzz.targets import TARGETS, Target


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("target", TARGETS)
def test_saved_inputs_find_nothing(target: str) -> None:
    inputs = corpus.saved(target)
    assert len(inputs) > len(TARGETS[target].seeds), "nothing is saved: make fuzz"
    for name, data in inputs.items():
        try:
            TARGETS[target].run(data)
        except Exception as error:
            raise AssertionError(f"{target}/{name}: {error!r}") from error


def test_every_folder_has_its_target() -> None:
    assert {path.name for path in corpus.FOLDER.iterdir()} == set(TARGETS)
    assert sum(path.stat().st_size for path in corpus.FOLDER.glob("*/*")) < 2 << 20


def test_what_reaches_something_new_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "FOLDER", tmp_path)
    query = TARGETS["dns-question"].seeds[0]
    monkeypatch.setitem(TARGETS, "dns-question", Target(TARGETS["dns-question"].run, (b"",)))
    [path] = corpus.extend("dns-question", [query, query + b"x", b"", b"x"])
    assert path.read_bytes() == query
    assert corpus.extend("dns-question", [query]) == []
    assert set(corpus.saved("dns-question").values()) == {b"", query}


def test_an_input_that_fails_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "FOLDER", tmp_path)
    (tmp_path / "variables").mkdir()
    (tmp_path / "variables" / "failed-1").write_bytes(b"broken")

    def run(data: bytes) -> None:
        assert data != b"broken"

    monkeypatch.setitem(TARGETS, "variables", Target(run, (b"",)))
    with pytest.raises(AssertionError, match="variables/failed-1"):
        test_saved_inputs_find_nothing("variables")
