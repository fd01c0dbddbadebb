"""The mutants still fit the code; and a sample of them, of every kind, is noticed."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.mutants.__main__ import run
from tests.mutants.defences import MUTANTS
from tests.mutants.mutant import Mutant, MutantError
from tests.mutants.scratch import scratch

LEAST = 150
FILE = "mesh/integrity/verification.py"
OLD_STATE = "if generation < least:"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_applies_and_its_tests_exist(mutant: Mutant) -> None:
    mutant.check()


def test_there_are_many_and_each_is_another() -> None:
    assert len(MUTANTS) >= LEAST
    assert [name for name, count in Counter(mutant.name for mutant in MUTANTS).items() if count > 1] == []
    changes = Counter((mutant.file, mutant.old, mutant.new) for mutant in MUTANTS)
    assert [change for change, count in changes.items() if count > 1] == []


@pytest.mark.parametrize(
    ("file", "old", "new", "test", "reason"),
    [
        (FILE, "no such text", "", "tests/unit/mesh/test_contents.py::test_what_differs_is_named", "0 times"),
        (FILE, "return", "", "tests/unit/mesh/test_contents.py::test_what_differs_is_named", "must have it once"),
        (FILE, OLD_STATE, OLD_STATE, "tests/unit/mesh/test_contents.py::test_what_differs_is_named", "nothing"),
        (FILE, OLD_STATE, "if:", "tests/unit/mesh/test_contents.py::test_what_differs_is_named", "no program"),
        (FILE, OLD_STATE, "if False:", "tests/unit/mesh/test_contents.py::test_of_before", "there is no test"),
        (
            "mesh/gone.py",
            OLD_STATE,
            "",
            "tests/unit/mesh/test_contents.py::test_what_differs_is_named",
            "there is no",
        ),
    ],
)
def test_one_that_does_not_fit_is_named(file: str, old: str, new: str, test: str, reason: str) -> None:
    with pytest.raises(MutantError, match=f"an example: .*{reason}"):
        Mutant("an example", file, old, new, (test,)).check()


def test_what_no_test_notices_is_said() -> None:
    """By a test of something else: it passes; and one of a program that does not start says nothing."""
    other = ("tests/unit/mesh/test_keys.py::test_the_public_key_is_that_of_rfc_7748",)
    with scratch() as copy:
        assert copy.passes(other)[0]
        assert copy.tried(Mutant("unnoticed", FILE, OLD_STATE, "if False:", other)).outcome == "not noticed"
        stops = Mutant("stops", "mesh/crypto/keys.py", "from mesh.crypto.secret import Secret", "import gone", other)
        assert copy.tried(stops).outcome == "broken"
        assert copy.passes(other)[0], "what was taken away is back"


def test_a_sample_of_them_is_noticed() -> None:
    sample = [mutant for mutant in MUTANTS if mutant.quick]
    assert len(sample) > 10
    assert [result.mutant.name for result in run(sample) if result.outcome != "noticed"] == []
