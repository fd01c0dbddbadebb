"""Program `python -m tests.mutants`: take each defence away, and see that a test notices.

python -m tests.mutants                 all of them
python -m tests.mutants --quick         the sample of `make test`
python -m tests.mutants signature nft   those whose name or file has one of these words
python -m tests.mutants --list          their names and tests
"""

from __future__ import annotations

import argparse
import sys

from tests.mutants.defences import MUTANTS
from tests.mutants.mutant import Mutant, MutantError
from tests.mutants.scratch import Result, Scratch, scratch


def chosen(words: list[str], *, quick: bool) -> list[Mutant]:
    """Return the mutants that were asked for."""
    asked = [one for one in MUTANTS if one.quick or not quick]
    return [one for one in asked if not words or any(word in f"{one.name} {one.file}" for word in words)]


def run(mutants: list[Mutant]) -> list[Result]:
    """Try mutants, and say what comes of each. Raises MutantError."""
    with scratch() as copy:
        _require_passing(copy, mutants)
        results = []
        for mutant in mutants:
            result = copy.tried(mutant)
            results.append(result)
            print(f"{result.outcome}, {result.seconds:.1f} s: {mutant.name} ({mutant.file})", flush=True)
            if result.outcome != "noticed":
                print(f"    {' '.join(mutant.tests)}\n{result.output}", flush=True)
    return results


def _require_passing(copy: Scratch, mutants: list[Mutant]) -> None:
    passed, output = copy.passes(sorted({test for mutant in mutants for test in mutant.tests}))
    if not passed:
        raise MutantError(f"their tests fail with all defences on, so they can notice nothing:\n{output}")


def main() -> None:
    """Run; exit with 1 if a mutant was not noticed, with 2 if they cannot be tried."""
    parser = argparse.ArgumentParser(description="Take defences away one at a time: a test must notice each.")
    parser.add_argument("words", nargs="*", help="only those whose name or file has one of these")
    parser.add_argument("--quick", action="store_true", help="the sample that make test tries")
    parser.add_argument("--list", action="store_true", help="list them")
    read = parser.parse_args()
    mutants = chosen(read.words, quick=read.quick)
    if read.list:
        for mutant in mutants:
            print(f"{mutant.name}: {mutant.file}: {' '.join(mutant.tests)}")
        return
    try:
        results = run(mutants)
    except MutantError as error:
        sys.exit(str(error))
    noticed = sum(result.outcome == "noticed" for result in results)
    print(f"mutants: {len(results)} made, {noticed} noticed")
    sys.exit(0 if results and noticed == len(results) else 1)


if __name__ == "__main__":
    main()
